"""Joint training of backbone and aggregation networks on the quantities that the metric reads.

The paper keeps its backbone frozen: a diffusion model of the size of SD 2.1 already represents
appearance. A backbone of a few million parameters does not, so it continues to learn together
with its two networks, initialised by the denoising and the contrastive training.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recipes.tiny.example_shards import ExampleShards
from recipes.tiny.metric_losses import (
    PairCells,
    PairViews,
    SimilarityCurve,
    exact_pair_losses,
    other_subject_loss,
    photograph_pair_losses,
)
from vsm_fast.lab.training.examples import TrainingExample, varied
from vsm_fast.lab.training.state import load_state, save_state
from vsm_fast.model.devices import autocast_bfloat16
from vsm_fast.model.network import DescriptorNetwork

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JointTraining:
    """Settings of the joint training.

    Attributes:
        exact_pairs, photograph_pairs: Pairs of each sort per step. An exact pair costs four
            images, a pair of photographs two.
        learning_rate: Of the aggregation networks.
        backbone_rate: Of the backbone.
        curve_rate: Of slope and threshold of the curve.
        semantic, visual, point, score, photo_point, photo_score, other: Weights of the losses.
    """

    steps: int = 4000
    exact_pairs: int = 1
    photograph_pairs: int = 6
    learning_rate: float = 6e-4
    backbone_rate: float = 3e-4
    curve_rate: float = 1.8e-3
    warmup: int = 60
    ema: float = 0.995
    seed: int = 0
    save_every: int = 200
    semantic: float = 0.2
    visual: float = 0.3
    point: float = 1.0
    score: float = 4.0
    photo_point: float = 1.2
    photo_score: float = 8.0
    other: float = 0.4


@dataclass(frozen=True)
class _PairDescriptors:
    """Descriptors of one pair."""

    semantic: PairViews
    visual: PairViews
    cells: PairCells
    subject: str


def _extract(
    network: DescriptorNetwork, examples: list[TrainingExample], rng: np.random.Generator
) -> list[_PairDescriptors]:
    """Run the network once on all images of all pairs."""
    visits = [varied(example, rng) for example in examples]
    # The losses of two photographs read original 2 and altered 1 only.
    images = [
        pictures if example.exact else pictures[[1, 2]]
        for example, (pictures, _) in zip(examples, visits, strict=True)
    ]
    pixels = torch.cat(images).to(memory_format=torch.channels_last)
    with autocast_bfloat16(pixels.device):
        branches = network(pixels)
    semantic, visual = (
        branch.float().flatten(2).transpose(1, 2).split([len(pictures) for pictures in images])
        for branch in branches
    )

    def views(descriptors: Tensor, example: TrainingExample) -> PairViews:
        if not example.exact:
            return PairViews(None, descriptors[0], descriptors[1], None)
        original_1, original_2, altered_1, altered_2 = descriptors
        return PairViews(
            original_1, original_2, altered_1, altered_2 if example.has_altered_2 else None
        )

    return [
        _PairDescriptors(views(first, example), views(second, example), cells, example.subject)
        for first, second, example, (_, cells) in zip(
            semantic, visual, examples, visits, strict=True
        )
    ]


def joint_losses(pairs: list[_PairDescriptors], curve: SimilarityCurve) -> dict[str, Tensor]:
    """Return the mean of every loss over the pairs of a step; scalars."""
    losses: defaultdict[str, list[Tensor]] = defaultdict(list)
    for pair in pairs:
        values = (
            exact_pair_losses(pair.semantic, pair.visual, pair.cells, curve)
            if pair.cells.exact
            else photograph_pair_losses(pair.visual, pair.cells, curve)
        )
        for name, value in values.items():
            losses[name].append(value)
    for number, pair in enumerate(pairs):
        other = pairs[(number + 1) % len(pairs)]
        if other.subject != pair.subject:
            generated = other.visual.altered_1[other.cells.subject_1]
            reference = pair.visual.original_2[pair.cells.subject_2]
            losses["other"].append(other_subject_loss(generated, reference, curve))
    return {name: torch.stack(values).mean() for name, values in losses.items()}


def train_joint(
    network: DescriptorNetwork, shards: ExampleShards, out: Path, config: JointTraining
) -> DescriptorNetwork:
    """Train, or resume from ``out/joint.safetensors``, and return the averaged network.

    Args:
        network: Trained in place.
        shards: Examples of training subjects.
        out: Folder of the checkpoint.
        config: Settings; the cosine schedule counts steps from 0.

    Raises:
        FloatingPointError: If the training diverges.
    """
    network.requires_grad_(True).train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    curve = SimilarityCurve()
    average = deepcopy(network).eval().requires_grad_(False)
    aggregation = [*network.semantic.parameters(), *network.visual.parameters()]
    rates = (config.learning_rate, config.backbone_rate, config.curve_rate)
    optimizer = torch.optim.AdamW(
        [
            {"params": aggregation, "weight_decay": 0.01},
            {"params": list(network.backbone.parameters()), "weight_decay": 0.01},
            {"params": list(curve.parameters()), "weight_decay": 0.0},
        ]
    )
    modules: dict[str, nn.Module] = {"network": network, "average": average, "curve": curve}
    checkpoint = out / "joint.safetensors"
    first = load_state(checkpoint, modules, optimizer)
    started = time.perf_counter()
    running: dict[str, float] = {}
    sorts = ((shards.exact, config.exact_pairs), (shards.photographs, config.photograph_pairs))
    for step in range(first, config.steps):
        remaining = 0.5 * (1 + math.cos(math.pi * step / config.steps)) + 0.01
        share = min(1.0, (step + 1) / config.warmup) * remaining
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        rng = np.random.default_rng((config.seed, step))
        examples = [
            shards.read(places[int(rng.integers(len(places)))])
            for places, count in sorts
            for _ in range(count if places else 0)
        ]
        losses = joint_losses(_extract(network, examples, rng), curve)
        total = sum((getattr(config, name) * v for name, v in losses.items()), torch.zeros(()))
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 2.0)
        optimizer.step()
        decay = min(config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for smooth, weight in zip(average.parameters(), network.parameters(), strict=True):
                smooth.lerp_(weight, 1 - decay)
        for name, value in losses.items():
            running[name] = 0.98 * running.get(name, value.item()) + 0.02 * value.item()
        if not math.isfinite(total.item()):
            raise FloatingPointError(f"the joint training diverged at step {step}: {running}.")
        if (step + 1) % 20 == 0:
            seconds = (time.perf_counter() - started) / (step + 1 - first)
            values = " ".join(f"{name} {value:.3f}" for name, value in running.items())
            _log.info("step %d %s %.2f s/step", step + 1, values, seconds)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save_state(checkpoint, step + 1, modules, optimizer)
    return average
