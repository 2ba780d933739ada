"""Step 6: end-to-end throughput of the SD 2.1 shape against the reference recipe.

Images are arrays of 1024 x 1024: timing includes resizing and excludes decoding. Random weights
do not affect speed.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.flops import operations_per_image
from benchmarks.reference_recipe import ReferenceRecipe
from benchmarks.sd_shape import FULL, LATENT_SCALE, LEVELS, TIMESTEP, TINY, network_of, parts
from vsm_fast import VSMScorer
from vsm_fast.model.config import BackboneConfig, ModelConfig
from vsm_fast.runtimes.choose import LoadedModel
from vsm_fast.runtimes.torch_runtime import CompiledRuntime, TorchRuntime

DIFFERENT = 32  # distinct images, repeated for more
GENERATIONS = 1000
REFERENCES, EACH = 30, 4 * 30
SECONDS = 12.0  # approximate duration of a measurement


def run(device: torch.device, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield rows of (workload, how) with pairs and images per second and peak memory."""
    side = 64 if quick else 768
    dtype = torch.bfloat16
    made = parts(TINY if quick else FULL)
    config = ModelConfig(
        "SD 2.1 shape, random weights",
        BackboneConfig(LEVELS, side, TIMESTEP, latent_scale=LATENT_SCALE),
        made.semantic.config,
    )
    images = _images(2 if quick else DIFFERENT, 96 if quick else 1024)
    rate = _recipe_rate(ReferenceRecipe(config, made, device, dtype), images, 1 if quick else 8)
    yield {"workload": "any", "how": "recipe", "pairs_per_s": rate, "images_per_s": 2 * rate}

    folded = network_of(made)
    folded.backbone.fold(side)  # type: ignore[operator]
    counted = operations_per_image(copy.deepcopy(folded), side)
    folded.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for kind in (TorchRuntime,) if quick else (TorchRuntime, CompiledRuntime):
        scorer = VSMScorer(LoadedModel(config, kind(folded)))
        scorer.score(images[:1], images, semantic_threshold=-1)  # compiles; not timed
        for workload, score, generations, described in _workloads(scorer, images, quick):
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            rate = _rate(score, generations, device)
            row = {"workload": workload, "how": f"vsm_fast, {kind.name}", "pairs_per_s": rate}
            row["images_per_s"] = rate * described
            row["tflops"] = row["images_per_s"] * counted / 1e12
            if device.type == "cuda":
                row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
            yield row


def _recipe_rate(recipe: ReferenceRecipe, images: list[NDArray[np.uint8]], count: int) -> float:
    reference, generation = (images[0], None), (images[1], None)
    recipe.score(reference, generation)  # not timed: kernels are chosen

    def score(pairs: int) -> None:
        for _ in range(pairs):
            recipe.score(reference, generation)

    return _rate(score, count, recipe.device)


def _workloads(
    scorer: VSMScorer, images: list[NDArray[np.uint8]], quick: bool
) -> Iterator[tuple[str, Callable[[int], Any], int, float]]:
    """Yield (name, function of the number of pairs, initial pairs, images per pair)."""

    def one(count: int) -> Any:
        gens = [images[number % len(images)] for number in range(count)]
        return scorer.score(images[:1], gens, semantic_threshold=-1)

    def many(count: int) -> Any:
        references = max(1, count // EACH)
        gens = [images[number % len(images)] for number in range(count)]
        pairs = [(number % references, number) for number in range(count)]
        refs = [images[number % len(images)] for number in range(references)]
        return scorer.score(refs, gens, pairs=pairs, semantic_threshold=-1)

    yield f"1 x {GENERATIONS}", one, 2 if quick else 64, 1 + 1 / GENERATIONS
    yield f"{REFERENCES} x 4 x 30", many, 2 if quick else EACH, 1 + 1 / EACH


def _rate(score: Callable[[int], Any], count: int, device: torch.device) -> float:
    """Return pairs per second, measured on ``count`` pairs, then on as many as time allows."""
    seconds = _seconds(score, count, device)
    longer = min(GENERATIONS, int(count * SECONDS / seconds)) if device.type == "cuda" else count
    if longer > count:
        count, seconds = longer, _seconds(score, longer, device)
    return count / seconds


def _seconds(score: Callable[[int], Any], count: int, device: torch.device) -> float:
    begin = time.perf_counter()
    score(count)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def _images(count: int, side: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (side, side, 3), np.uint8) for _ in range(count)]
