"""Exported networks run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.extras import required
from vsm_fast.runtimes.exported import IMAGES, SEMANTIC, VISUAL, ExportRecord, verify_graph
from vsm_fast.torch_state import pinned

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_NO_MEMORY = ("failed to allocate", "out of memory")  # in what ONNX Runtime says


class OnnxRuntime:
    """A :class:`Runtime` of an exported folder.

    On CUDA images and descriptors stay on the device.

    Args:
        folder: With ``export.json``.
        record: Its content.
        device: Where it runs.

    Raises:
        ModelError: A file is missing, altered or damaged, or ONNX Runtime cannot use the device.
        ImportError: onnxruntime is not installed.
    """

    name = "onnxruntime"

    def __init__(self, folder: Path, record: ExportRecord, device: torch.device) -> None:
        runtime = required("onnxruntime", "runtime 'onnxruntime'")
        path = verify_graph(folder, record)
        self.device, self.precision = device, record.precision
        self.concurrent = device.type == "cpu"
        self._batch = record.batch
        self._refuse(runtime, device, record.precision, folder)
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        # Waiting threads sleep: those that decode and match need the cores between two batches.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=_providers(device)
            )
        except Exception as error:  # it has a class of its own for each code, none documented
            raise ModelError(
                f"{path} cannot be run by ONNX Runtime {runtime.__version__}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        names = [IMAGES, SEMANTIC, VISUAL]
        found = [
            value.name for value in (*self._session.get_inputs(), *self._session.get_outputs())
        ]
        if found != names:
            raise ModelError(
                f"{path} has the inputs and outputs {found}; an exported network has {names}."
            )
        shapes = [list(value.shape[1:]) for value in self._session.get_outputs()]
        aggregation = record.model.aggregation
        self._shape = (aggregation.descriptor_channels, *aggregation.grid)
        if shapes != [list(self._shape)] * 2:
            raise ModelError(
                f"{path} gives descriptors {shapes}; export.json says {list(self._shape)}."
            )

    @staticmethod
    def _refuse(runtime: Any, device: torch.device, precision: str, folder: Path) -> None:
        provider = _PROVIDERS.get(device.type)
        available = runtime.get_available_providers()
        if provider not in available:
            raise ModelError(
                f"ONNX Runtime {runtime.__version__} has no provider for {device}; it has "
                f"{', '.join(available)}. For CUDA: pip install '.[gpu]'."
            )
        if device.type == "cpu" and precision == "bfloat16":
            raise ModelError(
                f"{folder} is in bfloat16, which ONNX Runtime cannot compute on a CPU. Export it "
                "with --dtype fp32."
            )
        if device.type != "cpu" and precision == "int8":
            raise ModelError(
                f"{folder} is in int8 for CPUs; on {device} use a graph in fp16: --dtype fp16."
            )

    @pinned()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Describe images; see :class:`Runtime`."""
        parts = [self._described(part) for part in images.split(self._batch.most)]
        semantic, visual = (torch.cat(branch) for branch in zip(*parts, strict=True))
        return semantic, visual

    def _described(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors of a batch that is not too large; one that is too small is padded."""
        count = len(images)
        missing = self._batch.least - count
        if missing > 0:
            images = torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])
        images = images.to(self.device, torch.float32).contiguous()
        found = [
            torch.empty(len(images), *self._shape, device=self.device) for _ in (SEMANTIC, VISUAL)
        ]
        binding = self._session.io_binding()
        self._bind(binding.bind_input, IMAGES, images)
        for name, tensor in zip((SEMANTIC, VISUAL), found, strict=True):
            self._bind(binding.bind_output, name, tensor)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # it has a stream of its own
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            message = str(error).splitlines()[0]
            if any(words in message.lower() for words in _NO_MEMORY):
                raise torch.OutOfMemoryError(message) from error
            raise ModelError(f"ONNX Runtime failed: {message}") from error
        return found[0][:count], found[1][:count]

    def _bind(self, bind: Any, name: str, tensor: Tensor) -> None:
        bind(
            name=name,
            device_type=self.device.type,
            device_id=self.device.index or 0,
            element_type=np.float32,
            shape=tuple(tensor.shape),
            buffer_ptr=tensor.data_ptr(),
        )


def _providers(device: torch.device) -> list[Any]:
    if device.type == "cpu":
        return [_PROVIDERS["cpu"]]
    return [(_PROVIDERS["cuda"], {"device_id": str(device.index or 0)})]
