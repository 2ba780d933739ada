"""From the name of a model to a runtime: the one place that chooses what runs it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from vsm_fast.checkpoints import load_model
from vsm_fast.devices import choose_device, choose_dtype
from vsm_fast.model_config import ModelConfig
from vsm_fast.runtimes.quantized import QUANTIZED, quantize_linear
from vsm_fast.runtimes.runtime import Runtime
from vsm_fast.runtimes.torch_runtime import CompiledRuntime, TorchRuntime

RUNTIMES = ("auto", "torch", "torch-compile")


@dataclass(frozen=True)
class LoadedModel:
    """A model and what runs it.

    Attributes:
        config: Of the model.
        runtime: Runs its network.
        in_float32: Loads the same network in float32, for batches in which a lower precision
            gave NaN or Inf; None where ``runtime`` computes in float32 or there are no weights.
    """

    config: ModelConfig
    runtime: Runtime
    in_float32: Callable[[], Runtime] | None = None


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
        name_or_path: ``"tiny"`` (embedded), a model folder, a converted preset, or a Hub
            repository id.
        revision: Commit, tag or branch of a Hub repository.
        device: ``"auto"`` (CUDA when there is one) or a torch device.
        dtype: ``"auto"`` (float32 on a CPU, bfloat16 on CUDA), ``"float32"``, ``"bfloat16"``,
            ``"float16"``, or ``"int8"`` or ``"float8"`` for the linear layers of a network in
            ``"auto"``.
        runtime: One of ``RUNTIMES``.
        local_files_only: Never ask the network, even for a Hub repository.

    Raises:
        ModelError: Files are missing, altered or do not fit together.
        ValueError: An unknown dtype or runtime.
        ImportError: An 8-bit dtype, and torchao is not installed.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}; got {runtime!r}.")
    where = choose_device(device)
    precision = choose_dtype("auto" if dtype in QUANTIZED else dtype, where)
    load = partial(
        _load_torch,
        name_or_path,
        revision,
        where,
        local_files_only=local_files_only,
        compiled=runtime == "torch-compile",
    )
    config, chosen = load(precision, quantized=dtype if dtype in QUANTIZED else None)
    in_float32 = None if chosen.precision == "float32" else lambda: load(torch.float32)[1]
    return LoadedModel(config, chosen, in_float32)


def _load_torch(
    name_or_path: str | os.PathLike[str],
    revision: str | None,
    device: torch.device,
    dtype: torch.dtype,
    *,
    local_files_only: bool,
    compiled: bool,
    quantized: str | None = None,
) -> tuple[ModelConfig, Runtime]:
    config, network = load_model(
        name_or_path,
        revision=revision,
        device=device,
        dtype=dtype,
        local_files_only=local_files_only,
    )
    if quantized is not None:
        quantize_linear(network, quantized)
    kind = CompiledRuntime if compiled else TorchRuntime
    return config, kind(network, quantized)
