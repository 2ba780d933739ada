"""Models that a configuration describes, bounded by the weights that there are for them.

A configuration may come from anywhere, and a single number in it can ask for a million layers or
for more memory than any machine has. Its weight file says what can be meant: a layer has weights,
so that there are no more layers than tensors, and sizes are those of the file.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from vsm_fast.errors import WRONG_JSON, ModelError
from vsm_fast.model.weights import Shapes, check_fit, shapes_of


def bounded_model(settings: Mapping[str, Any], weights: Shapes, config: Path, file: Path) -> Any:
    """A model of diffusers whose weights have the names and shapes of a file, but no values yet.

    Args:
        settings: Content of its ``config.json``, of a class that is accepted.
        weights: Shapes of the tensors of its file.
        config: Where the settings are from, for errors.
        file: Where the weights are from, for errors.

    Raises:
        ModelError: diffusers cannot build it, or it does not fit the weights.
    """
    model = skeleton(settings, len(weights), str(config))
    check_fit(weights, shapes_of(model.state_dict()), str(file))
    constants = sum(buffer.numel() for buffer in model.buffers())
    if not constants:
        return model
    most = sum(map(math.prod, weights.values()))
    if constants > most:
        raise ModelError(
            f"{config} asks for tables of {constants:,} numbers beside {most:,} weights; fetch "
            "the model again, or build it with smaller ones."
        )
    # Their values come from no file: built again, where there is memory.
    with refused(str(config), settings["_class_name"]):
        return _build(settings)


def skeleton(settings: Mapping[str, Any], tensors: int, where: str) -> Any:
    """A model of diffusers on the meta device, where sizes cost nothing.

    Args:
        settings: Content of its ``config.json``.
        tensors: In its weight file; building ends as soon as there are twice as many weights. What
            is nearer is built, so that the names of what is missing can be said.
        where: What to call the settings in an error.

    Raises:
        ModelError: It has more weights than that, or diffusers cannot build it.
    """
    with without_memory(where, settings["_class_name"]), _at_most_twice(tensors, where):
        return _build(settings)


@contextmanager
def without_memory(where: str, what: str) -> Iterator[None]:
    """Modules that are made in here have shapes and no values, so that none is too large.

    Args:
        where: Whose settings they are made of, for errors.
        what: They are.

    Raises:
        ModelError: Instead of whatever the settings made fail.
    """
    with refused(where, what), torch.device("meta"):
        yield


def _build(settings: Mapping[str, Any]) -> Any:
    import diffusers

    return getattr(diffusers, settings["_class_name"]).from_config(settings)


@contextmanager
def refused(where: str, what: str) -> Iterator[None]:
    """Turn what wrong settings make fail into an error that says where they are.

    Args:
        where: The settings are, for errors.
        what: They should describe.

    Raises:
        ModelError: Instead.
    """
    try:
        yield
    except ModelError:
        raise
    except (*WRONG_JSON, AssertionError, RuntimeError) as error:  # from anywhere in diffusers
        said = str(error).partition("\n")[0]
        raise ModelError(
            f"{where} describes no {what} ({type(error).__name__}: {said})."
        ) from error


@contextmanager
def _at_most_twice(tensors: int, where: str) -> Iterator[None]:
    """Modules that this thread makes in here have no more than twice so many weights."""
    here, made = threading.get_ident(), 0

    def count(_module: nn.Module, _name: str, _weight: nn.Parameter) -> None:
        nonlocal made
        if threading.get_ident() != here:  # the hook is one of the whole process
            return
        made += 1
        if made > 2 * tensors:
            raise ModelError(
                f"{where} asks for more than {2 * tensors} weights, and their file has {tensors}: "
                "these are too many layers. Fetch both files again from one place."
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
