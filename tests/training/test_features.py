from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from vsm_fast.data.triplets import Triplet
from vsm_fast.training.aggregation import AggregationTraining, learning_rate_at, triplet_loss
from vsm_fast.training.features import cell_matches, cell_part, triplet_features

SIZE, GRID = 32, (8, 8)


def _triplet(shift: int = 0) -> Triplet:
    """View 2 is view 1 moved to the right by ``shift`` pixels."""
    picture = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[8:24, 8:20] = True
    part = np.zeros_like(mask)
    part[8:12, 8:20] = True
    x, y = np.meshgrid(np.arange(SIZE, dtype=np.float32), np.arange(SIZE, dtype=np.float32))
    flow = np.stack([x + shift, y], axis=-1)
    flow[~mask] = np.nan
    second = np.roll(picture, shift, axis=1)
    mask_2 = np.roll(mask, shift, axis=1)
    return Triplet(picture, second, picture, mask, mask_2, part, flow, "none")


def test_cells_match_themselves_without_a_shift() -> None:
    matched = cell_matches(_triplet(), GRID).reshape(GRID)
    expected = np.full(GRID, -1)
    expected[2:6, 2:5] = np.arange(64).reshape(GRID)[2:6, 2:5]
    np.testing.assert_array_equal(matched, expected)


def test_cells_follow_the_flow() -> None:
    still, moved = cell_matches(_triplet(), GRID), cell_matches(_triplet(4), GRID)
    inside = still >= 0
    np.testing.assert_array_equal(moved[inside], still[inside] + 1)


def test_each_target_cell_has_one_source() -> None:
    triplet = _triplet()
    triplet.flow[..., 0] = np.where(triplet.mask_1, 10.0, np.nan)  # all columns land in one
    matched = cell_matches(triplet, GRID)
    kept = matched[matched >= 0]
    assert len(kept) == len(set(kept.tolist())) == 4


def test_cells_are_altered_clean_or_between() -> None:
    state = cell_part(_triplet(), GRID).reshape(GRID)
    assert (state[2, 2:5] == 1).all()
    assert (state[3:] == 0).all()
    triplet = _triplet()
    triplet.part[:] = False
    triplet.part[8:9, 8:12] = True  # a quarter of one cell
    assert cell_part(triplet, GRID).reshape(GRID)[2, 2] == -1


class _Levels(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return images[:, :2], torch.nn.functional.avg_pool2d(images, 8)


def test_features_keep_views_and_levels_apart() -> None:
    made = triplet_features(_Levels(), [_triplet(4), _triplet()], GRID)
    assert made.features.shape == (2, 3, 5, 8, 8)
    assert torch.equal(made.features[:, 0], made.features[:, 2])  # altered = original here
    assert not torch.equal(made.features[0, 0], made.features[0, 1])
    assert made.mask_2.sum(1).tolist() == [12, 12]


def test_the_altered_pass_of_the_loss_pushes_the_altered_part_away() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.nn.functional.normalize(torch.randn(1, 8, 4, 4, generator=generator), dim=1)
    visual = base.repeat(3, 1, 1, 1).requires_grad_()
    target, part = torch.arange(16), torch.zeros(16, dtype=torch.int8)
    part[:4] = 1
    terms = triplet_loss(
        base.repeat(3, 1, 1, 1), visual, target, part, torch.ones(16, dtype=torch.bool),
        AggregationTraining(),
    )  # fmt: skip
    (terms["visual"] + terms["margin"]).backward()
    assert visual.grad is not None
    # A step against the gradient lowers the similarity of altered cells to their match in view
    # 2 and not that of clean ones.
    moved = visual.detach() - 0.05 * visual.grad
    change = ((moved[2] - visual.detach()[2]) * base[0]).sum(0).flatten()
    assert (change[:4] < 0).all()
    assert (change[4:] > change[:4].max()).all()


def test_learning_rate_warms_up_and_drops_twice() -> None:
    config = AggregationTraining(steps=1000)
    rates = [learning_rate_at(step, config) for step in (0, 100, 700, 900)]
    np.testing.assert_allclose(rates, [2e-5, 1e-3, 1e-4, 1e-5])
