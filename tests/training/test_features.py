from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from vsm_fast.training.aggregation import AggregationTraining, learning_rate_at, pair_loss
from vsm_fast.training.examples import TrainingExample
from vsm_fast.training.features import (
    cell_states,
    load_features,
    pair_features,
    save_features,
)

SIZE, GRID = 32, (8, 8)


def _example(seed: int) -> TrainingExample:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (4, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    pictures[2] = pictures[0]
    on = torch.ones(64, dtype=torch.bool)
    cells = torch.arange(64)
    return TrainingExample("cup", pictures, False, on, on, torch.zeros(64), cells, cells, True)


def test_cells_are_altered_clean_or_between() -> None:
    assert cell_states(torch.tensor([0.0, 0.05, 0.25, 0.5, 1.0])).tolist() == [0, 0, -1, 1, 1]


class _Levels(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return images[:, :2], torch.nn.functional.avg_pool2d(images, 8)


def test_features_keep_views_and_levels_apart(tmp_path) -> None:
    made = pair_features(_Levels(), [_example(0), _example(1)], GRID)
    assert made.features.shape == (2, 3, 5, 8, 8)
    assert torch.equal(made.features[:, 0], made.features[:, 2])  # altered = original here
    assert not torch.equal(made.features[0, 0], made.features[0, 1])
    save_features(made, tmp_path / "0.safetensors")
    save_features(made, tmp_path / "1.safetensors")
    read = load_features(sorted(tmp_path.glob("*")))
    assert len(read) == 4
    assert torch.equal(read.features[2:], made.features)


def test_the_altered_pass_of_the_loss_pushes_the_altered_part_away() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.nn.functional.normalize(torch.randn(1, 8, 4, 4, generator=generator), dim=1)
    visual = base.repeat(3, 1, 1, 1).requires_grad_()
    target, part = torch.arange(16), torch.zeros(16, dtype=torch.int8)
    part[:4] = 1
    terms = pair_loss(
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
