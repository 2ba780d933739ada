"""A bank of images for the denoising training: photographs and procedural renderings."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsm_fast.data.photographs import load_photographs
from vsm_fast.data.procedural import make_subject, render, sample_cameras

_log = logging.getLogger(__name__)
_CHUNK = 50


def _render_chunk(
    seed: int, first: int, count: int, textures: list[NDArray[np.uint8]], size: int
) -> NDArray[np.uint8]:
    images = np.empty((count, size, size, 3), np.uint8)
    for slot in range(count):
        rng = np.random.default_rng((seed, first + slot))
        subject = make_subject(rng, textures)
        camera, _ = sample_cameras(rng)
        background = textures[rng.integers(len(textures))] if rng.random() < 0.7 else None
        images[slot] = render(subject, camera, rng, size=size, background=background).pixels
    return images


def image_bank(
    photos: Path,
    subjects: tuple[str, ...],
    *,
    renderings: int,
    photo_weight: int,
    size: int = 256,
    seed: int = 0,
    workers: int = 2,
) -> list[NDArray[np.uint8]]:
    """Photographs of some subjects, repeated, and renderings; uint8 [H, W, 3] each.

    Args:
        photos: Root of the photographs.
        subjects: Sub-folders that may be read.
        renderings: Number of procedural images of ``size`` pixels.
        photo_weight: How often each photograph stands in the bank, which is drawn uniformly.
        size: Side of a rendering in pixels.
        seed: Seed of the renderings.
        workers: Processes that render.
    """
    textures = [photo.pixels for photo in load_photographs(photos, subjects)]
    starts = range(0, renderings, _CHUNK)
    with ProcessPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(_render_chunk, seed, first, min(_CHUNK, renderings - first), textures, size)
            for first in starts
        ]
        rendered = [image for job in jobs for image in job.result()]
    _log.info("bank: %d photographs, %d renderings", len(textures), len(rendered))
    return textures * photo_weight + rendered
