"""What a build would make, found out without a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from vsm_fast.errors import ModelError
from vsm_fast.export.graph_facts import GraphFacts, graph_facts
from vsm_fast.export.trt_engine import parsed, require_precision
from vsm_fast.model.config import weights_fingerprint
from vsm_fast.runtimes.exported import ExportRecord, verify_graph
from vsm_fast.runtimes.plans import plan_name
from vsm_fast.runtimes.tensorrt_library import created, library, machine, unusable

# TensorRT may not start without a driver. TensorRT for RTX has the same interface and does.
_PARSERS = ("tensorrt", "tensorrt_rtx")


def describe(folder: Path, record: ExportRecord, device: torch.device) -> Iterator[str]:
    """Lines that say what a plan of an exported folder would be.

    Raises:
        ModelError: The graph was altered, is not valid, or TensorRT cannot read it.
        ImportError: onnx is not installed.
    """
    require_precision(folder, record)
    path = verify_graph(folder, record)
    facts = graph_facts(path)
    for title, text in _rows(facts, record, path, device):
        yield f"{title:<12} {text}"


def _rows(
    facts: GraphFacts, record: ExportRecord, path: Path, device: torch.device
) -> Iterator[tuple[str, str]]:
    yield "model", f"{record.model.name}, weights {weights_fingerprint(record.model)[:12]}"
    for title, values in (("input", facts.inputs), ("output", facts.outputs)):
        for value in values:
            yield title, value
    least, best, most = dataclasses.astuple(record.batch)
    yield "profile", f"batch at least {least}, at best {best}, at most {most}"
    yield "precision", f"{record.precision}, strongly typed"
    kinds = sorted(facts.kinds.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds[:6])
    yield "operators", f"{facts.nodes} ({shown}, ...)"
    types = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in facts.types.items())
    yield "weights", f"{facts.weight_bytes / 2**20:.1f} MiB ({types})"
    if facts.operations is not None:
        yield "operations", f"{facts.operations / 1e9:.2f} GFLOP an image"
    if facts.activation_bytes is not None:
        size = facts.activation_bytes / 2**20
        yield "activations", f"{size:.1f} MiB an image at the same time, operators as they stand"
    yield "parsed", _parse(path)
    reason = unusable(device)
    if reason:
        yield "plan", f"cannot be built here: {reason}"
    else:
        yield "plan", f"would be {plan_name(machine(library(device), device))}"


def _parse(path: Path) -> str:
    """What a parser of TensorRT makes of the graph; why there is none.

    Raises:
        ModelError: It cannot read it.
    """
    reasons = []
    for name in _PARSERS:
        try:
            trt = import_module(name)
            builder: Any = created(trt, "Builder")
        except (ImportError, ModelError) as error:
            reasons.append(f"{name}: {error}")
            continue
        network = parsed(trt, builder, path)
        sizes = f"{network.num_inputs} input and {network.num_outputs} outputs"
        return f"by {name} {trt.__version__}: {network.num_layers} layers, {sizes}"
    return (
        f"by onnx alone ({'; '.join(reasons)}). To have it parsed without a GPU: "
        "pip install tensorrt-rtx-cu12"
    )
