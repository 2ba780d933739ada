from __future__ import annotations

import pytest
import torch
from scipy.stats import skew

from vsm_fast.lab.pairs.semantic_matches import (
    row_statistics,
    trusted_matches,
)


def _unit(rows: int, seed: int, channels: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, channels, generator=generator), dim=1)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 700), (600, 33), (256, 256)])
def test_blocks_agree_with_the_matrix(rows: int, columns: int) -> None:
    source, target = _unit(rows, 0), _unit(columns, 1)
    whole, blocks = row_statistics(source, target, rows), row_statistics(source, target, 7)
    torch.testing.assert_close(blocks.similarity, whole.similarity)
    torch.testing.assert_close(blocks.skewness, whole.skewness, atol=1e-4, rtol=1e-4)
    assert torch.equal(blocks.target, whole.target)


def test_skewness_is_the_third_standardised_moment() -> None:
    source, target = _unit(20, 2), _unit(90, 3)
    expected = skew((source @ target.T).numpy(), axis=1)
    torch.testing.assert_close(
        row_statistics(source, target).skewness, torch.from_numpy(expected), atol=1e-4, rtol=1e-4
    )


def test_statistics_of_flat_rows_and_without_targets() -> None:
    flat = torch.ones(3, 4) / 2
    assert row_statistics(flat, flat[:2]).skewness.tolist() == [0, 0, 0]
    nothing = row_statistics(flat, flat[:0])
    assert nothing.similarity.tolist() == [-1, -1, -1]
    assert nothing.skewness.isnan().all()


def test_peaked_rows_are_trusted_and_flat_rows_are_not() -> None:
    """Point 0 resembles one target of many; point 1 resembles all."""
    target = torch.zeros(40, 3)
    target[:, 1] = 1
    target[7] = torch.tensor([1.0, 0, 0])
    source = torch.tensor([[1.0, 0, 0], [0.05, 0.99, 0.1]])
    source = torch.nn.functional.normalize(source, dim=1)
    assert trusted_matches(source, target, 0.7, 1.3).tolist() == [[0, 7]]
    assert trusted_matches(source, target, 0.7, None).tolist() == [[0, 7], [1, 0]]


def test_duplicate_matches_are_resolved() -> None:
    target = torch.eye(3)
    source = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0.2, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0.5]]), dim=1
    )
    assert trusted_matches(source, target, 0.5, None).tolist() == [[1, 0], [3, 1]]
