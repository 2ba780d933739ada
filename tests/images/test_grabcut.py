"""GrabCut: what is central and unlike the rest, the same in every thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from vsm_fast.images.grabcut import GrabCutMasker
from vsm_fast.images.loading import load_image
from vsm_fast.images.masks import load_mask

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTOGRAPHS = sorted(EXAMPLES.glob("*/*/*.jpg"))


def overlap(found, wanted):
    return (found & wanted).sum() / (found | wanted).sum()


@pytest.mark.parametrize("shape", [(300, 400), (60, 80), (900, 120)])
def test_a_subject_unlike_its_surroundings(shape):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 30, (*shape, 3), np.uint8) + np.array([20, 110, 30], np.uint8)
    y, x = np.mgrid[: shape[0], : shape[1]]
    disc = (x - 0.52 * shape[1]) ** 2 + (y - 0.46 * shape[0]) ** 2 < (0.27 * min(shape)) ** 2
    pixels[disc] = rng.integers(0, 30, (disc.sum(), 3)) + np.array([210, 120, 20])
    found = GrabCutMasker()(pixels, "disc")
    assert (found.dtype, found.shape) == (np.bool_, shape)
    assert overlap(found, disc) > 0.85


def test_shipped_photographs():
    overlaps = []
    for path in PHOTOGRAPHS:
        image = load_image(path)
        mask = load_mask(path.with_name(f"{path.stem}_mask.png"), image.size)
        overlaps.append(overlap(GrabCutMasker()(image.pixels, ""), mask))
    assert len(overlaps) == 9
    assert np.mean(overlaps) > 0.8


def test_every_thread_finds_the_same():
    images = [load_image(path).pixels for path in PHOTOGRAPHS[:4]]
    masker = GrabCutMasker()
    wanted = [masker(pixels, "") for pixels in images]
    order = [*range(4), *reversed(range(4))]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: masker(images[number], ""), order))
    for number, mask in zip(order, found, strict=True):
        np.testing.assert_array_equal(mask, wanted[number])


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (20, 20_000), (900, 2), (64, 64)])
def test_nothing_is_found_where_nothing_is(shape):
    assert GrabCutMasker()(np.full((*shape, 3), 127, np.uint8), "x") is None
