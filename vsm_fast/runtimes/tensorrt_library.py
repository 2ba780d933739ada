"""The TensorRT library: availability, versions, logging and errors."""

from __future__ import annotations

import functools
import logging
import re
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch

from vsm_fast.errors import ModelError
from vsm_fast.extras import required
from vsm_fast.kernels.provenance import first_line

_log = logging.getLogger(__name__)

OLDEST = (10, 13)  # the first that supports the networks built here
_NO_MEMORY = ("out of memory", "outofmemory")  # in TensorRT's messages, lower case
_LEVELS = {"WARNING": logging.INFO, "INFO": logging.DEBUG}


@dataclass(frozen=True)
class Machine:
    """The machine that a plan was built for, or would run on.

    Attributes:
        tensorrt: Full version, like ``"11.4.0.106"``; a plan runs on no other.
        gpu: Name of the GPU.
        capability: Compute capability.
        driver: Driver version, for the record.
        cuda: CUDA version of torch, for the record.
    """

    tensorrt: str
    gpu: str
    capability: tuple[int, int]
    driver: str
    cuda: str

    def __str__(self) -> str:
        major, minor = self.capability
        return f"TensorRT {self.tensorrt}, {self.gpu} (compute capability {major}.{minor})"


def library(device: torch.device) -> Any:
    """Import ``tensorrt`` for use on a device.

    Raises:
        ValueError: If the device is not an NVIDIA GPU.
        ImportError: If TensorRT is not installed, or too old.
    """
    if not _nvidia(device):
        raise ValueError(
            f"TensorRT needs an NVIDIA GPU that torch can use; device {str(device)!r} is not one. "
            "Use runtime 'onnxruntime' or 'torch'."
        )
    try:
        trt = required("tensorrt", "TensorRT's runtime")
    except ImportError as error:
        raise ImportError(f"{error}; or use runtime 'onnxruntime'.") from error
    if tuple(map(int, re.findall(r"\d+", trt.__version__)[:2])) < OLDEST:
        raise ImportError(
            f"TensorRT {OLDEST[0]}.{OLDEST[1]} or newer is required; {trt.__version__} is "
            "installed. Run: pip install '.[gpu]'"
        )
    return trt


def _nvidia(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.is_available()


def unusable(device: torch.device) -> str:
    """Return why TensorRT cannot be used on a device; "" if it can."""
    try:
        library(device)
    except (ImportError, ValueError) as error:
        return str(error)
    return ""


def machine(trt: Any, device: torch.device) -> Machine:
    """Return the description of this machine."""
    return Machine(
        trt.__version__,
        torch.cuda.get_device_name(device),
        torch.cuda.get_device_capability(device),
        first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        torch.version.cuda or "unknown",
    )


@functools.cache
def logger(trt: Any) -> Any:
    """Return the logger for a TensorRT module, which accepts only one.

    Errors are kept for the following exception (:func:`failure`); the rest goes to this module's
    log.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 needs the call by name
            self.errors: deque[str] = deque(maxlen=20)

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(message)
            elif severity.name in _LEVELS:  # not VERBOSE: a build logs a million of those
                _log.log(_LEVELS[severity.name], "%s", message)

    return Logger()


def create(trt: Any, kind: str) -> Any:
    """Create a ``Builder`` or ``Runtime``.

    Raises:
        ModelError: If TensorRT returns none, as on a machine without a driver.
    """
    try:
        return getattr(trt, kind)(logger(trt))
    except TypeError as error:  # pybind11's error for a null pointer
        raise failure(trt, f"start a {kind}") from error


def failure(trt: Any, action: str) -> ModelError | torch.OutOfMemoryError:
    """Return the error for a failed action, with TensorRT's messages since the last one."""
    errors = logger(trt).errors
    reason = " ".join("; ".join(errors).split())[:1500] or "no reason given"
    errors.clear()
    message = f"TensorRT {trt.__version__} could not {action}: {reason}"
    if any(words in reason.lower() for words in _NO_MEMORY):
        return torch.OutOfMemoryError(message)
    return ModelError(message)
