"""The controlled pairs that the embedded model is trained on, made in worker processes.

Three quarters are two photographs of one subject, an eighth warps of a photograph, an eighth
procedural renderings. Shard ``n`` depends on ``n`` and on the photographs only.
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

UNSEEN_KIND = "shuffle"  # never trained on: the test figures show how far the model generalises
SEEN_KINDS = tuple(kind for kind in KINDS if kind != UNSEEN_KIND)
# Three hard ones weigh double: what they leave looks much like what was there. More mild ones
# than a quarter teach the network little: most of their loss cannot be helped.
TRAINING_KINDS = (*SEEN_KINDS, *SEEN_KINDS, *("deform", "inpaint", "texture") * 2, *MILD_KINDS)
MASKS = Path(__file__).parent / "masks"  # of photographs that have none beside them
SHARD = 32
_SIZE = 256
_TURNS = ("rendering", "warp", *("photo",) * 6)


def training_photographs(root: Path) -> list[Photograph]:
    """The photographs of the training subjects, with our masks where they have none."""
    return load_photographs(root, splits.TRAIN, masks=MASKS)


def make_examples(
    photos: Path,
    folder: Path,
    shards: int,
    backbone: BackboneConfig,
    grid: tuple[int, int],
    workers: int,
) -> list[Path]:
    """Make the shards that are missing.

    Args:
        photos: DreamBooth photographs, one sub-folder per subject.
        folder: Where ``NNNN.safetensors`` go.
        shards: How many, of 32 pairs each; a few pairs have too small a subject and drop out.
        backbone: How the model frames its images.
        grid: (rows, columns) of the descriptors.
        workers: Processes.

    Returns:
        The paths of all shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}.safetensors" for number in range(shards)]
    missing = [(n, path, backbone, grid) for n, path in enumerate(paths) if not path.exists()]
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_load_sources, initargs=(photos,)
    ) as pool:
        for done, _ in enumerate(pool.map(_make_shard, missing), start=1):
            _log.info("examples: shard %d of %d", done, len(missing))
    return paths


_photographs: list[Photograph] = []  # of a worker process


def _load_sources(photos: Path) -> None:
    cv2.setNumThreads(1)  # the workers are the parallelism
    _photographs[:] = training_photographs(photos)


def _make_shard(task: tuple[int, Path, BackboneConfig, tuple[int, int]]) -> None:
    shard, path, backbone, grid = task
    made = []
    for number in range(shard * SHARD, (shard + 1) * SHARD):
        rng = np.random.default_rng((2, number))
        example = training_example(_pair(number, rng), rng, backbone, grid)
        if example is not None:
            made.append(example)
    save_examples(made, path)


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
