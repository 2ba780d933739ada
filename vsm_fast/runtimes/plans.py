"""TensorRT plans in an exported folder, each with a sidecar of metadata.

A plan is native code for one GPU and one TensorRT version. Only a plan with a matching sidecar,
and the sha256 recorded in it, is passed to TensorRT.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vsm_fast.errors import WRONG_JSON, ModelError
from vsm_fast.files import replacing, write_json
from vsm_fast.model.config import weights_fingerprint
from vsm_fast.runtimes.exported import ONNX, BatchRange, ExportRecord
from vsm_fast.runtimes.tensorrt_library import Machine

FORMAT = "vsm_fast-plan/1"
SUFFIX = ".plan"


class NoPlan(ModelError):
    """An exported folder has no plan for this machine."""


@dataclass(frozen=True)
class PlanRecord:
    """Content of a sidecar.

    Attributes:
        sha256: Hash of the plan (hex).
        size: Size of the plan in bytes.
        machine: The machine that built it, and only runs it.
        precision: Precision of its graph.
        batch: Accepted batch sizes.
        weights: Fingerprint of the model's weights.
        graph: sha256 of each file of its ONNX graph.
        cuda_graph: Whether its launches may be captured as one CUDA graph.
        built: Build options and results, for the record.
        checked: Results of its check against another runtime, for the record.
    """

    sha256: str
    size: int
    machine: Machine
    precision: str
    batch: BatchRange
    weights: str
    graph: Mapping[str, str]
    cuda_graph: bool = False
    built: Mapping[str, Any] = field(default_factory=dict)
    checked: Mapping[str, Any] = field(default_factory=dict)


def plan_name(machine: Machine) -> str:
    """Return the file name of a plan, like ``"model-h100-80gb-hbm3-sm90-trt11.4.plan"``."""
    gpu = re.sub(r"[^a-z0-9]+", "-", machine.gpu.lower().replace("nvidia", "")).strip("-")
    major, minor = machine.capability
    version = ".".join(machine.tensorrt.split(".")[:2])
    return f"model-{gpu}-sm{major}{minor}-trt{version}{SUFFIX}"


def _rebuild_command(folder: Path) -> str:
    return f"python -m vsm_fast.export.build_trt --onnx {folder}"


def write_plan(folder: Path, content: bytes, record: PlanRecord) -> Path:
    """Write a plan and then its sidecar; return the path of the plan."""
    path = folder / plan_name(record.machine)
    path.with_suffix(".json").unlink(missing_ok=True)  # it may describe another plan
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    write_json(path.with_suffix(".json"), {"format": FORMAT, **dataclasses.asdict(record)})
    return path


def plans_in(folder: Path) -> list[Path]:
    """Return the plans of a folder, with or without sidecars."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def read_sidecar(plan: Path) -> PlanRecord:
    """Read the sidecar of a plan.

    Raises:
        ModelError: If it is missing or wrong.
    """
    path = plan.with_suffix(".json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT!r}; got {content['format']!r}")
        machine = content["machine"]
        major, minor = map(int, machine["capability"])
        return PlanRecord(
            sha256=str(content["sha256"]),
            size=int(content["size"]),
            machine=Machine(**{**machine, "capability": (major, minor)}),
            precision=str(content["precision"]),
            batch=BatchRange(**{name: int(size) for name, size in content["batch"].items()}),
            weights=str(content["weights"]),
            graph={str(name): str(digest) for name, digest in content["graph"].items()},
            cuda_graph=content["cuda_graph"] is True,
            built=dict(content["built"]),
            checked=dict(content["checked"]),
        )
    except WRONG_JSON as error:
        raise ModelError(
            f"{path} does not describe {plan.name} ({type(error).__name__}: {error}); a plan is "
            "native code and is not loaded without a sidecar. Build it again: "
            f"{_rebuild_command(plan.parent)}"
        ) from error


def choose_plan(folder: Path, record: ExportRecord, here: Machine) -> tuple[Path, PlanRecord]:
    """Return the plan of an exported folder that fits this machine, and its sidecar.

    Driver and CUDA versions may differ from those of the build.

    Raises:
        NoPlan: If no plan fits. Names the mismatches of each plan and the build command.
        ModelError: If no plan fits, and a sidecar is missing or wrong.
    """
    reasons = []
    damaged: ModelError | None = None
    for path in plans_in(folder):
        try:
            plan = read_sidecar(path)
        except ModelError as error:
            damaged = error
            continue
        built = plan.machine
        compared = {
            "TensorRT": (built.tensorrt, here.tensorrt),
            "the GPU": (built.gpu, here.gpu),
            "the compute capability": (built.capability, here.capability),
            "the weights": (plan.weights[:12], weights_fingerprint(record.model)[:12]),
            "the precision": (plan.precision, record.precision),
            "the batch sizes": (dataclasses.astuple(plan.batch), dataclasses.astuple(record.batch)),
        }
        mismatches = [
            f"{name}: built for {before}, here is {now}"
            for name, (before, now) in compared.items()
            if before != now
        ]
        if dict(plan.graph) != record.graph:
            mismatches.append(f"{ONNX}: built from another graph than export.json describes")
        if not mismatches:
            return path, plan
        reasons.append(f"{path.name}: {'; '.join(mismatches)}. ")
    if damaged is not None:
        raise damaged
    raise NoPlan(
        f"{folder} has no TensorRT plan for this machine ({here}). "
        f"{''.join(reasons) or 'It has none at all. '}Build one: {_rebuild_command(folder)}"
    )


def read_plan(path: Path, plan: PlanRecord) -> bytes:
    """Read a plan and check it against its sidecar.

    Raises:
        ModelError: If it was altered or cut off, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    digest = hashlib.sha256(content).hexdigest()
    if (len(content), digest) != (plan.size, plan.sha256):
        raise ModelError(
            f"{path} was altered or cut off: {len(content)} bytes with sha256 {digest}, its "
            f"sidecar says {plan.size} with {plan.sha256}. Build it again: "
            f"{_rebuild_command(path.parent)}"
        )
    return content
