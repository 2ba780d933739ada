"""Torch's ambient switches, pinned while the library computes.

A score depends on images, model and options. Torch also has switches that a training loop sets for
itself and that would reach into every product: autocast, TF32, the default dtype and device,
inference mode. :func:`pinned` holds them at one value and puts them back.

Deterministic mode and the number of threads are the caller's choice. The first has a path of its
own in matching; the second changes last bits, within the numeric contract.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch

_AUTOCAST = [
    kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(kind)
]


class _PinnedThread(threading.local):
    """Whether the calling thread is inside :func:`pinned`."""

    inside = False


_thread = _PinnedThread()


@contextmanager
def pinned() -> Iterator[None]:
    """Compute in float32, on the CPU by default, without autocast and gradients.

    A context manager and a decorator, but not of generators: a ``yield`` inside would show the
    state to their consumer. Autocast, default device, inference mode and gradients belong to a
    thread, so that each function that the library runs in a thread of its own is decorated. The
    other switches belong to the process; the last thread to leave restores them.

    Tensors made inside are ordinary ones, also under the caller's inference mode, so that weights
    and descriptors can be used again outside of it.
    """
    if _thread.inside:
        yield
        return
    with ExitStack() as stack:
        _process.enter()
        stack.callback(_process.leave)
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in filter(torch.is_autocast_enabled, _AUTOCAST):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        _thread.inside = True
        try:
            yield
        finally:
            _thread.inside = False


class _Functions:
    """Switches with functions to read and set them, as attributes."""

    @property
    def default_dtype(self) -> torch.dtype:
        return torch.get_default_dtype()

    @default_dtype.setter
    def default_dtype(self, dtype: torch.dtype) -> None:
        torch.set_default_dtype(dtype)

    @property
    def matmul_precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @matmul_precision.setter
    def matmul_precision(self, precision: str) -> None:
        torch.set_float32_matmul_precision(precision)


def _switches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, value) of each switch of the process, in the order of pinning.

    Torch keeps the precision of float32 products under old and new names, and refuses to read an
    old one that contradicts the new ones. cuDNN's can be read before the new names change, that of
    matrix products once they are "ieee". The new names form a tree, where "none" inherits: one that
    differs although those above it are pinned was set itself, and what it reads can be restored.
    """
    functions, backends = _Functions(), cast(Any, torch.backends)  # its new names have no types
    yield functions, "default_dtype", torch.float32
    yield backends.cudnn, "allow_tf32", False
    if hasattr(backends, "fp32_precision"):  # from torch 2.9
        cudnn, mkldnn = backends.cudnn, backends.mkldnn
        for owner in (backends, cudnn, backends.cuda.matmul, cudnn.conv, cudnn.rnn):
            yield owner, "fp32_precision", "ieee"
        for owner in (mkldnn.matmul, mkldnn.conv, mkldnn.rnn):
            yield owner, "fp32_precision", "ieee"
    yield functions, "matmul_precision", "highest"


class _ProcessSwitches:
    """The switches that all threads share; they are pinned while any thread is inside."""

    def __init__(self) -> None:
        self._switches = [*_switches()]
        self._lock = threading.Lock()
        self._threads = 0
        self._before: dict[int, Any] = {}  # by position
        if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
            os.register_at_fork(
                before=self._lock.acquire,
                after_in_parent=self._lock.release,
                after_in_child=self._lock.release,
            )

    def enter(self) -> None:
        """Pin what differs, also what the caller changed since another thread pinned it."""
        with self._lock:
            self._threads += 1
            for position, (owner, name, wanted) in enumerate(self._switches):
                try:
                    found = getattr(owner, name)
                    if found != wanted:
                        setattr(owner, name, wanted)
                        self._before[position] = found
                except RuntimeError:
                    # An old name that the caller contradicted by new ones, which are pinned too;
                    # or torch.backends.disable_global_flags().
                    continue

    def leave(self) -> None:
        """Restore the switches after the last thread, in the opposite order."""
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                for position in sorted(self._before, reverse=True):
                    owner, name, _ = self._switches[position]
                    setattr(owner, name, self._before.pop(position))


_process = _ProcessSwitches()
