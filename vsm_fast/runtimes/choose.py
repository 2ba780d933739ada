"""Runtime choice: from the name of a model to a runtime that executes it."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
from vsm_fast.model.location import find_model
from vsm_fast.model.presets import home
from vsm_fast.runtimes.exported import DamagedExport, ExportRecord, is_exported, read_record
from vsm_fast.runtimes.onnx_runtime import OnnxRuntime
from vsm_fast.runtimes.plans import NoPlan, choose_plan, plans_in
from vsm_fast.runtimes.runtime import Runtime
from vsm_fast.runtimes.tensorrt_library import library, machine, unusable
from vsm_fast.runtimes.tensorrt_runtime import load_tensorrt
from vsm_fast.runtimes.torch_runtime import (
    QUANTIZED,
    CompiledRuntime,
    TorchRuntime,
    quantize_linear,
)
from vsm_fast.torch_state import pinned

_log = logging.getLogger(__name__)

RUNTIMES = ("auto", "torch", "torch-compile", "onnxruntime", "tensorrt")
_EXPORTED = ("onnxruntime", "tensorrt")  # these run an exported network


@dataclass(frozen=True)
class LoadedModel:
    """A model and its runtime.

    Attributes:
        config: The model's configuration.
        runtime: Runs its network.
        in_float32: Loads the same network in float32, for batches in which a lower precision gave
            NaN or Inf; None if ``runtime`` computes in float32 or there are no weights.
        graph: sha256 of each file of the exported graph that ``runtime`` runs; empty if it runs
            the weights.
    """

    config: ModelConfig
    runtime: Runtime
    in_float32: Callable[[], Runtime] | None = None
    graph: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> ModelIdentity:
        """The identity of its descriptors."""
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
        device: ``"auto"`` (CUDA if available) or a torch device.
        dtype: ``"auto"`` (float32 on a CPU, bfloat16 on CUDA), ``"float32"``, ``"bfloat16"``,
            ``"float16"``; or ``"int8"`` or ``"float8"`` for the linear layers, with the rest as
            for ``"auto"``.
        runtime: One of ``RUNTIMES``. ``"auto"`` is ``"torch"`` for a model with weights; for an
            exported folder ``"tensorrt"`` if it has a plan for this GPU, else ``"onnxruntime"``.
            The first use of ``"onnxruntime"`` or ``"tensorrt"`` exports a model with weights, and
            builds a plan for the latter.
        local_files_only: Whether to load a Hub repository without network access.

    Raises:
        ModelError: If files are missing, altered or inconsistent.
        ValueError: If dtype or runtime is unknown, or ``"tensorrt"`` has no NVIDIA GPU.
        ImportError: If a package for the dtype or the runtime is not installed.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}; got {runtime!r}.")
    where = choose_device(device)
    folder = find_model(name_or_path, revision=revision, local_files_only=local_files_only)
    if is_exported(folder):
        return load_exported(folder, where, dtype, runtime)
    precision = choose_dtype("auto" if dtype in QUANTIZED else dtype, where)
    kind = CompiledRuntime if runtime == "torch-compile" else TorchRuntime

    def in_float32() -> Runtime:
        config, network = load_model(folder, device=where, dtype=torch.float32)
        if config != loaded.config:
            raise ModelError(f"{folder} was replaced since its model was loaded; load it again.")
        return kind(network)

    if runtime in _EXPORTED:
        if dtype in QUANTIZED:
            raise ValueError(
                f"runtime {runtime!r} does not export {dtype!r} by itself; use 'auto'. For "
                "calibrated int8 on a CPU run python export/build_onnx.py --dtype int8 "
                "--calibration PHOTOGRAPHS, and score with the exported folder as the model."
            )
        if runtime == "tensorrt":
            library(where)  # fail before minutes of exporting
        try:
            loaded = _load_own_export(folder, precision, where, runtime, replace_it=False)
        except DamagedExport as error:
            _log.warning("%s", error)
            loaded = _load_own_export(folder, precision, where, runtime, replace_it=True)
    else:
        config, network = load_model(folder, device=where, dtype=precision)
        if dtype in QUANTIZED:
            quantize_linear(network, dtype)
        loaded = LoadedModel(config, kind(network, dtype if dtype in QUANTIZED else None))
    if loaded.runtime.precision == "float32":
        return loaded
    return replace(loaded, in_float32=in_float32)


@pinned()
def load_exported(folder: Path, device: torch.device, dtype: str, runtime: str) -> LoadedModel:
    """Load an exported folder.

    Raises:
        ModelError: If its files are missing, altered or damaged, it has no plan for this GPU, or
            the runtime needs weights.
        ValueError: If it was exported in another precision, or ``"tensorrt"`` has no NVIDIA GPU.
        ImportError: If onnxruntime or tensorrt is not installed.
    """
    if runtime not in ("auto", *_EXPORTED):
        raise ModelError(
            f"{folder} is an exported network, which runtime {runtime!r} cannot run; use 'auto', "
            "or load the model that it was exported from."
        )
    record = read_record(folder)
    if dtype not in ("auto", record.precision):
        raise ValueError(
            f"{folder} was exported in {record.precision}, got dtype {dtype!r}; use 'auto', or "
            "export it again."
        )
    chosen: Runtime
    if runtime == "tensorrt" or (runtime == "auto" and _plan_fits(folder, record, device)):
        chosen = load_tensorrt(folder, record, device)
    else:
        chosen = OnnxRuntime(folder, record, device)
    return LoadedModel(record.model, chosen, graph=record.graph)


def _load_own_export(
    folder: Path, dtype: torch.dtype, device: torch.device, runtime: str, *, replace_it: bool
) -> LoadedModel:
    """Load the cached export of a model; export the model and build a plan if needed."""
    exported = exported_folder(folder, precision_name(dtype), replace_it=replace_it)
    if runtime == "tensorrt":
        # Exporting depends on runtimes; a plan is built here only on the first use.
        from vsm_fast.export.trt_plans import ensure_plan, torch_references

        record = read_record(exported)
        ensure_plan(
            exported, record, device, lambda: torch_references(os.fspath(folder), record, device)
        )
    return load_exported(exported, device, "auto", runtime)


def _plan_fits(folder: Path, record: ExportRecord, device: torch.device) -> bool:
    """Return whether a folder has a plan for this machine; log why its plans do not fit."""
    if not plans_in(folder):
        return False
    reason = unusable(device)
    if not reason:
        try:
            choose_plan(folder, record, machine(library(device), device))
            return True
        except NoPlan as error:
            reason = str(error)
    _log.warning("ONNX Runtime instead of TensorRT scores %s: %s", folder, reason)
    return False


def exported_folder(folder: Path, precision: str, *, replace_it: bool = False) -> Path:
    """Return the cached export of a model with weights; export the model if needed.

    Threads and processes that start at once export once.

    Raises:
        ModelError: If the model cannot be exported.
        ImportError: If onnx, onnxscript or onnxruntime is not installed.
    """
    required("onnxruntime", "the check of an exported graph")
    config = verified_config(folder)
    versions = f"{__version__} {torch.__version__} {config.to_json()}"
    settings = hashlib.sha256(versions.encode()).hexdigest()[:8]
    out = home() / "exports" / f"{weights_fingerprint(config)[:16]}-{settings}-{precision}"
    if is_exported(out) and not replace_it:
        return out
    from vsm_fast.export import onnx_graph  # exporting depends on runtimes: see above

    with alone(out.with_name(f".{out.name}.lock")):
        if replace_it or not is_exported(out):  # another process may have been faster
            _log.warning("exporting %s to ONNX into %s; this happens once", config.name, out)
            onnx_graph.export_onnx(os.fspath(folder), out, onnx_graph.ExportOptions(precision))
    return out
