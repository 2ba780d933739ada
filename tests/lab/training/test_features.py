from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vsm_fast.lab.training.examples import TrainingExample
from vsm_fast.lab.training.features import (
    FeatureSettings,
    PairFeatures,
    pair_features,
    stored_levels,
)

SIZE, GRID = 32, (8, 8)
STILL = FeatureSettings(flips=False, jitter=0.0)


def _example(seed: int) -> TrainingExample:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (4, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    pictures[2] = pictures[0]
    on = torch.ones(64, dtype=torch.bool)
    cells = torch.arange(64)
    return TrainingExample("cup", pictures, False, on, on, torch.zeros(64), cells, cells, True)


def _rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(number) for number in range(count)]


class _Levels(nn.Module):
    """Pixels and their means: one level finer than the grid, one coarser."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return images[:, :2], torch.nn.functional.avg_pool2d(images, 8)


def test_cells_are_altered_clean_or_between() -> None:
    example = _example(0)
    example.part[:5] = torch.tensor([0.0, 0.05, 0.25, 0.5, 1.0])
    features = pair_features(_Levels(), [example], GRID, _rngs(1), STILL)[0]
    assert features.part[:6].tolist() == [0, 0, -1, 1, 1, 0]


def test_levels_are_stored_as_the_networks_read_them() -> None:
    images = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    fine, coarse = stored_levels(_Levels(), images, GRID)
    assert (fine.shape, coarse.shape) == ((2, 2, 8, 8), (2, 3, 4, 4))
    assert fine.dtype == torch.float16
    wanted = torch.nn.functional.interpolate(images[:, :2], GRID, mode="bilinear")
    torch.testing.assert_close(fine.float(), wanted, atol=1e-3, rtol=1e-3)


def test_features_that_float16_cannot_hold_are_refused() -> None:
    class Large(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (images * 1e6,)

    with pytest.raises(FloatingPointError, match="float16 cannot"):
        stored_levels(Large(), torch.ones(1, 3, 8, 8), GRID)


def test_views_and_pairs_stay_apart() -> None:
    examples = [_example(0), _example(1)]
    made = pair_features(_Levels(), examples, GRID, _rngs(2), STILL)
    alone = pair_features(_Levels(), examples[1:], GRID, _rngs(2)[1:], STILL)[0]
    for number, level in enumerate(made[1].levels):
        assert torch.equal(level, alone.levels[number])
        assert torch.equal(level[0], level[2])  # altered = original here
        assert not torch.equal(level[0], level[1])
    assert made[0].match.tolist() == list(range(64))
    back = PairFeatures.of_row(made[0].row())
    assert all(torch.equal(a, b) for a, b in zip(back.levels, made[0].levels, strict=True))
    assert torch.equal(back.match, made[0].match)


def test_flips_mirror_matches_and_features_alike() -> None:
    """With view 2 equal to view 1, matched cells have equal features however a visit is drawn."""
    example = _example(3)
    example.pictures[1] = example.pictures[0]
    for seed in range(6):
        rngs = [np.random.default_rng(seed)]
        visit = pair_features(_Levels(), [example], GRID, rngs, replace(STILL, flips=True))[0]
        fine = visit.levels[0].flatten(2)
        assert torch.equal(fine[0], fine[1][:, visit.match])


def test_two_photographs_are_matched_in_feature_space() -> None:
    """View 2 is view 1 moved down by two cells: so are the matches that peak."""
    example = _example(0)
    example.pictures[1] = example.pictures[0].roll(8, 1)
    unknown = torch.full((64,), -1)
    free = replace(example, exact=False, match=unknown, landing=unknown)
    settings = replace(STILL, match_similarity=0.9, match_skewness=-1.0)

    class Cells(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (torch.nn.functional.pixel_unshuffle(images, 4),)

    visit = pair_features(Cells(), [free], GRID, _rngs(1), settings)[0]
    assert visit.match.tolist() == [(cell + 16) % 64 for cell in range(64)]
    # Points that the pair brings along are preferred, unless they are not wanted.
    kept = pair_features(Cells(), [example], GRID, _rngs(1), settings)[0]
    assert kept.match.tolist() == list(range(64))
    again = pair_features(
        Cells(), [example], GRID, _rngs(1), replace(settings, known_points=False)
    )[0]
    assert torch.equal(again.match, visit.match)
    strict = replace(settings, match_skewness=1e3)
    assert (pair_features(Cells(), [free], GRID, _rngs(1), strict)[0].match == -1).all()


def test_the_matching_level_is_the_papers_or_the_first() -> None:
    assert FeatureSettings().level_of(("us3", "us6", "us8")) == 1
    assert FeatureSettings().level_of(("us2", "us3")) == 0
    assert FeatureSettings(match_level="us3").level_of(("us2", "us3")) == 1
    with pytest.raises(ValueError, match="'us9' is not among the model's levels us2, us3"):
        FeatureSettings(match_level="us9").level_of(("us2", "us3"))


@pytest.mark.parametrize(("name", "value"), [("variants", 0), ("jitter", 1.0)])
def test_settings_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        FeatureSettings(**{name: value})  # type: ignore[arg-type]
