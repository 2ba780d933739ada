"""A small backbone and small data sets of controlled pairs, for the tests of training runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_models import aggregation_pair, config_of, pixel_unet, write_folder

from vsm_fast.lab.pairs.pair_shards import write_pair_shard
from vsm_fast.lab.pairs.pairs import ControlledPair

SIDE = 48


def write_backbone(folder: Path, **config: object) -> Path:
    """A model folder; its aggregation networks are of no use to a training."""
    folder.mkdir()
    write_folder(folder, config_of(**config), pixel_unet(), *aggregation_pair((24, 8)))
    return folder


def a_pair(seed: int, kind: str = "invert", *, points: bool = True) -> ControlledPair:
    """Two shifted views of random blocks; a share of the subject, drawn by the seed, inverted."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (SIDE // 4, SIDE // 4, 3))
    picture = np.kron(blocks, np.ones((4, 4, 1))).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[6:40, 6:40] = True
    part = np.zeros_like(mask)
    altered, other = picture.copy(), np.roll(picture, (2, 3), (0, 1))
    if kind == "other subject":
        part = mask.copy()
        other = 255 - np.rot90(other)
    elif kind != "none":
        part[6:40, 6 : 6 + int(rng.integers(4, 26))] = True
        altered[part] = 255 - altered[part]
    x, y = np.meshgrid(np.arange(7, 39, 2) + 0.5, np.arange(7, 39, 2) + 0.5)
    first = np.stack([x.ravel(), y.ravel()], axis=1)
    return ControlledPair(
        id=f"{kind}-{seed}", subject=f"subject {seed % 3}", view="warp", kind=kind,
        original_1=picture, original_2=np.ascontiguousarray(other), altered_1=altered, mask_1=mask,
        mask_2=np.roll(mask, (2, 3), (0, 1)), part_1=part,
        points=np.concatenate([first, first + np.array([3, 2])], axis=1).astype(np.float32)
        if points else None,
    )  # fmt: skip


def write_pairs(folder: Path, count: int, seed: int = 0, kinds: tuple[str, ...] = ()) -> Path:
    """``count`` altered pairs, then one of each of ``kinds``."""
    folder.mkdir()
    made = [a_pair(seed + number) for number in range(count)]
    made += [a_pair(seed + count + number, kind) for number, kind in enumerate(kinds)]
    write_pair_shard(made, folder / "0.parquet")
    return folder
