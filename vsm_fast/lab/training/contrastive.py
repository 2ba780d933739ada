"""Contrastive training of the two aggregation networks on stored features of a frozen backbone.

Each term is a symmetric cross-entropy over matched points. Inside an altered part the
similarities are negated, which drives the visual descriptors of a point and of its altered
counterpart apart. The hinge (``margin_weight``) is our addition, off by default.

Source: arXiv 2509.21989, training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsm_fast.extras import required
from vsm_fast.lab.training.features import PairFeatures, batch_levels
from vsm_fast.lab.training.rows import RowShards
from vsm_fast.lab.training.state import load_state, read_progress, save_state
from vsm_fast.model.aggregation import AggregationNetwork
from vsm_fast.model.devices import autocast_bfloat16

if TYPE_CHECKING:
    from accelerate import Accelerator

TEMPERATURE = 0.07
CHECKPOINT = "contrastive.safetensors"
TERMS = ("semantic", "visual", "margin")


@dataclass(frozen=True)
class ContrastiveTraining:
    """Objective and optimiser settings; the defaults are the paper's.

    Attributes:
        epochs: Passes over the pairs.
        batch: Pairs per optimisation step, over all processes.
        learning_rate: Initial learning rate of AdamW.
        drop_every: Epochs between learning-rate drops.
        drop_by: Divisor of the learning rate at each drop.
        warmup: Steps of linear warm-up from 0.
        weight_decay: Weight decay of AdamW; PyTorch's default, as the paper names none.
        clip: Maximum gradient norm; 0 = no clipping.
        temperature: Divisor of the similarities.
        visual_weight: Weight of the visual terms relative to the semantic one; the paper's α.
        margin_weight: Weight of the hinge on the visual similarity; 0 = the paper's objective.
        margin: Maximum similarity of an altered point; see ``nearest_margin``.
        precision: ``"bf16"``: the networks run under autocast, weights stay float32. A CPU that
            would emulate bfloat16 computes in float32.
        save_every: Steps between checkpoints; every epoch also ends with one.
        seed: Seed of the pair order and the initial weights.
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
        """Return the learning rate of a step, counted from 0 over all epochs."""
        drops = epoch // self.drop_every
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return float(self.learning_rate * rise * self.drop_by**-drops)


class AggregationPair(nn.Module):
    """The semantic and the visual aggregation network as one module."""

    def __init__(self, semantic: AggregationNetwork, visual: AggregationNetwork) -> None:
        super().__init__()
        self.semantic = semantic
        self.visual = visual

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return semantic and visual descriptors, float32 [B, D, h, w] each."""
        return self.semantic(levels), self.visual(levels)


@dataclass(frozen=True)
class EpochRecord:
    """Number of a finished epoch (from 1), its last learning rate and its mean loss terms."""

    epoch: int
    rate: float
    losses: dict[str, float]


def matched_cross_entropy(
    query: Tensor, key: Tensor, *, negate: bool = False, temperature: float = TEMPERATURE
) -> Tensor:
    """Return the symmetric cross-entropy of matched descriptors.

    Args:
        query: float [N, D], unit length.
        key: float [N, D], unit length; row ``n`` matches ``query[n]``.
        negate: Whether to negate the similarities, which drives matched rows apart.
        temperature: Divisor of the similarities.

    Returns:
        Scalar mean of both directions; 0 (with a graph) if ``N`` is 0.
    """
    if len(query) == 0:
        return query.sum() * 0.0
    logits = query @ key.T / (-temperature if negate else temperature)
    label = torch.arange(len(query), device=query.device)
    return 0.5 * (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label))


def nearest_margin(query: Tensor, key: Tensor, *, low: float, matched: bool) -> Tensor:
    """Return the hinge loss on the similarity that the metric thresholds.

    The metric compares the *nearest* visual similarity with a fixed threshold, while
    cross-entropy leaves the scale of similarities open. The hinge pulls matched points above
    ``1 - low`` at their match and pushes altered points below ``low`` at their nearest
    neighbour. It is our addition, not part of the published objective.

    Args:
        query: float [N, D], unit length.
        key: matched: float [N, D], the matches; else float [M, D], all key points.
        low: Maximum similarity of different points, in (0, 0.5).
        matched: Which of the two hinges to compute.
    """
    if len(query) == 0 or len(key) == 0:
        return query.sum() * 0.0
    if matched:
        return F.relu(1 - low - (query * key).sum(1)).mean()
    return F.relu((query @ key.T).amax(1) - low).mean()


def pair_loss(
    semantic: Tensor, visual: Tensor, pair: PairFeatures, settings: ContrastiveTraining
) -> dict[str, Tensor]:
    """Return the loss terms of one pair.

    Args:
        semantic: float [3, D, h, w], unit length; views (original 1, original 2, altered 1).
        visual: As ``semantic``.
        pair: Matches and masks; the levels are not read.
        settings: Temperature and margin.

    Returns:
        ``semantic``, ``visual`` and ``margin``: unweighted scalars, each the mean of the pass
        with the original view 1 and the pass with the altered view 1.
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

    Uses all processes of the launch (``accelerate launch``): each computes a share of every
    batch, and gradients are those of the whole batch. All randomness follows from the seed and
    the epoch, which makes an interrupted run end bit by bit like an uninterrupted one.

    Args:
        networks: Float32 networks; afterwards on ``device`` and in eval mode.
        features: Rows of ``PairFeatures``, the ``variants`` of a pair in succession.
        out: Folder of the checkpoint.
        settings: Objective and optimiser settings.
        variants: Rows per pair in ``features``; an epoch reads one of them.
        device: Training device; with several processes, each uses its own.
        after_epoch: Callback of the main process at the end of an epoch, before its checkpoint.
            A run that resumes between the two repeats the call.

    Raises:
        ValueError: If there are no features.
        FloatingPointError: If the training diverges.
        ImportError: If accelerate is not installed.
    """
    pairs = len(features) // variants
    if not pairs:
        raise ValueError("there are no features to train on.")
    accelerate = required("accelerate", "training")
    accelerator = accelerate.Accelerator(cpu=torch.device(device).type == "cpu")
    placed: Any = accelerator.device
    optimizer = torch.optim.AdamW(
        networks.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    checkpoint = out / CHECKPOINT
    modules: dict[str, nn.Module] = {"networks": networks}
    step = load_state(checkpoint, modules, optimizer)
    sums: dict[str, float] = read_progress(checkpoint)[1] or {}
    networks.train()
    model, optimizer = accelerator.prepare(networks, optimizer)
    steps_per_epoch = math.ceil(pairs / settings.batch)

    def save() -> None:
        if accelerator.is_main_process:
            save_state(checkpoint, step, modules, optimizer, notes=sums)

    for epoch in range(step // steps_per_epoch, settings.epochs):
        done = step - epoch * steps_per_epoch
        for size, rows in _batches(features, variants, epoch, done, settings, accelerator):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(epoch, step)
            optimizer.zero_grad(set_to_none=True)
            levels = batch_levels([row.levels for row in rows], placed)
            with autocast_bfloat16(placed, wanted=settings.precision == "bf16"):
                descriptors = model(levels)
            semantic, visual = (maps.float().unflatten(0, (len(rows), 3)) for maps in descriptors)
            share = 0.0 if accelerator.process_index >= size else 1.0 / size
            terms = {name: semantic.new_zeros(()) for name in TERMS}
            for slot, row in enumerate(rows):
                pair = PairFeatures(
                    (), row.match.to(placed), row.part.to(placed), row.subject_2.to(placed)
                )
                losses = pair_loss(semantic[slot], visual[slot], pair, settings)
                for name, value in losses.items():
                    terms[name] = terms[name] + share * value
            loss = (
                terms["semantic"]
                + settings.visual_weight * terms["visual"]
                + settings.margin_weight * terms["margin"]
            )
            # Processes average their gradients, and this loss is a share of the whole batch's.
            accelerator.backward(loss * accelerator.num_processes)
            if settings.clip:
                accelerator.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            step += 1
            totals = accelerator.reduce(torch.stack([terms[n].detach() for n in TERMS]), "sum")
            for name, mean in zip(TERMS, totals.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + mean * size
            if step % settings.save_every == 0 and step % steps_per_epoch:
                save()
        means = {name: sums.get(name, 0.0) / pairs for name in TERMS}
        if not all(math.isfinite(value) for value in means.values()):
            raise FloatingPointError(
                f"training diverged in epoch {epoch + 1}: {means}. Lower the learning rate."
            )
        if accelerator.is_main_process:
            networks.eval()
            after_epoch(EpochRecord(epoch + 1, settings.rate(epoch, step - 1), means))
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
) -> Iterator[tuple[int, list[PairFeatures]]]:
    """Yield (batch size, rows of this process) of an epoch's batches after the first ``done``."""
    pairs = len(features) // variants
    order = np.random.default_rng((settings.seed, epoch)).permutation(pairs).tolist()
    batches = [order[at : at + settings.batch] for at in range(0, pairs, settings.batch)][done:]
    rank, processes = accelerator.process_index, accelerator.num_processes

    def read(batch: list[int]) -> list[PairFeatures]:
        # All processes must join a step: one without a pair reads one and weighs it 0.
        own = batch[rank::processes] or batch[:1]
        rows = [pair * variants + (epoch + pair) % variants for pair in own]
        return [PairFeatures.of_row(features[row]) for row in rows]

    with ThreadPoolExecutor(1, thread_name_prefix="vsm-features") as pool:
        ahead = [pool.submit(read, batch) for batch in batches[:1]]
        for number, batch in enumerate(batches):
            rows = ahead.pop().result()
            ahead += [pool.submit(read, later) for later in batches[number + 1 : number + 2]]
            yield len(batch), rows
