"""Step 5: images per second of a network of the SD 2.1 shape with random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.flops import operations_per_image
from benchmarks.gpu.timing import measure, rate
from benchmarks.sd_shape import FULL, TINY, network_of, parts

BATCHES = (1, 4, 8, 16, 32)


def run(device: torch.device, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield rows of (type, how, batch) with time, images per second and memory.

    ``unfolded`` is the network before constant folding; the others are folded.
    """
    side = 64 if quick else 768
    unfolded = network_of(parts(TINY if quick else FULL))
    model = copy.deepcopy(unfolded)
    model.backbone.fold(side)  # type: ignore[operator]
    counted = operations_per_image(model, side)
    for part in (unfolded, model):
        part.to(device, memory_format=torch.channels_last)
    for dtype in (torch.bfloat16,) if quick else (torch.bfloat16, torch.float16):
        unfolded, model = unfolded.to(dtype), model.to(dtype)
        calls = {"unfolded": unfolded, "eager": model, "torch.compile": torch.compile(model)}
        for how, call in calls.items():
            if quick and how == "torch.compile":
                continue
            for batch in (1, 2) if quick else BATCHES:
                images = torch.rand(batch, 3, side, side, device=device) * 2 - 1
                images = images.to(memory_format=torch.channels_last)
                row = {"dtype": str(dtype).removeprefix("torch."), "how": how, "batch": batch}
                yield row | _time(call, images, device, counted)


def _time(call: Any, images: torch.Tensor, device: torch.device, counted: float) -> dict[str, Any]:
    try:
        with torch.inference_mode():
            timing = measure(lambda: call(images), device, milliseconds=1000)
    except Exception as error:  # of any class: the other rows still run
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    per_second = len(images) / timing.p50 * 1e6
    return asdict(timing) | {
        "images_per_s": per_second,
        "tflops": rate(counted * len(images), timing),
    }
