from __future__ import annotations

import numpy as np
import pytest

from vsm_fast.data import splits
from vsm_fast.data.controlled import controlled_pairs, other_subject_pairs
from vsm_fast.data.photographs import Photograph
from vsm_fast.data.triplets import frame_photograph, photograph_triplet, procedural_triplet

SIZE = 64


def _photographs() -> list[Photograph]:
    photos = []
    for subject in ("cup", "shoe"):
        for number in range(2):
            rng = np.random.default_rng(number)
            pixels = rng.integers(0, 256, (80, 100, 3), np.uint8)
            mask = np.zeros((80, 100), bool)
            mask[20:60, 30 + number : 75] = True
            photos.append(Photograph(subject, f"{number:02d}", pixels, mask))
    return photos


def _donors() -> list[np.ndarray]:
    return [np.random.default_rng(9).integers(0, 256, (SIZE, SIZE, 3), np.uint8)]


def test_no_subject_is_in_two_splits() -> None:
    everything = [*splits.TRAIN, *splits.VALIDATION, *splits.TEST]
    assert len(everything) == len(set(everything)) == 22


def test_the_oracle_is_the_unaltered_share_of_the_subject() -> None:
    pairs = list(
        controlled_pairs(_photographs(), _donors(), ("recolour",), repeats=8, seed=0, size=SIZE)
    )
    assert len(pairs) == 4 * 8
    for pair in pairs:
        assert not (pair.part & ~pair.generation_mask).any()
        share = pair.part.sum() / pair.generation_mask.sum()
        assert pair.oracle == pytest.approx(1 - share)
        assert (pair.kind == "none") == (pair.oracle == 1)
    assert {pair.view for pair in pairs} == {"warp", "photo"}
    consistent = [pair for pair in pairs if pair.oracle == 1]
    half = [pair for pair in pairs if abs(pair.oracle - 0.5) <= 0.06]
    assert len(consistent) == 8
    assert len(half) >= 8


def test_pairs_repeat_for_a_seed() -> None:
    def first() -> np.ndarray:
        pairs = controlled_pairs(
            _photographs(), _donors(), ("pattern",), repeats=2, seed=3, size=SIZE
        )
        return next(pairs).reference

    np.testing.assert_array_equal(first(), first())


def test_other_subject_pairs_are_of_two_subjects() -> None:
    photos = _photographs()[:1] + _photographs()[2:3]
    for pair in other_subject_pairs(photos, count=4, seed=0, size=SIZE):
        assert pair.oracle == 0
        assert pair.kind == "other subject"


def test_a_photograph_without_a_mask_cannot_be_framed() -> None:
    photo = Photograph("cup", "00", np.zeros((8, 8, 3), np.uint8), None)
    with pytest.raises(ValueError, match="no mask"):
        frame_photograph(photo, np.random.default_rng(0), SIZE)


@pytest.mark.parametrize("seed", range(4))
def test_a_photograph_triplet_corresponds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    triplet = photograph_triplet(_photographs()[0], rng, _donors(), ("recolour",), SIZE)
    known = np.isfinite(triplet.flow).all(-1)
    assert not (known & ~triplet.mask_1).any()
    landed = np.round(triplet.flow[known]).astype(int)
    inside = ((landed >= 0) & (landed < SIZE)).all(1)
    on_subject = triplet.mask_2[landed[inside, 1], landed[inside, 0]]
    assert on_subject.mean() > 0.95
    assert not (triplet.part & ~triplet.mask_1).any()


def test_a_procedural_triplet_differs_in_its_part_only_up_to_jitter() -> None:
    rng = np.random.default_rng(1)
    triplet = procedural_triplet(rng, _donors(), ("recolour",), SIZE)
    change = np.abs(triplet.altered_1.astype(int) - triplet.original_1).mean(-1)
    assert triplet.part.any()
    assert change[triplet.part].mean() > 5 * max(change[~triplet.part].mean(), 1.0)
