"""Small controlled pairs and a small model, for the tests of evaluation and baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_models import aggregation_pair, config_of, pixel_unet, write_folder

from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.model.unet import UNetFeatures

KINDS = ("none", "recolour", "pattern", "other subject")


def made_pair(
    number: int = 0, kind: str | None = None, subject: str | None = None, **changes: object
) -> ControlledPair:
    """A textured disc before two backgrounds; of ``number % 4`` follows what was altered."""
    rng = np.random.default_rng(number)
    kind = KINDS[number % 4] if kind is None else kind
    ys, xs = np.mgrid[:48, :48]
    mask_1, mask_2 = np.hypot(ys - 24, xs - 22) < 17, np.hypot(ys - 22, xs - 25) < 18
    texture = rng.integers(40, 216, (6, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    original_1, original_2 = (
        np.where(mask[..., None], texture, rng.integers(0, 256, 3, np.uint8)).astype(np.uint8)
        for mask in (mask_1, mask_2)
    )
    altered, part = original_1.copy(), np.zeros_like(mask_1)
    if kind == "other subject":
        part = mask_1
        altered[part] = rng.integers(0, 256, (int(part.sum()), 3))
    elif kind != "none":
        part = mask_1 & (xs < 12 + 18 * rng.random())
        altered[part] = 255 - altered[part]
    fields: dict[str, object] = {
        "id": f"pair-{number}",
        "subject": ("cup", "shoe")[number % 3 == 0] if subject is None else subject,
        "view": "photo",
        "kind": kind,
        "original_1": original_1,
        "original_2": original_2,
        "altered_1": altered,
        "mask_1": mask_1,
        "mask_2": mask_2,
        "part_1": part,
    }
    return ControlledPair(**{**fields, **changes})  # type: ignore[arg-type]


def small_model(folder: Path) -> Path:
    """A random model folder: 32 x 32 pixels, 6 x 6 cells."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of()
    channels = UNetFeatures(
        pixel_unet(), config.backbone.levels, config.backbone.timestep, pixel_unshuffle=2
    ).level_channels
    write_folder(folder, config, pixel_unet(), *aggregation_pair(channels))
    return folder
