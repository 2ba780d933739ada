from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch

from vsm_fast.lab.training.contrastive import (
    AggregationPair,
    ContrastiveTraining,
    EpochRecord,
    matched_cross_entropy,
    nearest_margin,
    pair_loss,
    train_contrastive,
)
from vsm_fast.lab.training.features import PairFeatures
from vsm_fast.lab.training.rows import RowShards, write_rows
from vsm_fast.model.aggregation import AggregationNetwork

one_thread = tiny_models.one_thread
CELLS, CHANNELS = 36, (6, 4)


def _unit(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(
        torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1
    )


def _pair(seed: int = 0) -> PairFeatures:
    rng = np.random.default_rng(seed)
    match = torch.from_numpy(rng.permutation(CELLS))
    match[::5] = -1
    part = torch.zeros(CELLS, dtype=torch.int8)
    part[:12], part[12:15] = 1, -1
    generator = torch.Generator().manual_seed(seed)
    levels = (
        torch.randn(3, CHANNELS[0], 6, 6, generator=generator).half(),
        torch.randn(3, CHANNELS[1], 3, 3, generator=generator).half(),
    )
    return PairFeatures(levels, match, part, torch.ones(CELLS, dtype=torch.bool))


def _loop_entropy(query: np.ndarray, key: np.ndarray, sign: float, heat: float) -> float:
    """Cross-entropy from query to key and back, label = own row, in plain loops."""
    total = 0.0
    for one, other in ((query, key), (key, query)):
        for i in range(len(one)):
            logits = [sign * float(one[i] @ row) / heat for row in other]
            top = max(logits)
            total += top + math.log(sum(math.exp(x - top) for x in logits)) - logits[i]
    return total / (2 * len(query))


@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_cross_entropy_equals_plain_loops(count: int, negate: bool) -> None:
    query, key = _unit(0, count, 8), _unit(1, count, 8)
    expected = _loop_entropy(query.numpy(), key.numpy(), -1.0 if negate else 1.0, 0.07)
    assert matched_cross_entropy(query, key, negate=negate).item() == pytest.approx(expected)


def test_an_empty_match_costs_nothing_but_keeps_the_graph() -> None:
    query = _unit(0, 0, 6).requires_grad_()
    loss = matched_cross_entropy(query, _unit(0, 0, 6))
    loss.backward()
    assert loss.item() == 0
    assert nearest_margin(query, _unit(0, 3, 6), low=0.3, matched=False).item() == 0


@pytest.mark.parametrize(
    ("key", "matched"),
    [([0, 2], True),  # similarities 1 and 0 at the match, above 0.7 desired: hinges 0 and 0.7
     ([2, 1, 2], False)],  # nearest similarities 0 and 1, at most 0.3 allowed: hinges 0 and 0.7
)  # fmt: skip
def test_the_margin(key: list[int], matched: bool) -> None:
    axes = torch.eye(3, dtype=torch.float64)
    hinge = nearest_margin(axes[[0, 1]], axes[key], low=0.3, matched=matched)
    assert hinge.item() == pytest.approx(0.35)


@pytest.mark.parametrize("heat", [0.07, 0.5])
def test_the_objective_is_the_papers(heat: float) -> None:
    """Semantic on all matches; visual outside the part, and inside it negated when altered."""
    semantic, visual, pair = _unit(1, 3, 8, 6, 6), _unit(2, 3, 8, 6, 6), _pair()
    terms = pair_loss(semantic, visual, pair, ContrastiveTraining(temperature=heat))
    s, v = (maps.flatten(2).transpose(1, 2).numpy() for maps in (semantic, visual))
    matched = [n for n in range(CELLS) if pair.match[n] >= 0]
    to = pair.match.numpy()
    inside = [n for n in matched if n < 12]
    outside = [n for n in matched if n >= 15]
    wanted_semantic = wanted_visual = 0.0
    for view, sign in ((0, 1.0), (2, -1.0)):
        wanted_semantic += _loop_entropy(s[view][matched], s[1][to[matched]], 1.0, heat) / 2
        wanted_visual += _loop_entropy(v[view][outside], v[1][to[outside]], 1.0, heat) / 2
        wanted_visual += _loop_entropy(v[view][inside], v[1][to[inside]], sign, heat) / 2
    assert terms["semantic"].item() == pytest.approx(wanted_semantic, rel=1e-10)
    assert terms["visual"].item() == pytest.approx(wanted_visual, rel=1e-10)
    assert terms["margin"].item() == 0


def test_gradients_of_the_objective() -> None:
    pair, settings = _pair(), ContrastiveTraining(margin_weight=1.0, temperature=0.5)

    def total(semantic: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
        return torch.stack(list(pair_loss(semantic, visual, pair, settings).values())).sum()

    maps = [_unit(seed, 3, 4, 6, 6).requires_grad_() for seed in (1, 2)]
    assert torch.autograd.gradcheck(total, maps, fast_mode=True)


def test_the_altered_pass_pushes_the_altered_part_away() -> None:
    base = _unit(0, 1, 8, 6, 6)
    visual = base.repeat(3, 1, 1, 1).requires_grad_()
    pair = PairFeatures((), torch.arange(CELLS), _pair().part, torch.ones(CELLS, dtype=torch.bool))
    settings = ContrastiveTraining(margin_weight=100.0)
    terms = pair_loss(base.repeat(3, 1, 1, 1), visual, pair, settings)
    (terms["visual"] + terms["margin"]).backward()
    assert visual.grad is not None
    moved = visual.detach() - 0.05 * visual.grad
    change = ((moved[2] - visual.detach()[2]) * base[0]).sum(0).flatten()
    assert (change[:12] < 0).all()
    assert (change[15:] > change[:12].max()).all()


def test_a_pair_without_an_altered_part_has_a_loss() -> None:
    pair = _pair()
    clean = PairFeatures((), pair.match, torch.zeros_like(pair.part), pair.subject_2)
    terms = pair_loss(_unit(1, 3, 8, 6, 6), _unit(2, 3, 8, 6, 6), clean, ContrastiveTraining())
    assert all(torch.isfinite(value) for value in terms.values())


def test_the_rate_rises_and_drops() -> None:
    plain = ContrastiveTraining()
    assert [plain.rate(epoch, 0) for epoch in (0, 9, 10, 20)] == pytest.approx(
        [1e-3, 1e-3, 1e-4, 1e-5]
    )
    warm = ContrastiveTraining(warmup=4)
    assert [warm.rate(0, step) for step in (0, 1, 3, 9)] == pytest.approx(
        [2.5e-4, 5e-4, 1e-3, 1e-3]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch", 0), ("learning_rate", 0.0), ("temperature", -1.0),
     ("precision", "fp8")],
)  # fmt: skip
def test_settings_out_of_range(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        ContrastiveTraining(**{name: value})  # type: ignore[arg-type]


def _networks() -> AggregationPair:
    torch.manual_seed(0)
    semantic, visual = (AggregationNetwork(CHANNELS, tiny_models.AGGREGATION) for _ in range(2))
    return AggregationPair(semantic, visual)


def _features(folder: Path, pairs: int = 5, variants: int = 1) -> RowShards:
    rows = [_pair(number).row() for number in range(pairs * variants)]
    write_rows(folder / "0.safetensors", rows, {})
    return RowShards([folder / "0.safetensors"])


def test_training_lowers_the_loss_and_reports_each_epoch(tmp_path: Path) -> None:
    records: list[EpochRecord] = []
    settings = ContrastiveTraining(
        epochs=12, batch=2, learning_rate=3e-3, drop_every=8, visual_weight=1.0, precision="fp32"
    )
    networks = _networks()
    train_contrastive(networks, _features(tmp_path), tmp_path, settings, after_epoch=records.append)
    assert [record.epoch for record in records] == list(range(1, 13))
    assert records[-1].losses["semantic"] < 0.8 * records[0].losses["semantic"]
    assert (records[0].rate, records[-1].rate) == pytest.approx((3e-3, 3e-4))
    assert not networks.training


def test_the_losses_of_an_epoch_are_means_over_its_pairs(tmp_path: Path) -> None:
    """With a rate too small to move anything they are those of the untrained networks."""
    features, records = _features(tmp_path), []
    settings = ContrastiveTraining(epochs=1, batch=2, learning_rate=1e-12, precision="fp32")
    train_contrastive(_networks(), features, tmp_path, settings, after_epoch=records.append)
    networks = _networks()
    totals = {"semantic": 0.0, "visual": 0.0}
    for row in range(5):
        pair = PairFeatures.of_row(features[row])
        maps = networks([level.float() for level in pair.levels])
        for name in totals:
            totals[name] += pair_loss(*maps, pair, settings)[name].item() / 5
    for name, value in totals.items():
        assert records[0].losses[name] == pytest.approx(value, rel=1e-4)


def test_epochs_take_the_variants_in_turns(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watched(RowShards):
        def __getitem__(self, row: int) -> dict[str, torch.Tensor]:  # type: ignore[override]
            seen.append(row)
            return super().__getitem__(row)

    _features(tmp_path, pairs=3, variants=2)
    watched = Watched([tmp_path / "0.safetensors"])
    settings = ContrastiveTraining(epochs=2, batch=2)
    train_contrastive(_networks(), watched, tmp_path, settings, variants=2)
    assert len(seen) == 6
    assert sorted(seen[:3]) == [0, 3, 4]
    assert sorted(seen[3:]) == [1, 2, 5]


def test_no_features(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no features"):
        train_contrastive(_networks(), RowShards([]), tmp_path, ContrastiveTraining())


def test_divergence_is_said(tmp_path: Path) -> None:
    networks = _networks()
    with torch.no_grad():
        networks.visual.mixing_weights.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="epoch 1"):
        train_contrastive(networks, _features(tmp_path), tmp_path, ContrastiveTraining(epochs=1))
