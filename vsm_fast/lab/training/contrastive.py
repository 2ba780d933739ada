"""Contrastive training of the two aggregation networks on stored features of a frozen backbone.

Source: arXiv 2509.21989, training. The hinge (``margin_weight``) is ours and off by default.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vsm_fast.extras import required
from vsm_fast.lab.training.features import PairFeatures
from vsm_fast.lab.training.losses import TEMPERATURE, matched_cross_entropy, nearest_margin
from vsm_fast.lab.training.rows import RowShards
from vsm_fast.lab.training.state import load_state, read_notes, save_state
from vsm_fast.model.aggregation import AggregationNetwork
from vsm_fast.model.devices import autocast_bfloat16

if TYPE_CHECKING:
    from accelerate import Accelerator

_log = logging.getLogger(__name__)
CHECKPOINT = "contrastive.safetensors"
TERMS = ("semantic", "visual", "margin")


@dataclass(frozen=True)
class ContrastiveTraining:
    """Settings of the objective and of its optimisation; the defaults are the paper's.

    Attributes:
        epochs: Passes over the pairs.
        batch: Pairs of an optimisation step, over all processes.
        learning_rate: Of AdamW at the start.
        drop_every: Epochs after which it is divided by ``drop_by``, again and again.
        drop_by: See there.
        warmup: Steps in which it rises from 0.
        weight_decay: Of AdamW; PyTorch's default, the paper names none.
        clip: Largest norm of the gradient; 0 = any.
        temperature: What similarities are divided by.
        visual_weight: Weight of the visual terms against the semantic one; the paper's α.
        margin_weight: Weight of the hinge on the visual similarity; 0 = the paper's objective.
        margin: Similarity under which an altered point should stay; see ``nearest_margin``.
        precision: ``"bf16"``: the networks run under autocast, weights stay float32 (all does on a
            CPU that would emulate bfloat16).
        save_every: Steps between checkpoints; each epoch ends with one anyway.
        seed: Of the order of the pairs and of the first weights.
    """

    epochs: int = 30
    batch: int = 8
    learning_rate: float = 1e-3
    drop_every: int = 10
    drop_by: float = 10.0
    warmup: int = 0
    weight_decay: float = 0.01
    clip: float = 0.0
    temperature: float = TEMPERATURE
    visual_weight: float = 10.0
    margin_weight: float = 0.0
    margin: float = 0.3
    precision: Literal["bf16", "fp32"] = "bf16"
    save_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "drop_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        for name in ("learning_rate", "drop_by", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}.")
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"precision must be 'bf16' or 'fp32'; got {self.precision!r}.")

    def rate(self, epoch: int, step: int) -> float:
        """Learning rate of a step, counted from 0 over all epochs."""
        drops = epoch // self.drop_every
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return float(self.learning_rate * rise * self.drop_by**-drops)


class AggregationPair(nn.Module):
    """The semantic and the visual network as one module."""

    def __init__(self, semantic: AggregationNetwork, visual: AggregationNetwork) -> None:
        super().__init__()
        self.semantic = semantic
        self.visual = visual

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Both descriptors, float32 [B, D, h, w] each."""
        return self.semantic(levels), self.visual(levels)


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch ended with: number from 1, last learning rate, mean loss terms."""

    epoch: int
    rate: float
    losses: dict[str, float]


def pair_loss(
    semantic: Tensor, visual: Tensor, pair: PairFeatures, settings: ContrastiveTraining
) -> dict[str, Tensor]:
    """The terms of the objective for one pair.

    Args:
        semantic: float [3, D, h, w], unit length; views (original 1, original 2, altered 1).
        visual: As ``semantic``.
        pair: Its matches and masks; the levels are not read.
        settings: Temperature and margin.

    Returns:
        ``semantic``, ``visual`` and ``margin``: scalars before weighting, each the mean of the
        pass with the original and the pass with the altered view 1.
    """
    semantic, visual = semantic.flatten(2).transpose(1, 2), visual.flatten(2).transpose(1, 2)
    matched, target = pair.match >= 0, pair.match
    outside = (matched & (pair.part == 0)).nonzero()[:, 0]
    inside = (matched & (pair.part == 1)).nonzero()[:, 0]
    every = matched.nonzero()[:, 0]
    reference = visual[1][pair.subject_2]
    heat = settings.temperature
    terms = {name: semantic.new_zeros(()) for name in TERMS}
    for view, altered in ((0, False), (2, True)):
        terms["semantic"] = terms["semantic"] + 0.5 * matched_cross_entropy(
            semantic[view][every], semantic[1][target[every]], temperature=heat
        )
        out_query, out_key = visual[view][outside], visual[1][target[outside]]
        in_query, in_key = visual[view][inside], visual[1][target[inside]]
        terms["visual"] = terms["visual"] + 0.5 * (
            matched_cross_entropy(out_query, out_key, temperature=heat)
            + matched_cross_entropy(in_query, in_key, negate=altered, temperature=heat)
        )
        if settings.margin_weight:
            apart = reference if altered else in_key
            terms["margin"] = terms["margin"] + 0.5 * (
                nearest_margin(out_query, out_key, low=settings.margin, matched=True)
                + nearest_margin(in_query, apart, low=settings.margin, matched=not altered)
            )
    return terms


def train_contrastive(
    networks: AggregationPair,
    features: RowShards,
    out: Path,
    settings: ContrastiveTraining,
    *,
    variants: int = 1,
    device: torch.device | str = "cpu",
    after_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> None:
    """Train both networks in place, or resume from ``out/contrastive.safetensors``.

    Runs in as many processes as it was launched in (``accelerate launch``); each takes its share
    of every batch, and gradients are those of the whole batch. Every draw follows from the seed
    and the epoch, so that a run that was interrupted ends bit by bit like one that was not.

    Args:
        networks: In float32; afterwards on ``device`` and in eval mode.
        features: Rows of ``PairFeatures``; the ``variants`` of a pair one after the other.
        out: Folder of the checkpoint.
        settings: See there.
        variants: Visits of each pair in ``features``; epochs take them in turns.
        device: Where to train; with several processes each takes its own.
        after_epoch: Called in the first process when an epoch has ended, before its checkpoint
            is written; in a run that resumes between the two, for that epoch once more.

    Raises:
        ValueError: No features.
        FloatingPointError: The training diverged.
        ImportError: accelerate is missing.
    """
    pairs = len(features) // variants
    if not pairs:
        raise ValueError("there are no features to train on.")
    accelerate = required("accelerate", "training")
    accelerator = accelerate.Accelerator(cpu=torch.device(device).type == "cpu")
    optimizer = torch.optim.AdamW(
        networks.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    checkpoint = out / CHECKPOINT
    modules: dict[str, nn.Module] = {"networks": networks}
    step = load_state(checkpoint, modules, optimizer)
    sums: dict[str, float] = read_notes(checkpoint) or {}
    networks.train()
    model, optimizer = accelerator.prepare(networks, optimizer)
    in_epoch = math.ceil(pairs / settings.batch)

    def save() -> None:
        if accelerator.is_main_process:
            save_state(checkpoint, step, modules, optimizer, notes=sums)

    for epoch in range(step // in_epoch, settings.epochs):
        done = step - epoch * in_epoch
        for batch, visits in _batches(features, variants, epoch, done, settings, accelerator):
            rate = settings.rate(epoch, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            terms = _step_losses(model, visits, batch, settings, accelerator)
            if settings.clip:
                accelerator.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            step += 1
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value * len(batch)
            if step % settings.save_every == 0 and step % in_epoch:
                save()
        losses = {name: sums.get(name, 0.0) / pairs for name in TERMS}
        if not all(math.isfinite(value) for value in losses.values()):
            raise FloatingPointError(
                f"the training diverged in epoch {epoch + 1}: {losses}. Lower the learning rate."
            )
        if accelerator.is_main_process:
            networks.eval()
            after_epoch(EpochRecord(epoch + 1, settings.rate(epoch, step - 1), losses))
            networks.train()
        accelerator.wait_for_everyone()
        sums = {}
        save()
    networks.eval()


def _batches(
    features: RowShards,
    variants: int,
    epoch: int,
    done: int,
    settings: ContrastiveTraining,
    accelerator: Accelerator,
) -> Iterator[tuple[NDArray[np.int64], list[PairFeatures]]]:
    """(pairs of the batch, this process's visits) of the batches of an epoch after ``done``."""
    pairs = len(features) // variants
    order = np.random.default_rng((settings.seed, epoch)).permutation(pairs)
    batches = [order[at : at + settings.batch] for at in range(0, pairs, settings.batch)][done:]
    rank, processes = accelerator.process_index, accelerator.num_processes

    def read(batch: NDArray[np.int64]) -> list[PairFeatures]:
        # All processes must take part in a step: one without a pair reads one and weighs it 0.
        mine = batch[rank::processes] if rank < len(batch) else batch[:1]
        rows = [int(pair) * variants + (epoch + int(pair)) % variants for pair in mine]
        return [PairFeatures.of_row(features[row]) for row in rows]

    with ThreadPoolExecutor(1, thread_name_prefix="vsm-features") as pool:
        ahead = [pool.submit(read, batch) for batch in batches[:1]]
        for number, batch in enumerate(batches):
            visits = ahead.pop().result()
            ahead += [pool.submit(read, later) for later in batches[number + 1 : number + 2]]
            yield batch, visits


def _step_losses(
    model: nn.Module,
    visits: list[PairFeatures],
    batch: NDArray[np.int64],
    settings: ContrastiveTraining,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Forward and backward; the mean of each term over the whole batch."""
    device: Any = accelerator.device
    levels = [
        torch.cat(views).to(device).float()
        for views in zip(*(visit.levels for visit in visits), strict=True)
    ]
    with autocast_bfloat16(device, wanted=settings.precision == "bf16"):
        described = model(levels)
    semantic, visual = (maps.float().unflatten(0, (len(visits), 3)) for maps in described)
    idle = accelerator.process_index >= len(batch)
    share = 0.0 if idle else 1.0 / len(batch)
    totals = {name: semantic.new_zeros(()) for name in TERMS}
    for slot, visit in enumerate(visits):
        placed = PairFeatures(
            (), visit.match.to(device), visit.part.to(device), visit.subject_2.to(device)
        )
        for name, value in pair_loss(semantic[slot], visual[slot], placed, settings).items():
            totals[name] = totals[name] + share * value
    loss = (
        totals["semantic"]
        + settings.visual_weight * totals["visual"]
        + settings.margin_weight * totals["margin"]
    )
    # Processes average their gradients, and this loss is a share of the whole batch's.
    accelerator.backward(loss * accelerator.num_processes)
    stacked = torch.stack([totals[name].detach() for name in TERMS])
    summed = accelerator.reduce(stacked, "sum")
    return dict(zip(TERMS, summed.tolist(), strict=True))
