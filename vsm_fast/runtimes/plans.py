"""TensorRT plans in an exported folder, each with a sidecar that says what it is and fits.

A plan is native code for one GPU and one TensorRT: without a sidecar that fits, and the sha256
in it, none is given to TensorRT.
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
    """What a sidecar says.

    Attributes:
        sha256: Of the plan (hex).
        size: Of the plan, bytes.
        machine: Where it was built, and only runs.
        precision: Of the graph that it was built from.
        batch: Batch sizes that it takes.
        weights: Fingerprint of the weights of the model.
        graph: sha256 of each file of the ONNX graph.
        cuda_graph: Whether its launches may be captured as one CUDA graph.
        built: How, and what came out: for the record.
        checked: What its check against another runtime found: for the record.
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
    """File name of a plan, like ``"model-h100-80gb-hbm3-sm90-trt11.4.plan"``."""
    gpu = re.sub(r"[^a-z0-9]+", "-", machine.gpu.lower().replace("nvidia", "")).strip("-")
    major, minor = machine.capability
    version = ".".join(machine.tensorrt.split(".")[:2])
    return f"model-{gpu}-sm{major}{minor}-trt{version}{SUFFIX}"


def rebuild_command(folder: Path) -> str:
    """What builds a plan for this machine."""
    return f"python -m vsm_fast.export.build_trt --onnx {folder}"


def write_plan(folder: Path, content: bytes, record: PlanRecord) -> Path:
    """Write a plan and, once it is complete, its sidecar.

    Returns:
        The plan.
    """
    path = folder / plan_name(record.machine)
    path.with_suffix(".json").unlink(missing_ok=True)  # never that of another plan
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    write_json(path.with_suffix(".json"), {"format": FORMAT, **dataclasses.asdict(record)})
    return path


def plans_in(folder: Path) -> list[Path]:
    """The plans of a folder, with or without sidecars."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def read_sidecar(plan: Path) -> PlanRecord:
    """Read the sidecar of a plan.

    Raises:
        ModelError: It is missing or wrong.
    """
    path = plan.with_suffix(".json")
    try:
        return _record(json.loads(path.read_text(encoding="utf-8")))
    except WRONG_JSON as error:
        raise ModelError(
            f"{path} does not describe {plan.name} ({type(error).__name__}: {error}); a plan is "
            f"native code and is not loaded without. Build it again: {rebuild_command(plan.parent)}"
        ) from error


def _record(content: Any) -> PlanRecord:
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


def mismatches(plan: PlanRecord, record: ExportRecord, here: Machine) -> list[str]:
    """Why a plan is not for this folder on this machine; driver and CUDA may differ."""
    pairs = {
        "TensorRT": (plan.machine.tensorrt, here.tensorrt),
        "the GPU": (plan.machine.gpu, here.gpu),
        "the compute capability": (plan.machine.capability, here.capability),
        "the weights": (plan.weights[:12], weights_fingerprint(record.model)[:12]),
        "the precision": (plan.precision, record.precision),
        "the batch sizes": (dataclasses.astuple(plan.batch), dataclasses.astuple(record.batch)),
    }
    wrong = [
        f"{what}: built for {built}, here is {found}"
        for what, (built, found) in pairs.items()
        if built != found
    ]
    if dict(plan.graph) != record.graph:
        wrong.append(f"{ONNX}: built from another graph than export.json describes")
    return wrong


def choose_plan(folder: Path, record: ExportRecord, here: Machine) -> tuple[Path, PlanRecord]:
    """The plan of an exported folder that fits this machine.

    Raises:
        NoPlan: There is none; says of each why it does not fit, and how to build one.
        ModelError: None fits, and a sidecar is missing or wrong.
    """
    reasons = []
    damaged: ModelError | None = None
    for path in plans_in(folder):
        try:
            plan = read_sidecar(path)
        except ModelError as error:
            damaged = error
            continue
        wrong = mismatches(plan, record, here)
        if not wrong:
            return path, plan
        reasons.append(f"{path.name}: {'; '.join(wrong)}")
    if damaged is not None:
        raise damaged
    raise NoPlan(
        f"{folder} has no TensorRT plan for this machine ({here}). "
        + ("".join(f"{reason}. " for reason in reasons) or "It has none at all. ")
        + f"Build one: {rebuild_command(folder)}"
    )


def read_plan(path: Path, plan: PlanRecord) -> bytes:
    """The content of a plan, which is what its sidecar says.

    Raises:
        ModelError: It was altered or cut off, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    found = hashlib.sha256(content).hexdigest()
    if (len(content), found) != (plan.size, plan.sha256):
        raise ModelError(
            f"{path} was altered or cut off: {len(content)} bytes with sha256 {found}, its sidecar "
            f"says {plan.size} with {plan.sha256}. Build it again: {rebuild_command(path.parent)}"
        )
    return content
