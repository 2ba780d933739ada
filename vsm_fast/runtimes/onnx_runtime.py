"""Exported networks in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.extras import required
from vsm_fast.runtimes.exported import (
    IMAGES,
    SEMANTIC,
    VISUAL,
    ExportRecord,
    run_in_range,
    verify_graph,
)
from vsm_fast.torch_state import pinned

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_NO_MEMORY = ("failed to allocate", "out of memory")  # in ONNX Runtime's messages


class OnnxRuntime:
    """A :class:`Runtime` for an exported folder.

    On CUDA images and descriptors stay on the device.

    Args:
        folder: Folder with ``export.json``.
        record: Its content.
        device: Device of the network.

    Raises:
        ModelError: If a file is missing, altered or damaged, or ONNX Runtime cannot use the device.
        ImportError: If onnxruntime is not installed.
    """

    name = "onnxruntime"

    def __init__(self, folder: Path, record: ExportRecord, device: torch.device) -> None:
        runtime = required("onnxruntime", "runtime 'onnxruntime'")
        path = verify_graph(folder, record)
        self.device, self.precision = device, record.precision
        self.concurrent = device.type == "cpu"
        self._batch = record.batch
        available = runtime.get_available_providers()
        if _PROVIDERS.get(device.type) not in available:
            raise ModelError(
                f"ONNX Runtime {runtime.__version__} has no provider for {device}; it has "
                f"{', '.join(available)}. For CUDA: pip install '.[gpu]'."
            )
        if device.type == "cpu" and record.precision == "bfloat16":
            raise ModelError(
                f"{folder} is in bfloat16, which ONNX Runtime cannot compute on a CPU. Export it "
                "with --dtype fp32."
            )
        if device.type != "cpu" and record.precision == "int8":
            raise ModelError(
                f"{folder} is in int8 for CPUs; on {device} use a graph in fp16: --dtype fp16."
            )
        providers: list[Any] = [_PROVIDERS["cpu"]]
        if device.type != "cpu":
            providers = [(_PROVIDERS[device.type], {"device_id": str(device.index or 0)})]
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        # Idle threads sleep: decoding and matching need the cores between batches.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # an undocumented class per error code
            raise ModelError(
                f"{path} cannot be run by ONNX Runtime {runtime.__version__}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = [value.name for value in (*inputs, *outputs)]
        if names != [IMAGES, SEMANTIC, VISUAL]:
            raise ModelError(
                f"{path} has the inputs and outputs {names}; an exported network has "
                f"{[IMAGES, SEMANTIC, VISUAL]}."
            )
        shapes = [list(value.shape[1:]) for value in outputs]
        aggregation = record.model.aggregation
        self._shape = (aggregation.descriptor_channels, *aggregation.grid)
        if shapes != [list(self._shape)] * 2:
            raise ModelError(
                f"{path} gives descriptors {shapes}; export.json says {list(self._shape)}."
            )

    @pinned()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract descriptors; see :class:`Runtime`."""
        return run_in_range(self._run, images, self._batch)

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.to(self.device, torch.float32).contiguous()
        semantic, visual = (
            torch.empty(len(images), *self._shape, device=self.device) for _ in range(2)
        )
        binding = self._session.io_binding()
        self._bind(binding.bind_input, IMAGES, images)
        self._bind(binding.bind_output, SEMANTIC, semantic)
        self._bind(binding.bind_output, VISUAL, visual)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # the session has its own stream
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            message = str(error).splitlines()[0]
            if any(words in message.lower() for words in _NO_MEMORY):
                raise torch.OutOfMemoryError(message) from error
            raise ModelError(f"ONNX Runtime failed: {message}") from error
        return semantic, visual

    def _bind(self, bind: Any, name: str, tensor: Tensor) -> None:
        bind(
            name=name,
            device_type=self.device.type,
            device_id=self.device.index or 0,
            element_type=np.float32,
            shape=tuple(tensor.shape),
            buffer_ptr=tensor.data_ptr(),
        )
