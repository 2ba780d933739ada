"""Weight files: safetensors only, read with strict names and shapes, never a pickle."""

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
    """A safetensors file whose tensors are read one by one: only what is used is in memory.

    Attributes:
        path: The file.
        shapes: Shape of every tensor by its name.
    """

    def __init__(self, path: Path, content: Any) -> None:
        self.path = path
        self._content = content
        self.shapes: Shapes = {
            name: tuple(content.get_slice(name).get_shape()) for name in sorted(content.keys())
        }

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the precision of the file.

        Raises:
            ModelError: It cannot be read, or its numbers are no floating-point ones.
        """
        with _as_model_error(self.path):
            return _not_quantized(self.path, name, self._content.get_tensor(name))


@contextmanager
def opened(path: Path) -> Iterator[WeightFile]:
    """Open a weight file.

    Raises:
        ModelError: It is a pickle, is missing, or is no safetensors file.
    """
    refuse_pickle(path)
    with _as_model_error(path):
        content = safe_open(path, framework="pt")
    with content:
        yield WeightFile(path, content)


def refuse_pickle(path: Path) -> None:
    """Refuse a file by its suffix, before anything of it is read.

    Raises:
        ModelError: It is a pickled checkpoint.
    """
    if path.suffix.lower() in PICKLED:
        raise ModelError(
            f"{path} is a pickled checkpoint. Reading such a file can run any code, so only "
            "safetensors are read: take the .safetensors file of the same weights, or have them "
            "saved with safetensors.torch.save_file where you trust their origin."
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, as float32.

    Raises:
        ModelError: The file is missing or damaged, or holds other than floating-point numbers.
    """
    with _as_model_error(path):
        return {
            key: _not_quantized(path, key, value).float() for key, value in load_file(path).items()
        }


def _not_quantized(path: Path, name: str, tensor: Tensor) -> Tensor:
    """A tensor of floating-point numbers: others need scales, which no format here has."""
    if not tensor.is_floating_point():
        raise ModelError(
            f"{path} holds {name!r} in {str(tensor.dtype).removeprefix('torch.')}; weights must "
            "be floating-point numbers. Take the file that was not quantised."
        )
    return tensor


def save_weights(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write tensors, floating-point ones as ``dtype``.

    Raises:
        ModelError: A value does not fit into ``dtype``.
    """
    cast = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
        for key, value in tensors.items()
    }
    broken = sorted(key for key, value in cast.items() if not torch.isfinite(value).all())
    if broken:
        raise ModelError(f"not finite as {dtype}: {some_keys('such', broken)}; weights not saved.")
    save_file(cast, path)


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Shape of every tensor by its name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_fit(found: Shapes, wanted: Shapes, where: str) -> None:
    """Check that names and shapes are exactly those of a model.

    Raises:
        ModelError: Names are unknown or missing, or shapes differ; says how many, and some.
    """
    unknown, missing = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    if unknown or missing:
        raise ModelError(
            f"{where} does not fit the model: {some_keys('unknown', unknown)}; "
            f"{some_keys('missing', missing)}."
        )
    differing = [
        f"{key} is {list(found[key])}, wanted {list(shape)}"
        for key, shape in wanted.items()
        if tuple(found[key]) != tuple(shape)
    ]
    if differing:
        raise ModelError(f"{where} does not fit the model: {'; '.join(differing[:4])}.")


def some_keys(kind: str, keys: Sequence[str]) -> str:
    """``"9 unknown keys (a, b, ...)"``."""
    shown = ", ".join(keys[:6]) + (", ..." if len(keys) > 6 else "")
    return f"{len(keys)} {kind} keys" + (f" ({shown})" if keys else "")


def modern_key(key: str) -> str:
    """Today's name of a weight; files from 2022, such as SD 2.1's VAE, have older ones."""
    old = re.fullmatch(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)", key)
    return f"{old[1]}{_ATTENTION_NAMES[old[2]]}{old[3]}" if old else key


@contextmanager
def _as_model_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}.") from error
