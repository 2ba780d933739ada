"""From the name of a model to a runtime: the one place that chooses what runs it."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from vsm_fast import __version__
from vsm_fast.errors import ModelError
from vsm_fast.extras import required
from vsm_fast.files import alone
from vsm_fast.identity import ModelIdentity, identity_of
from vsm_fast.model.config import ModelConfig, weights_fingerprint
from vsm_fast.model.devices import choose_device, choose_dtype, precision_name
from vsm_fast.model.load import load_model, verified_config
from vsm_fast.model.location import exports_home, find_model
from vsm_fast.runtimes.exported import DamagedExport, ExportRecord, is_exported, read_record
from vsm_fast.runtimes.onnx_runtime import OnnxRuntime
from vsm_fast.runtimes.plans import NoPlan, choose_plan, plans_in
from vsm_fast.runtimes.quantized import QUANTIZED, quantize_linear
from vsm_fast.runtimes.runtime import Runtime
from vsm_fast.runtimes.tensorrt_library import library, machine, unusable
from vsm_fast.runtimes.tensorrt_runtime import load_tensorrt
from vsm_fast.runtimes.torch_runtime import CompiledRuntime, TorchRuntime
from vsm_fast.torch_state import pinned

_log = logging.getLogger(__name__)

RUNTIMES = ("auto", "torch", "torch-compile", "onnxruntime", "tensorrt")
_EXPORTED = ("onnxruntime", "tensorrt")  # those that run an exported network


@dataclass(frozen=True)
class LoadedModel:
    """A model and what runs it.

    Attributes:
        config: Of the model.
        runtime: Runs its network.
        in_float32: Loads the same network in float32, for batches in which a lower precision
            gave NaN or Inf; None where ``runtime`` computes in float32 or there are no weights.
        graph: sha256 of each file of the exported graph that ``runtime`` runs; empty where it
            runs the weights.
    """

    config: ModelConfig
    runtime: Runtime
    in_float32: Callable[[], Runtime] | None = None
    graph: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> ModelIdentity:
        """What decides its descriptors."""
        return identity_of(self.config, self.runtime, self.graph)


@pinned()
def load_runtime(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: str | torch.device = "auto",
    dtype: str = "auto",
    runtime: str = "auto",
    local_files_only: bool = False,
) -> LoadedModel:
    """Load a model into a runtime.

    Args:
        name_or_path: ``"tiny"`` (embedded), a model folder, an exported folder, a converted
            preset, or a Hub repository id.
        revision: Commit, tag or branch of a Hub repository.
        device: ``"auto"`` (CUDA when there is one) or a torch device.
        dtype: ``"auto"`` (float32 on a CPU, bfloat16 on CUDA), ``"float32"``, ``"bfloat16"``,
            ``"float16"``, or ``"int8"`` or ``"float8"`` for the linear layers of a network in
            ``"auto"``.
        runtime: One of ``RUNTIMES``. ``"auto"`` is ``"torch"`` for a model with weights; for an
            exported folder ``"tensorrt"`` where it has a plan that fits this GPU, else
            ``"onnxruntime"``. A model with weights is exported on the first use of
            ``"onnxruntime"`` or ``"tensorrt"``, and a plan built for the latter.
        local_files_only: Never ask the network, even for a Hub repository.

    Raises:
        ModelError: Files are missing, altered or do not fit together.
        ValueError: An unknown dtype or runtime, or ``"tensorrt"`` without an NVIDIA GPU.
        ImportError: A package that the dtype or the runtime needs is not installed.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}; got {runtime!r}.")
    where = choose_device(device)
    folder = find_model(name_or_path, revision=revision, local_files_only=local_files_only)
    if is_exported(folder):
        return load_exported(folder, where, dtype, runtime)
    precision = choose_dtype("auto" if dtype in QUANTIZED else dtype, where)
    load = partial(_load_torch, folder, where, compiled=runtime == "torch-compile")

    def in_float32() -> Runtime:
        config, found = load(torch.float32)
        if config != loaded.config:
            raise ModelError(f"{folder} was replaced since its model was loaded; load it again.")
        return found

    if runtime in _EXPORTED:
        if dtype in QUANTIZED:
            raise ValueError(
                f"runtime {runtime!r} makes no graph in {dtype!r} by itself; use 'auto'. For int8 "
                "on a CPU, which is calibrated: python export/build_onnx.py --dtype int8 "
                "--calibration PHOTOGRAPHS, and score with the folder that it writes as the model."
            )
        if runtime == "tensorrt":
            library(where)  # refused before minutes of exporting
        loaded = _load_own_export(folder, precision_name(precision), where, runtime)
    else:
        loaded = LoadedModel(*load(precision, quantized=dtype if dtype in QUANTIZED else None))
    if loaded.runtime.precision == "float32":
        return loaded
    return replace(loaded, in_float32=in_float32)


@pinned()
def load_exported(folder: Path, device: torch.device, dtype: str, runtime: str) -> LoadedModel:
    """Load an exported folder.

    Raises:
        ModelError: Its files are missing, altered or damaged, it has no plan for this GPU, or the
            runtime needs weights.
        ValueError: It was exported in another precision, or ``"tensorrt"`` without an NVIDIA GPU.
        ImportError: onnxruntime or tensorrt is not installed.
    """
    if runtime not in ("auto", *_EXPORTED):
        raise ModelError(
            f"{folder} is an exported network, which runtime {runtime!r} cannot run; use 'auto', "
            "or give the model that it was exported from."
        )
    record = read_record(folder)
    if dtype not in ("auto", record.precision):
        raise ValueError(
            f"{folder} was exported in {record.precision}, got dtype {dtype!r}; use 'auto', or "
            "export it again."
        )
    found: Runtime
    if runtime == "tensorrt" or (runtime == "auto" and _plan_fits(folder, record, device)):
        found = load_tensorrt(folder, record, device)
    else:
        found = OnnxRuntime(folder, record, device)
    return LoadedModel(record.model, found, graph=record.graph)


def _load_own_export(
    folder: Path, precision: str, device: torch.device, runtime: str
) -> LoadedModel:
    """Load our own export of a model, made and built from where it is missing or damaged."""

    def load(*, again: bool) -> LoadedModel:
        exported = exported_folder(folder, precision, again=again)
        if runtime == "tensorrt":
            _ensure_plan(exported, folder, device)
        return load_exported(exported, device, "auto", runtime)

    try:
        return load(again=False)
    except DamagedExport as error:
        _log.warning("%s", error)
        return load(again=True)


def _plan_fits(folder: Path, record: ExportRecord, device: torch.device) -> bool:
    """Whether a folder has a plan for this machine; why not is logged where it has any."""
    if not plans_in(folder):
        return False
    reason = unusable(device)
    if not reason:
        try:
            choose_plan(folder, record, machine(library(device), device))
            return True
        except NoPlan as error:
            reason = str(error)
    _log.warning("%s is scored by ONNX Runtime, not by TensorRT: %s", folder, reason)
    return False


def _ensure_plan(exported: Path, folder: Path, device: torch.device) -> None:
    """Build a plan for this GPU into our own export of a model, unless it is there."""
    from vsm_fast.export.trt_plans import ensure_plan, torch_references

    record = read_record(exported)
    ensure_plan(
        exported, record, device, lambda: torch_references(os.fspath(folder), record, device)
    )


def exported_folder(folder: Path, precision: str, *, again: bool = False) -> Path:
    """The export of a model with weights, made when it is missing.

    Threads and processes that start at once make one.

    Args:
        folder: Where the model is.
        precision: Of the export.
        again: Whether to replace one that is there.

    Raises:
        ModelError: It cannot be exported.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    required("onnxruntime", "the check of an exported graph")
    config = verified_config(folder)
    versions = f"{__version__} {torch.__version__} {config.to_json()}"
    settings = hashlib.sha256(versions.encode()).hexdigest()[:8]
    out = exports_home() / f"{weights_fingerprint(config)[:16]}-{settings}-{precision}"
    if is_exported(out) and not again:
        return out
    from vsm_fast.export import onnx_graph

    with alone(out.with_name(f".{out.name}.lock")):
        if again or not is_exported(out):  # others may have made it in the meantime
            _log.warning("exporting %s to ONNX into %s, which happens once", config.name, out)
            onnx_graph.export_onnx(os.fspath(folder), out, onnx_graph.ExportOptions(precision))
    return out


def _load_torch(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    compiled: bool,
    quantized: str | None = None,
) -> tuple[ModelConfig, Runtime]:
    config, network = load_model(folder, device=device, dtype=dtype)
    if quantized is not None:
        quantize_linear(network, quantized)
    kind = CompiledRuntime if compiled else TorchRuntime
    return config, kind(network, quantized)
