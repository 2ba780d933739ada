"""Batches of distinct images derived from the shipped photographs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from levers import EXAMPLES
from PIL import Image, ImageEnhance

SUBJECTS = ("bear_plushie", "colorful_sneaker", "robot_toy")


@dataclass(frozen=True)
class Batch:
    """Files of references and generated images, and the pairs to score.

    Attributes:
        refs, gens: Images.
        ref_masks, gen_masks: Their subject masks.
        pairs: (index in ``refs``, index in ``gens``) per pair.
    """

    refs: list[Path]
    ref_masks: list[Path]
    gens: list[Path]
    gen_masks: list[Path]
    pairs: list[tuple[int, int]]


def write_batch(folder: Path, references: int, each: int) -> Batch:
    """Write distinct images: ``references`` references with ``each`` generated images."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    refs, gens = [], []
    for number in range(references):
        subject = SUBJECTS[number % len(SUBJECTS)]
        shown = EXAMPLES / "refs" / subject / "reference.jpg"
        refs.append(_variant(shown, folder / f"ref{number:04}", rng))
        for position in range(each):
            photo = ("other_photo", "repainted")[position % 2]
            source = EXAMPLES / "gens" / subject / f"{photo}.jpg"
            gens.append(_variant(source, folder / f"gen{number:04}_{position:04}", rng))
    pairs = [(number // each, number) for number in range(len(gens))]
    return Batch(*map(list, zip(*refs, strict=True)), *map(list, zip(*gens, strict=True)), pairs)


def _variant(source: Path, target: Path, rng: np.random.Generator) -> tuple[Path, Path]:
    """Write a mirrored, cropped and recoloured photograph and its mask."""
    image = Image.open(source).convert("RGB")
    mask = Image.open(source.with_name(f"{source.stem}_mask.png"))
    width, height = image.size
    left, top = rng.integers(0, width // 16), rng.integers(0, height // 16)
    box = (int(left), int(top), width - int(left), height - int(top))
    image, mask = image.crop(box).resize((width, height)), mask.crop(box).resize((width, height))
    if rng.random() < 0.5:
        mirrored = Image.Transpose.FLIP_LEFT_RIGHT
        image, mask = image.transpose(mirrored), mask.transpose(mirrored)
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.8, 1.2))
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.9, 1.1))
    image.save(target.with_suffix(".jpg"), quality=92)
    mask.save(target.with_suffix(".png"))
    return target.with_suffix(".jpg"), target.with_suffix(".png")
