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
from vsm_fast.export.trt_engine import BuildOptions, EngineSummary
from vsm_fast.files import alone
from vsm_fast.model.config import weights_fingerprint
from vsm_fast.model.devices import choose_dtype
from vsm_fast.model.load import load_model
from vsm_fast.runtimes.exported import ExportRecord, verify_graph
from vsm_fast.runtimes.plans import NoPlan, PlanRecord, choose_plan, write_plan
from vsm_fast.runtimes.runtime import Runtime
from vsm_fast.runtimes.tensorrt_library import library, machine
from vsm_fast.runtimes.tensorrt_runtime import TensorRTRuntime, deserialize
from vsm_fast.runtimes.torch_runtime import TorchRuntime

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class References:
    """Runtimes that a plan is compared with.

    Attributes:
        best: Computes in float32, or in the highest precision available.
        torch: Torch in the plan's precision, whose error bounds the plan's; None without weights,
            or if it is ``best`` itself.
    """

    best: Runtime
    torch: Runtime | None = None


def torch_references(
    model: str, record: ExportRecord, device: torch.device, *, local_files_only: bool = False
) -> References:
    """Load an exported model into torch, in float32 and in the precision of the export.

    Raises:
        ModelError: If the model cannot be loaded, or the export has other weights.
    """
    runtimes = []
    for precision in dict.fromkeys((torch.float32, choose_dtype(record.precision, device))):
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
    """A written plan: its file, the content of its sidecar, and the contents of its engine."""

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
    """Build a plan of an exported folder for this machine; it is written only after its check.

    Args:
        folder: Folder with ``export.json`` and its graph.
        record: Content of ``export.json``.
        device: Target GPU.
        options: Build options.
        references: Runtimes that it must agree with.
        time_it: Whether to time it against the references.
        progress: Whether to show a bar on standard error.
        photographs: Photographs for the comparison of scores; see
            :func:`runtime_check.difference`. None = the examples of the repository.
        tell: Called with a sentence about each step.

    Raises:
        ModelError: If the graph was altered, cannot be built, or gives an inaccurate plan.
        ValueError: If the device is not an NVIDIA GPU, or a CUDA graph was requested for several
            batch sizes.
        ImportError: If TensorRT is not installed, or too old.
        torch.OutOfMemoryError: If the GPU has too little memory.
    """
    if options.cuda_graph and not record.batch.static:
        raise ValueError("a CUDA graph needs a fixed batch size; export with --static-batch N.")
    trt_engine.require_precision(folder, record)
    trt = library(device)
    here = machine(trt, device)
    graph = verify_graph(folder, record)
    tell(f"building a plan of {record.model.name} in {record.precision} for {here}")
    begin = time.monotonic()
    content = trt_engine.build(trt, graph, record, options, here, device, progress=progress)
    seconds = time.monotonic() - begin
    engine = deserialize(trt, content, device)
    summary = trt_engine.summary(trt, engine)
    tell(f"built in {seconds / 60:.1f} minutes, {len(content) / 2**20:.1f} MiB: {summary}")

    runtime = TensorRTRuntime(trt, engine, record, device, cuda_graph=options.cuda_graph)
    best = references.best
    pictures = runtime_check.EXAMPLES if photographs is None else photographs

    def compare(other: Runtime, name: str) -> runtime_check.Difference:
        found = runtime_check.difference(record.model, best, other, record.batch, pictures)
        tell(f"{name} against {best.name} in {best.precision}: {found}")
        return found

    torchs = None
    if references.torch is not None:
        torchs = compare(references.torch, f"torch in {record.precision}")
    found = compare(runtime, "the plan")
    runtime_check.require_small(found, torchs, "the plan")
    if time_it:
        contestants = [references.torch or best, runtime]
        sizes = sorted(set(dataclasses.astuple(record.batch)))
        tell(runtime_check.speed_table(contestants, sizes, record.model.backbone.resolution))
    plan = PlanRecord(
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        machine=here,
        precision=record.precision,
        batch=record.batch,
        weights=weights_fingerprint(record.model),
        graph=record.graph,
        cuda_graph=options.cuda_graph,
        built={
            "seconds": round(seconds, 1),
            "workspace_gib": options.workspace,
            "optimization_level": options.optimization_level,
            **dataclasses.asdict(summary),
        },
        checked={"against": best.name, **dataclasses.asdict(found)},
    )
    return MadePlan(write_plan(folder, content, plan), plan, summary)


def ensure_plan(
    folder: Path, record: ExportRecord, device: torch.device, references: Callable[[], References]
) -> None:
    """Build the plan of an exported folder for this machine if it is missing.

    Processes that start at once build one plan.

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
                "building a TensorRT plan of %s for %s into %s; this takes minutes, once",
                record.model.name, here.gpu, folder,
            )  # fmt: skip
        except ModelError as error:  # a damaged sidecar in a folder of our own
            _log.warning("%s", error)
        make_plan(folder, record, device, BuildOptions(), references())
