from __future__ import annotations

import math

import pytest
import torch

from vsm_fast.lab.training.losses import matched_cross_entropy, nearest_margin


def _unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=-1)


def _oracle(query: torch.Tensor, key: torch.Tensor, sign: float) -> float:
    """Cross-entropy both ways in plain loops, similarities over 0.07."""
    count, total = len(query), 0.0
    for first, second in ((query, key), (key, query)):
        for i in range(count):
            logits = [sign * float(first[i] @ second[j]) / 0.07 for j in range(count)]
            top = max(logits)
            log_sum = top + math.log(sum(math.exp(x - top) for x in logits))
            total += (log_sum - logits[i]) / count / 2
    return total


@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_cross_entropy_equals_plain_loops(count: int, negate: bool) -> None:
    query, key = _unit(count, 8), _unit(count, 8, seed=1)
    expected = _oracle(query, key, -1.0 if negate else 1.0)
    assert matched_cross_entropy(query, key, negate=negate).item() == pytest.approx(expected)


def test_negation_drives_matched_rows_apart() -> None:
    query = _unit(5, 8).requires_grad_()
    key = _unit(5, 8, seed=1)
    before = (query * key).sum().item()
    matched_cross_entropy(query, key, negate=True).backward()
    assert query.grad is not None
    moved = query.detach() - 0.01 * query.grad
    assert (moved * key).sum().item() < before


@pytest.mark.parametrize("negate", [False, True])
def test_gradients_of_cross_entropy(negate: bool) -> None:
    query, key = _unit(4, 6).requires_grad_(), _unit(4, 6, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: matched_cross_entropy(a, b, negate=negate), (query, key)
    )


def test_nothing_matched_costs_nothing_but_keeps_the_graph() -> None:
    query = _unit(0, 6).requires_grad_()
    loss = matched_cross_entropy(query, _unit(0, 6))
    loss.backward()
    assert loss.item() == 0
    assert nearest_margin(query, _unit(3, 6), low=0.3, matched=False).item() == 0


def test_margin_of_matched_points_is_at_their_match() -> None:
    axes = torch.eye(3, dtype=torch.float64)
    query = torch.stack([axes[0], axes[1]])
    key = torch.stack([axes[0], axes[2]])
    # Similarities 1 and 0 against the wanted 0.7: hinges 0 and 0.7.
    assert nearest_margin(query, key, low=0.3, matched=True).item() == pytest.approx(0.35)


def test_margin_of_altered_points_is_at_their_nearest() -> None:
    axes = torch.eye(3, dtype=torch.float64)
    query = torch.stack([axes[0], axes[1]])
    key = torch.stack([axes[2], axes[1], axes[2]])
    # Nearest similarities 0 and 1 against the allowed 0.3: hinges 0 and 0.7.
    assert nearest_margin(query, key, low=0.3, matched=False).item() == pytest.approx(0.35)
