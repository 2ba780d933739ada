"""Controlled pairs for the training of the embedded model, generated in worker processes.

Three quarters are two photographs of one subject, one eighth warps of a photograph, one eighth
procedural renderings. Shard ``n`` depends on ``n`` and the photographs only.
"""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from recipes.tiny import splits
from recipes.tiny.example_shards import save_examples
from recipes.tiny.mild_alterations import MILD_KINDS
from recipes.tiny.pair_sources import Donors, photograph_pair, rendered_pair, warp_pair
from vsm_fast.lab.pairs.alterations import KINDS
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.lab.pairs.photographs import Photograph, load_photographs
from vsm_fast.lab.training.examples import training_example
from vsm_fast.model.config import BackboneConfig

_log = logging.getLogger(__name__)

UNSEEN_KIND = "shuffle"  # excluded from training: its test figures show generalisation
SEEN_KINDS = tuple(kind for kind in KINDS if kind != UNSEEN_KIND)
# Three hard kinds count double: their results resemble the original. More than a quarter of mild
# kinds would not help: most of their loss is irreducible.
TRAINING_KINDS = (*SEEN_KINDS, *SEEN_KINDS, *("deform", "inpaint", "texture") * 2, *MILD_KINDS)
MASKS = Path(__file__).parent / "masks"  # for photographs without a mask
SHARD = 32
_SIZE = 256
_TURNS = ("rendering", "warp", *("photo",) * 6)


def training_photographs(root: Path) -> list[Photograph]:
    """Load the photographs of the training subjects, with our masks for those without."""
    return load_photographs(root, splits.TRAIN, masks=MASKS)


def make_examples(
    photos: Path,
    folder: Path,
    shards: int,
    backbone: BackboneConfig,
    grid: tuple[int, int],
    workers: int,
) -> list[Path]:
    """Generate the missing shards.

    Args:
        photos: DreamBooth photographs, one sub-folder per subject.
        folder: Folder of ``NNNN.safetensors``.
        shards: Number of shards of 32 pairs; a few pairs with a very small subject drop out.
        backbone: Framing of the model.
        grid: (rows, columns) of the descriptors.
        workers: Processes.

    Returns:
        The paths of all shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}.safetensors" for number in range(shards)]
    missing = [(n, path, backbone, grid) for n, path in enumerate(paths) if not path.exists()]
    if not missing:
        return paths
    with ProcessPoolExecutor(
        min(workers, len(missing)),
        mp_context=get_context("spawn"),
        initializer=_load_sources,
        initargs=(photos,),
    ) as pool:
        for done, _ in enumerate(pool.map(_make_shard, missing), start=1):
            _log.info("examples: shard %d of %d", done, len(missing))
    return paths


_photographs: list[Photograph] = []  # of a worker process


def _load_sources(photos: Path) -> None:
    cv2.setNumThreads(1)  # parallelism comes from the processes
    _photographs[:] = training_photographs(photos)


def _make_shard(task: tuple[int, Path, BackboneConfig, tuple[int, int]]) -> None:
    shard, path, backbone, grid = task
    examples = []
    for number in range(shard * SHARD, (shard + 1) * SHARD):
        rng = np.random.default_rng((2, number))
        example = training_example(_pair(number, rng), rng, backbone, grid)
        if example is not None:
            examples.append(example)
    save_examples(examples, path)


def _pair(number: int, rng: np.random.Generator) -> ControlledPair:
    masked = [photo for photo in _photographs if photo.mask is not None]
    donors = Donors([photo.pixels for photo in _photographs])
    turn, name = _TURNS[number % len(_TURNS)], f"training-{number:06d}"
    if turn == "rendering":
        return rendered_pair(rng, donors, TRAINING_KINDS, _SIZE, name)
    photo = masked[int(rng.integers(len(masked)))]
    siblings = [p for p in masked if p.subject == photo.subject and p.name != photo.name]
    if turn == "warp" or not siblings:
        return warp_pair(photo, rng, donors, TRAINING_KINDS, _SIZE, name)
    other = siblings[int(rng.integers(len(siblings)))]
    return photograph_pair((photo, other), rng, donors, TRAINING_KINDS, _SIZE, name)
