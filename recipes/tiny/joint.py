"""Joint training of backbone and aggregation networks on what the metric reads.

The paper keeps its backbone frozen: a diffusion model of the size of SD 2.1 already knows what
things look like. A backbone of a few million parameters does not, so ours goes on learning
together with its two networks, starting from the denoising and the contrastive training.
"""

from __future__ import annotations

import logging
import math
import time
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
        exact_pairs, photograph_pairs: Pairs of each sort in a step. An exact pair costs four
            pictures, a pair of photographs two.
        learning_rate: Of the aggregation networks.
        backbone_rate: Of the backbone.
        curve_rate: Of the curve's slope and threshold.
        weights: Of each loss in the sum.
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
class _Described:
    """A pair after the network."""

    semantic: PairViews
    visual: PairViews
    cells: PairCells
    subject: str

    @property
    def generation(self) -> Tensor:
        return self.visual.altered_1[self.cells.subject_1]

    @property
    def reference(self) -> Tensor:
        return self.visual.original_2[self.cells.subject_2]


def _describe(
    network: DescriptorNetwork, examples: list[TrainingExample], rng: np.random.Generator
) -> list[_Described]:
    """Run the network once on all pictures of all pairs."""
    visits = [varied(example, rng) for example in examples]
    # Of two photographs, only those are run that the losses compare.
    shown = [
        pictures if example.exact else pictures[[1, 2]]
        for example, (pictures, _) in zip(examples, visits, strict=True)
    ]
    pixels = torch.cat(shown).to(memory_format=torch.channels_last)
    with autocast_bfloat16(pixels.device):
        branches = network(pixels)
    counts = [len(pictures) for pictures in shown]
    semantic, visual = (
        branch.float().flatten(2).transpose(1, 2).split(counts) for branch in branches
    )
    return [
        _Described(
            _views(semantic[slot], example),
            _views(visual[slot], example),
            cells,
            example.subject,
        )
        for slot, (example, (_, cells)) in enumerate(zip(examples, visits, strict=True))
    ]


def _views(descriptors: Tensor, example: TrainingExample) -> PairViews:
    if not example.exact:
        original_2, altered_1 = descriptors
        return PairViews(None, original_2, altered_1, None)
    original_1, original_2, altered_1, altered_2 = descriptors
    return PairViews(
        original_1, original_2, altered_1, altered_2 if example.has_altered_2 else None
    )


def joint_losses(pairs: list[_Described], curve: SimilarityCurve) -> dict[str, Tensor]:
    """Mean of every loss over the pairs of a step; scalars."""
    found: dict[str, list[Tensor]] = {}
    for pair in pairs:
        losses = (
            exact_pair_losses(pair.semantic, pair.visual, pair.cells, curve)
            if pair.cells.exact
            else photograph_pair_losses(pair.visual, pair.cells, curve)
        )
        for name, value in losses.items():
            found.setdefault(name, []).append(value)
    for number, pair in enumerate(pairs):
        stranger = pairs[(number + 1) % len(pairs)]
        if stranger.subject != pair.subject:
            value = other_subject_loss(stranger.generation, pair.reference, curve)
            found.setdefault("other", []).append(value)
    return {name: torch.stack(values).mean() for name, values in found.items()}


def train_joint(
    network: DescriptorNetwork, shards: ExampleShards, out: Path, config: JointTraining
) -> DescriptorNetwork:
    """Train, or resume from ``out/joint.safetensors``, and return the averaged network.

    Args:
        network: Trained in place.
        shards: Examples of training subjects.
        out: Folder of the checkpoint.
        config: Settings; the learning rate's cosine counts steps from 0.

    Raises:
        FloatingPointError: The training diverged.
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
    for step in range(first, config.steps):
        remaining = 0.5 * (1 + math.cos(math.pi * step / config.steps)) + 0.01
        share = min(1.0, (step + 1) / config.warmup) * remaining
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        rng = np.random.default_rng((config.seed, step))
        losses = joint_losses(_describe(network, _draw(shards, config, rng), rng), curve)
        total = sum((getattr(config, name) * v for name, v in losses.items()), torch.zeros(()))
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 2.0)
        optimizer.step()
        _follow(average, network, min(config.ema, (1 + step) / (10 + step)))
        for name, value in losses.items():
            running[name] = 0.98 * running.get(name, value.item()) + 0.02 * value.item()
        if not math.isfinite(total.item()):
            raise FloatingPointError(f"the joint training diverged at step {step}: {running}.")
        if (step + 1) % 20 == 0:
            rate = (time.perf_counter() - started) / (step + 1 - first)
            shown = " ".join(f"{name} {value:.3f}" for name, value in running.items())
            _log.info("step %d %s %.2f s/step", step + 1, shown, rate)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save_state(checkpoint, step + 1, modules, optimizer)
    return average


def _draw(
    shards: ExampleShards, config: JointTraining, rng: np.random.Generator
) -> list[TrainingExample]:
    kinds = ((shards.exact, config.exact_pairs), (shards.photographs, config.photograph_pairs))
    return [
        shards.read(places[int(rng.integers(len(places)))])
        for places, count in kinds
        for _ in range(count if places else 0)
    ]


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network."""
    for smooth, weight in zip(average.parameters(), network.parameters(), strict=True):
        smooth.lerp_(weight, 1 - decay)
