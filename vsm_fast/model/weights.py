"""Weight files: safetensors only, with strict names and shapes, never a pickle."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vsm_fast.errors import ModelError

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

Shapes = Mapping[str, Sequence[int]]


class WeightFile:
    """A safetensors file whose tensors are read one by one, to save memory.

    Attributes:
        path: The file.
        shapes: Shape of every tensor by name.
    """

    def __init__(self, path: Path, content: Any) -> None:
        self.path = path
        self._content = content
        self.shapes: Shapes = {
            name: tuple(content.get_slice(name).get_shape()) for name in sorted(content.keys())
        }

    def tensor(self, name: str) -> Tensor:
        """Read one tensor, in the precision of the file.

        Raises:
            ModelError: If it cannot be read, or is not of floating-point numbers.
        """
        with _as_model_error(self.path):
            return _require_float(self.path, name, self._content.get_tensor(name))


@contextmanager
def opened(path: Path) -> Iterator[WeightFile]:
    """Open a weight file.

    Raises:
        ModelError: If it is a pickle, is missing, or is not a safetensors file.
    """
    refuse_pickle(path)
    with _as_model_error(path):
        content = safe_open(path, framework="pt")
    with content:
        yield WeightFile(path, content)


def refuse_pickle(path: Path) -> None:
    """Refuse a file by its suffix, before anything of it is read.

    Raises:
        ModelError: If it is a pickled checkpoint.
    """
    if path.suffix.lower() in PICKLED:
        raise ModelError(
            f"{path} is a pickled checkpoint. Reading such a file can run any code, so only "
            "safetensors are read: use the .safetensors file of the same weights, or, if you trust "
            "their origin, convert them with safetensors.torch.save_file."
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file as float32.

    Raises:
        ModelError: If the file is missing or damaged, or holds other than floating-point numbers.
    """
    with _as_model_error(path):
        tensors = load_file(path)
    return {name: _require_float(path, name, tensor).float() for name, tensor in tensors.items()}


def _require_float(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Refuse integers: they need scales, which the supported formats lack."""
    if not tensor.is_floating_point():
        raise ModelError(
            f"{path} holds {name!r} in {str(tensor.dtype).removeprefix('torch.')}; weights must "
            "be floating-point numbers. Use the file that was not quantised."
        )
    return tensor


def save_weights(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write tensors, floating-point ones as ``dtype``.

    Raises:
        ModelError: If a value overflows ``dtype``.
    """
    cast = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in tensors.items()
    }
    broken = sorted(name for name, tensor in cast.items() if not torch.isfinite(tensor).all())
    if broken:
        raise ModelError(f"not finite as {dtype}: {some_keys('such', broken)}; weights not saved.")
    save_file(cast, path)


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Return the shape of every tensor by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_fit(actual: Shapes, expected: Shapes, where: str) -> None:
    """Check that names and shapes are exactly those of a model.

    Raises:
        ModelError: If names are unknown or missing, or shapes differ. Names counts and examples.
    """
    unknown, missing = sorted(set(actual) - set(expected)), sorted(set(expected) - set(actual))
    if unknown or missing:
        raise ModelError(
            f"{where} does not fit the model: {some_keys('unknown', unknown)}; "
            f"{some_keys('missing', missing)}."
        )
    differing = [
        f"{name} is {list(actual[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if tuple(actual[name]) != tuple(shape)
    ]
    if differing:
        raise ModelError(f"{where} does not fit the model: {'; '.join(differing[:4])}.")


def some_keys(kind: str, keys: Sequence[str]) -> str:
    """Return ``"9 unknown keys (a, b, ...)"``."""
    shown = ", ".join(keys[:6]) + (", ..." if len(keys) > 6 else "")
    return f"{len(keys)} {kind} keys" + (f" ({shown})" if keys else "")


def modern_key(key: str) -> str:
    """Return the current name of a weight; files from 2022, like SD 2.1's VAE, have older ones."""
    old = re.fullmatch(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)", key)
    return f"{old[1]}{_ATTENTION_NAMES[old[2]]}{old[3]}" if old else key


@contextmanager
def _as_model_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}.") from error
