"""Contrastive training of the two aggregation networks on precomputed features."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vsm_fast.training.features import PairFeatures
from vsm_fast.training.losses import matched_cross_entropy, nearest_margin
from vsm_fast.training.state import load_state, save_state

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AggregationTraining:
    """Settings of the contrastive training.

    Attributes:
        visual_weight: Weight of the visual terms against the semantic one; the paper's α.
        margin_weight: Weight of the absolute hinge on the visual similarity; 0 = the paper's
            objective.
        margin: Similarity under which an altered point should stay; see ``nearest_margin``.
    """

    steps: int = 2000
    batch: int = 8
    learning_rate: float = 1e-3
    drops: tuple[float, ...] = (0.6, 0.85)
    visual_weight: float = 10.0
    margin_weight: float = 100.0
    margin: float = 0.3
    seed: int = 0
    save_every: int = 250


def pair_loss(
    semantic: Tensor,
    visual: Tensor,
    target: Tensor,
    part: Tensor,
    mask_2: Tensor,
    config: AggregationTraining,
) -> dict[str, Tensor]:
    """The terms of the objective for one pair.

    Args:
        semantic: float [3, D, h, w], unit length; views (original 1, original 2, altered 1).
        visual: As ``semantic``.
        target: int64 [h * w], matching cell of view 2 or -1.
        part: int8 [h * w], 1 altered, 0 clean, -1 neither.
        mask_2: bool [h * w], the subject in view 2.
        config: Weights.

    Returns:
        ``semantic``, ``visual`` and ``margin``: scalars before weighting, each the mean of the
        pass with the original and the pass with the altered view 1.
    """
    semantic, visual = semantic.flatten(2).transpose(1, 2), visual.flatten(2).transpose(1, 2)
    matched = target >= 0
    outside = (matched & (part == 0)).nonzero()[:, 0]
    inside = (matched & (part == 1)).nonzero()[:, 0]
    every = matched.nonzero()[:, 0]
    reference = visual[1][mask_2]
    terms = {name: semantic.new_zeros(()) for name in ("semantic", "visual", "margin")}
    for view, altered in ((0, False), (2, True)):
        terms["semantic"] = terms["semantic"] + 0.5 * matched_cross_entropy(
            semantic[view][every], semantic[1][target[every]]
        )
        out_query, out_key = visual[view][outside], visual[1][target[outside]]
        in_query, in_key = visual[view][inside], visual[1][target[inside]]
        terms["visual"] = terms["visual"] + 0.5 * (
            matched_cross_entropy(out_query, out_key)
            + matched_cross_entropy(in_query, in_key, negate=altered)
        )
        apart = reference if altered else in_key
        terms["margin"] = terms["margin"] + 0.5 * (
            nearest_margin(out_query, out_key, low=config.margin, matched=True)
            + nearest_margin(in_query, apart, low=config.margin, matched=not altered)
        )
    return terms


def learning_rate_at(step: int, config: AggregationTraining) -> float:
    """Divided by 10 at each of ``drops`` (shares of all steps), after a short warm-up."""
    passed = sum(step >= share * config.steps for share in config.drops)
    return config.learning_rate * min(1.0, (step + 1) / 50) * 10.0**-passed


def train_aggregation(
    semantic: nn.Module,
    visual: nn.Module,
    data: PairFeatures,
    level_channels: Sequence[int],
    out: Path,
    config: AggregationTraining,
) -> None:
    """Train both networks in place, or resume from ``out/aggregation.safetensors``.

    Args:
        semantic: list of levels [B, C_l, h, w] -> float [B, D, h, w], unit length.
        visual: As ``semantic``.
        data: Precomputed features.
        level_channels: Channels of each level, to split the stored features.
        out: Folder of the checkpoint.
        config: Settings.
    """
    parameters = [*semantic.parameters(), *visual.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate)
    modules = {"semantic": semantic, "visual": visual}
    checkpoint = out / "aggregation.safetensors"
    first = load_state(checkpoint, modules, optimizer)
    semantic.train()
    visual.train()
    started = time.perf_counter()
    running: dict[str, float] = {}
    for step in range(first, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, config)
        rng = np.random.default_rng((config.seed, step))
        chosen = torch.from_numpy(rng.integers(len(data), size=config.batch))
        features = data.features[chosen].flatten(0, 1).float()
        levels = list(features.split(list(level_channels), dim=1))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            described = [network(levels) for network in (semantic, visual)]
        views = [d.float().unflatten(0, (config.batch, 3)) for d in described]
        total = features.new_zeros(())
        for slot, index in enumerate(chosen.tolist()):
            terms = pair_loss(
                views[0][slot],
                views[1][slot],
                data.target[index],
                data.part[index],
                data.mask_2[index],
                config,
            )
            total = total + terms["semantic"] + config.visual_weight * terms["visual"]
            total = total + config.margin_weight * terms["margin"]
            for name, value in terms.items():
                running[name] = 0.995 * running.get(name, value.item()) + 0.005 * value.item()
        optimizer.zero_grad(set_to_none=True)
        (total / config.batch).backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            rate = (time.perf_counter() - started) / (step + 1 - first)
            shown = " ".join(f"{name} {value:.3f}" for name, value in running.items())
            _log.info("step %d %s %.2f s/step", step + 1, shown, rate)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save_state(checkpoint, step + 1, modules, optimizer)
    semantic.eval()
    visual.eval()
    if not all(math.isfinite(value) for value in running.values()):
        raise FloatingPointError(f"the training diverged: {running}.")
