"""TensorRT itself: whether it can be used here, on what, and what it says."""

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

OLDEST = (10, 13)  # the first whose networks this library builds: see setup.py
_NO_MEMORY = ("out of memory", "outofmemory")  # in what it says, small letters
_LEVELS = {"WARNING": logging.INFO, "INFO": logging.DEBUG}


@dataclass(frozen=True)
class Machine:
    """What a plan was built for, or would run on.

    Attributes:
        tensorrt: Full version, like ``"11.4.0.106"``; a plan runs on no other.
        gpu: Name of the GPU.
        capability: Its compute capability.
        driver: Version of the driver, for the record.
        cuda: Version of CUDA that torch uses, for the record.
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
    """The module ``tensorrt``, for use on a device.

    Args:
        device: Where plans are built or run.

    Raises:
        ValueError: The device is no NVIDIA GPU.
        ImportError: TensorRT is not installed, or too old.
    """
    if not _nvidia(device):
        raise ValueError(
            f"TensorRT needs an NVIDIA GPU that torch can use, and device {str(device)!r} is none "
            "here. Without one use runtime 'onnxruntime' or 'torch'."
        )
    try:
        found = required("tensorrt", "TensorRT's runtime")
    except ImportError as error:
        raise ImportError(f"{error}; or use runtime 'onnxruntime'.") from error
    if version_of(found) < OLDEST:
        raise ImportError(
            f"this needs TensorRT {OLDEST[0]}.{OLDEST[1]} or newer; "
            f"{found.__version__} is installed. Run: pip install '.[gpu]'"
        )
    return found


def _nvidia(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.is_available()


def unusable(device: torch.device) -> str:
    """Why TensorRT cannot be used on a device; "" when it can."""
    try:
        library(device)
    except (ImportError, ValueError) as error:
        return str(error)
    return ""


def version_of(trt: Any) -> tuple[int, int]:
    """Major and minor version."""
    major, minor = re.findall(r"\d+", trt.__version__)[:2]
    return int(major), int(minor)


def machine(trt: Any, device: torch.device) -> Machine:
    """What there is here."""
    return Machine(
        trt.__version__,
        torch.cuda.get_device_name(device),
        torch.cuda.get_device_capability(device),
        first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        torch.version.cuda or "unknown",
    )


@functools.cache
def logger(trt: Any) -> Any:
    """The logger of a TensorRT; it takes one for all that it does.

    Errors are kept for the exception that follows them (:func:`failure`); the rest goes to
    the log of this module.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 asks for it by name
            self.errors: deque[str] = deque(maxlen=20)

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(message)
            elif severity.name in _LEVELS:  # not VERBOSE: a build has a million of those
                _log.log(_LEVELS[severity.name], "%s", message)

    return Logger()


def created(trt: Any, kind: str) -> Any:
    """A new ``Builder`` or ``Runtime``.

    Raises:
        ModelError: TensorRT gives none, as on a machine without a driver.
    """
    try:
        return getattr(trt, kind)(logger(trt))
    except TypeError as error:  # what pybind11 makes of a null pointer
        raise failure(trt, f"start a {kind}") from error


def failure(trt: Any, what: str) -> ModelError | torch.OutOfMemoryError:
    """The error to raise when TensorRT could not do something, with what it said since the last."""
    errors = logger(trt).errors
    said = []
    while errors:
        said.append(errors.popleft())
    why = " ".join("; ".join(said).split())[:1500] or "it does not say why"
    message = f"TensorRT {trt.__version__} could not {what}: {why}"
    if any(words in why.lower() for words in _NO_MEMORY):
        return torch.OutOfMemoryError(message)
    return ModelError(message)
