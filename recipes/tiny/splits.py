"""Split of the DreamBooth photographs by subject.

No training stage, including the backbone's, sees a photograph of a validation or test subject.
Thresholds are calibrated on ``VALIDATION``; figures are reported on ``TEST``.
"""

from __future__ import annotations

TRAIN = (
    "backpack_dog", "candle", "cat2", "clock", "dog", "dog3", "dog5", "dog6", "duck_toy",
    "monster_toy", "pink_sunglasses", "poop_emoji", "teapot", "vase",
)  # fmt: skip
VALIDATION = ("berry_bowl", "dog8", "fancy_boot", "wolf_plushie")
TEST = ("bear_plushie", "cat", "colorful_sneaker", "robot_toy")
