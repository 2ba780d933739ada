"""Losses of the joint training against float64 loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from recipes.tiny.metric_losses import (
    PairCells,
    PairViews,
    SimilarityCurve,
    exact_pair_losses,
    other_subject_loss,
    photograph_pair_losses,
)

CELLS, CHANNELS = 30, 8


def _views(seed: int, *, second: bool = True) -> PairViews:
    generator = torch.Generator().manual_seed(seed)
    rows = [
        normalize(torch.randn(CELLS, CHANNELS, generator=generator, dtype=torch.float64), dim=1)
        for _ in range(4)
    ]
    return PairViews(rows[0], rows[1], rows[2], rows[3] if second else None)


def _cells(*, exact: bool = True) -> PairCells:
    rng = np.random.default_rng(3)
    subject_1, subject_2 = rng.random((2, CELLS)) < 0.9
    part = np.where(rng.random(CELLS) < 0.4, rng.uniform(0.6, 1, CELLS), 0.0)
    part[0], subject_1[0] = 0.3, True  # neither clean nor hit
    changed = rng.random(CELLS) < 0.8
    landing = rng.integers(0, CELLS, CELLS)
    landing[~subject_1 | ~subject_2[landing]] = -1
    match = np.full(CELLS, -1)
    for source, target in enumerate(landing.tolist()):
        if target >= 0 and target not in match.tolist():
            match[source] = target
    arrays = (subject_1, subject_2, part, changed, match, landing)
    return PairCells(*map(torch.from_numpy, arrays), exact)


def _curve() -> SimilarityCurve:
    return SimilarityCurve(6.0, 0.4).double()


def _probability(similarity: float) -> float:
    return 1 / (1 + math.exp(-6.0 * (similarity - 0.4)))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _balanced(unaltered: list[float], altered: list[float]) -> float:
    good = _mean([-math.log(_probability(v)) for v in unaltered])
    bad = _mean([-math.log(1 - _probability(v)) for v in altered])
    return 0.5 * (good + min(1.0, len(altered) / 40) * bad)


def _cross_entropy(query: np.ndarray, key: np.ndarray) -> float:
    total = []
    for rows, columns in ((query, key), (key, query)):
        for n in range(len(rows)):
            logits = [float(rows[n] @ columns[m]) / 0.07 for m in range(len(columns))]
            total.append(math.log(sum(math.exp(v) for v in logits)) - logits[n])
    return _mean(total)


def _nearest(query: np.ndarray, keys: np.ndarray) -> float:
    return max(float(query @ key) for key in keys)


@pytest.mark.parametrize("second", [True, False])
def test_exact_pairs_against_loops(second: bool) -> None:
    semantic, visual, cells = _views(1), _views(2, second=second), _cells()
    losses = exact_pair_losses(semantic, visual, cells, _curve())
    s1, s2, sa = (v.numpy() for v in (semantic.original_1, semantic.original_2, semantic.altered_1))
    v1, v2, va = (v.numpy() for v in (visual.original_1, visual.original_2, visual.altered_1))
    on_1, on_2 = cells.subject_1.numpy(), cells.subject_2.numpy()
    part, match, landing = cells.part.numpy(), cells.match.numpy(), cells.landing.numpy()
    hit = [on_1[i] and part[i] > 0.5 and bool(cells.changed[i]) for i in range(CELLS)]
    clean = [on_1[i] and part[i] < 0.05 for i in range(CELLS)]
    every = [i for i in range(CELLS) if match[i] >= 0]
    inside, outside = [i for i in every if hit[i]], [i for i in every if clean[i]]
    assert len(inside) >= 3
    assert len(outside) >= 3
    to = match
    expected = 0.5 * (
        _cross_entropy(s1[every], s2[to[every]]) + _cross_entropy(sa[every], s2[to[every]])
    )
    assert losses["semantic"].item() == pytest.approx(expected, rel=1e-9)
    expected = 0.5 * _cross_entropy(va[outside], v2[to[outside]])
    expected += 0.25 * _cross_entropy(v1[inside], v2[to[inside]])
    reference = v2[on_2]
    forward = [_nearest(va[i], reference) for i in range(CELLS)]
    swapped = [_nearest(v2[i], va[on_1]) for i in range(CELLS)]
    seen = [
        0.5 * (forward[i] + float(va[i] @ v2[landing[i]]))
        for i in range(CELLS)
        if landing[i] >= 0 and clean[i]
    ]
    point = 0.6 * _balanced(seen, [forward[i] for i in range(CELLS) if hit[i]])
    point += 0.4 * _balanced([swapped[to[i]] for i in outside], [swapped[to[i]] for i in inside])
    point += 0.15 * _mean([-math.log(_probability(_nearest(v1[i], reference))) for i in inside])
    if second:
        assert visual.altered_2 is not None
        vb = visual.altered_2.numpy()
        expected += 0.25 * _cross_entropy(va[inside], vb[to[inside]])
        both = [-math.log(_probability(_nearest(va[i], vb[on_2]))) for i in inside]
        point += 0.15 * _mean(both)
    assert losses["visual"].item() == pytest.approx(expected, rel=1e-9)
    assert losses["point"].item() == pytest.approx(point, rel=1e-6)
    judged = [i for i in range(CELLS) if landing[i] >= 0 and (clean[i] or hit[i])]
    assert ("score" in losses) == (len(judged) > 20)


def test_photographs_against_loops() -> None:
    visual, cells = _views(5), _cells(exact=False)
    losses = photograph_pair_losses(visual, cells, _curve())
    va, v2 = visual.altered_1.numpy(), visual.original_2.numpy()
    on_1, part = cells.subject_1.numpy(), cells.part.numpy()
    similarity = [_nearest(va[i], v2[cells.subject_2.numpy()]) for i in range(CELLS)]
    clean = sorted(
        (similarity[i] for i in range(CELLS) if on_1[i] and part[i] < 0.05), reverse=True
    )
    hit = [similarity[i] for i in range(CELLS) if bool(cells.hit[i])]
    expected = _balanced(clean[: int(0.85 * len(clean))], hit)
    assert losses["photo_point"].item() == pytest.approx(expected, rel=1e-6)
    score = _mean([_probability(similarity[i]) for i in range(CELLS) if on_1[i]])
    share = 1 - _mean([part[i] for i in range(CELLS) if on_1[i]])
    smooth = 0.2 + 0.8 * score  # initial floor and span
    assert losses["photo_score"].item() == pytest.approx((smooth - share) ** 2, rel=1e-6)


def test_another_subject_is_pushed_below_the_curve() -> None:
    views = _views(6)
    value = other_subject_loss(views.altered_1, views.original_2, _curve()).item()
    query, keys = views.altered_1.numpy(), views.original_2.numpy()
    expected = _mean([-math.log(1 - _probability(_nearest(row, keys))) for row in query])
    assert value == pytest.approx(expected, rel=1e-6)


def test_an_unaltered_pair_has_finite_losses_and_gradients() -> None:
    cells = _cells()
    empty = PairCells(
        cells.subject_1, cells.subject_2, torch.zeros(CELLS), cells.changed,
        cells.match, cells.landing, True,
    )  # fmt: skip
    curve, views = _curve(), _views(7)
    leaf = views.altered_1.clone().requires_grad_(True)
    visual = PairViews(views.original_1, views.original_2, leaf, None)
    losses = exact_pair_losses(_views(1), visual, empty, curve)
    sum(losses.values(), torch.zeros(())).backward()
    assert all(math.isfinite(value.item()) for value in losses.values())
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert curve.threshold.grad is not None


def test_gradients() -> None:
    curve, cells, semantic, other = _curve(), _cells(), _views(1), _views(2)

    def loss(altered: torch.Tensor) -> torch.Tensor:
        visual = PairViews(other.original_1, other.original_2, altered, other.altered_2)
        losses = exact_pair_losses(semantic, visual, cells, curve)
        return losses["point"] + losses["visual"]

    assert torch.autograd.gradcheck(loss, (other.altered_1.clone().requires_grad_(True),))
