from __future__ import annotations

import numpy as np
import pytest

from recipes.tiny.mild_alterations import MILD_KINDS
from recipes.tiny.pair_sources import Donors, photograph_pair, rendered_pair, warp_pair
from vsm_fast.lab.pairs.alterations import KINDS
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.lab.pairs.photographs import Photograph

SIZE = 64


def _photo(seed: int) -> Photograph:
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(0, 256, (12, 15, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    mask = np.zeros((120, 150), bool)
    mask[30:90, 40:110] = True
    return Photograph("cup", f"{seed:02d}", pixels, mask)


DONORS = Donors([_photo(9).pixels, _photo(8).pixels])


def _make(source: str, seed: int, kinds: tuple[str, ...] = ("recolour",)) -> ControlledPair:
    rng = np.random.default_rng(seed)
    if source == "warp":
        return warp_pair(_photo(0), rng, DONORS, kinds, SIZE, "a")
    if source == "photograph":
        return photograph_pair((_photo(0), _photo(1)), rng, DONORS, kinds, SIZE, "a")
    return rendered_pair(rng, DONORS, kinds, SIZE, "a")


@pytest.mark.parametrize("source", ["warp", "photograph", "rendering"])
def test_a_seed_gives_one_pair(source: str) -> None:
    first, again, other = (_make(source, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.altered_1, again.altered_1)
    assert np.array_equal(first.original_2, again.original_2)
    assert not np.array_equal(first.original_2, other.original_2)


@pytest.mark.parametrize("source", ["warp", "photograph", "rendering"])
@pytest.mark.parametrize("seed", range(4))
def test_view_1_differs_in_the_altered_part(source: str, seed: int) -> None:
    """JPEG and blur move the edge of an alteration by a few pixels."""
    pair = _make(source, seed)
    assert pair.part_1.any()
    assert not (pair.part_1 & ~pair.mask_1).any()
    difference = np.abs(pair.altered_1.astype(int) - pair.original_1).mean(axis=2)
    assert difference[pair.part_1].mean() > 4 * difference[~pair.part_1].mean() + 1
    assert 0 < pair.oracle < 1


def test_points_of_a_warp_show_the_same_place() -> None:
    """Colours at matching points agree up to the exposure; those at shifted points do not."""
    matched, shifted = [], []
    for seed in range(6):
        pair = _make("warp", seed)
        assert pair.points is not None
        assert len(pair.points) > 60
        x1, y1, x2, y2 = np.floor(pair.points).astype(int).T
        assert pair.mask_1[y1, x1].all()
        assert pair.mask_2[y2, x2].mean() > 0.95
        a, b = pair.original_1[y1, x1].astype(float), pair.original_2[y2, x2].astype(float)
        matched.append(np.corrcoef(a.ravel(), b.ravel())[0, 1])
        shifted.append(np.corrcoef(a.ravel(), np.roll(b, 7, axis=0).ravel())[0, 1])
    assert np.mean(matched) > 0.8
    assert np.mean(matched) > np.mean(shifted) + 0.3


def test_exact_geometry_alters_view_2_alike() -> None:
    pair = _make("warp", 1)
    assert pair.altered_2 is not None
    assert pair.points is not None
    x1, y1, x2, y2 = np.floor(pair.points).astype(int).T
    changed = np.abs(pair.altered_2.astype(int) - pair.original_2).mean(axis=2)[y2, x2]
    inside = pair.part_1[y1, x1]
    assert changed[inside].mean() > 5 * changed[~inside].mean()
    photographs = _make("photograph", 1)
    assert photographs.points is None
    assert photographs.altered_2 is None
    assert photographs.provenance == {"photographs": ["00", "01"]}


@pytest.mark.parametrize("kind", [*KINDS, *MILD_KINDS])
def test_every_kind_can_be_drawn(kind: str) -> None:
    assert _make("photograph", 2, (kind,)).kind == kind
