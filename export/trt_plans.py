"""Plans in an exported folder: built, checked, then written with their sidecar."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from vsm_fast.errors import ModelError
from vsm_fast.export import runtime_check, trt_engine
from vsm_fast.export.runtime_check import (
    Difference,
    difference,
    require_small,
    speed_table,
    speeds,
)
from vsm_fast.export.trt_engine import BuildOptions, EngineSummary
from vsm_fast.files import alone
from vsm_fast.model.config import weights_fingerprint
from vsm_fast.model.devices import choose_dtype
from vsm_fast.model.load import load_model
from vsm_fast.runtimes.exported import ExportRecord, verify_graph
from vsm_fast.runtimes.plans import NoPlan, PlanRecord, choose_plan, write_plan
from vsm_fast.runtimes.runtime import Runtime
from vsm_fast.runtimes.tensorrt_library import library, machine
from vsm_fast.runtimes.tensorrt_runtime import TensorRTRuntime, deserialized
from vsm_fast.runtimes.torch_runtime import TorchRuntime

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class References:
    """What a plan is compared with.

    Attributes:
        right: Computes in float32, or is the best that there is.
        torch: torch in the plan's precision: how far that is off is what a plan may be off twice.
            None where there are no weights, or it is ``right`` itself.
    """

    right: Runtime
    torch: Runtime | None = None


def torch_references(
    model: str, record: ExportRecord, device: torch.device, *, local_files_only: bool = False
) -> References:
    """The references of an export whose model is here.

    Args:
        model: Name or folder.
        record: Of the exported folder.
        device: Where torch computes.
        local_files_only: Never ask the network for the model.

    Raises:
        ModelError: The model cannot be loaded, or the export is of other weights.
    """
    if record.precision == "float32":
        precisions = [torch.float32]
    else:
        precisions = [torch.float32, choose_dtype(record.precision, device)]
    runtimes = []
    for precision in precisions:
        config, network = load_model(
            model, device=device, dtype=precision, local_files_only=local_files_only
        )
        if config.files != record.model.files:
            raise ModelError(
                f"the export is not of {model!r}: their weights differ. Export it again."
            )
        runtimes.append(TorchRuntime(network))
    return References(*runtimes)


@dataclass(frozen=True)
class MadePlan:
    """A plan that was written.

    Attributes:
        path: The file.
        record: What its sidecar says.
        engine: What it consists of.
    """

    path: Path
    record: PlanRecord
    engine: EngineSummary


def make_plan(
    folder: Path,
    record: ExportRecord,
    device: torch.device,
    options: BuildOptions,
    references: References,
    *,
    time_it: bool = False,
    progress: bool = False,
    photographs: Path | None = None,
    tell: Callable[[str], None] = _log.info,
) -> MadePlan:
    """Build a plan of an exported folder for this machine; it appears checked or not at all.

    Args:
        folder: With ``export.json`` and its graph.
        record: Content of ``export.json``.
        device: GPU that it is for.
        options: How it is built.
        references: What it must agree with.
        time_it: Whether to time it against the references.
        progress: Whether to show a bar on standard error.
        photographs: For the comparison of scores; see ``runtime_check.difference``. None = the
            examples of the repository.
        tell: Gets a sentence about each step.

    Raises:
        ModelError: The graph was altered, cannot be built, or its plan computes something else.
        ValueError: The device is no NVIDIA GPU, or a CUDA graph of several batch sizes was asked
            for.
        ImportError: TensorRT is not installed, or too old.
        torch.OutOfMemoryError: The GPU has too little memory to build it.
    """
    if options.cuda_graph and not record.batch.static:
        raise ValueError("a CUDA graph is for one batch size; export with --static-batch N.")
    trt_engine.require_precision(folder, record)
    trt = library(device)
    here = machine(trt, device)
    graph = verify_graph(folder, record)
    tell(f"building a plan of {record.model.name} in {record.precision} for {here}")
    begin = time.monotonic()
    content = trt_engine.build(trt, graph, record, options, here, device, progress=progress)
    seconds = time.monotonic() - begin
    engine = deserialized(trt, content, device)
    summary = trt_engine.summary(trt, engine)
    tell(f"built in {seconds / 60:.1f} minutes, {len(content) / 2**20:.1f} MiB: {summary}")

    runtime = TensorRTRuntime(trt, engine, record, device, cuda_graph=options.cuda_graph)
    found = _checked(runtime, record, references, photographs, tell)
    if time_it:
        sizes = sorted(set(dataclasses.astuple(record.batch)))
        contestants = [references.torch or references.right, runtime]
        tell(speed_table(speeds(contestants, sizes, record.model.backbone.resolution)))
    plan = PlanRecord(
        hashlib.sha256(content).hexdigest(),
        len(content),
        here,
        record.precision,
        record.batch,
        weights_fingerprint(record.model),
        record.graph,
        options.cuda_graph,
        {
            "seconds": round(seconds, 1),
            "workspace_gib": options.workspace,
            "optimization_level": options.optimization_level,
            **dataclasses.asdict(summary),
        },
        {"against": references.right.name, **dataclasses.asdict(found)},
    )
    return MadePlan(write_plan(folder, content, plan), plan, summary)


def _checked(
    runtime: TensorRTRuntime,
    record: ExportRecord,
    references: References,
    photographs: Path | None,
    tell: Callable[[str], None],
) -> Difference:
    """How far a plan is from its reference; too far is an error."""
    right = references.right

    def off(other: Runtime) -> Difference:
        pictures = runtime_check.EXAMPLES if photographs is None else photographs
        return difference(record.model, right, other, record.batch, pictures)

    torchs = None
    if references.torch is not None:
        torchs = off(references.torch)
        tell(f"torch in {record.precision} against {right.name} in {right.precision}: {torchs}")
    found = off(runtime)
    tell(f"the plan against {right.name} in {right.precision}: {found}")
    require_small(found, torchs, "the plan")
    return found


def ensure_plan(
    folder: Path,
    record: ExportRecord,
    device: torch.device,
    references: Callable[[], References],
) -> None:
    """Build the plan of an exported folder for this machine unless it is there.

    Several processes that start at once build one plan.

    Raises:
        ModelError: As :func:`make_plan`.
        ValueError: As :func:`make_plan`.
        ImportError: As :func:`make_plan`.
    """
    here = machine(library(device), device)
    with alone(folder / ".building"):
        try:
            choose_plan(folder, record, here)
            return
        except NoPlan:
            _log.warning(
                "building a TensorRT plan of %s for %s into %s, which takes minutes and happens "
                "once", record.model.name, here.gpu, folder,
            )  # fmt: skip
        except ModelError as error:  # a damaged sidecar in a folder that is ours
            _log.warning("%s", error)
        make_plan(folder, record, device, BuildOptions(), references())
