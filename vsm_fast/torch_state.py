"""Torch's global switches, pinned while the library computes.

A score depends on images, model and options only. A training loop sets switches that would affect
every product: autocast, TF32, default dtype and device, inference mode. :func:`pinned` fixes their
values and restores them. Deterministic mode and the number of threads remain the caller's choice;
the latter changes last bits, within the numeric contract.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch

_AUTOCAST = [
    kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(kind)
]


class _PinnedThread(threading.local):
    """Per-thread flag: inside :func:`pinned`."""

    inside = False


_thread = _PinnedThread()


@contextmanager
def pinned() -> Iterator[None]:
    """Compute in float32, on the CPU by default, without autocast and gradients.

    Context manager and decorator; not for generators, because ``yield`` would leak the state to
    the consumer. Autocast, default device, inference mode and gradients are per thread, so every
    function that the library runs in a thread is decorated. The other switches are per process;
    the last thread to leave restores them.

    Tensors created inside are ordinary tensors even under the caller's inference mode, so weights
    and descriptors remain usable outside of it.
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


@dataclass(frozen=True)
class _Switch:
    """A process-wide switch and its pinned value."""

    get: Callable[[], Any]
    set: Callable[[Any], None]
    pinned: Any


def _switches() -> Iterator[_Switch]:
    """Yield each process-wide switch, in the order of pinning.

    Torch stores the precision of float32 products under old and new names, and raises on reading
    an old one that contradicts the new ones. cuDNN's is readable before the new names change,
    that of matrix products once they are "ieee". The new names form a tree in which "none"
    inherits: a node that differs from its pinned parents was set explicitly and can be restored.
    """
    yield _Switch(torch.get_default_dtype, torch.set_default_dtype, torch.float32)
    attributes: list[tuple[Any, str, Any]] = [(torch.backends.cudnn, "allow_tf32", False)]
    if hasattr(torch.backends, "fp32_precision"):  # from torch 2.9
        backends = cast(Any, torch.backends)  # its new names have no types
        cudnn, mkldnn = backends.cudnn, backends.mkldnn
        owners = [backends, cudnn, backends.cuda.matmul, cudnn.conv, cudnn.rnn]
        owners += [mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
        attributes += [(owner, "fp32_precision", "ieee") for owner in owners]
    for owner, name, value in attributes:
        yield _Switch(partial(getattr, owner, name), partial(setattr, owner, name), value)
    yield _Switch(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")


class _ProcessSwitches:
    """Switches that all threads share, pinned while any thread is inside."""

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
        """Pin every switch that differs, including changes since another thread pinned it."""
        with self._lock:
            self._threads += 1
            for position, switch in enumerate(self._switches):
                try:
                    before = switch.get()
                    if before != switch.pinned:
                        switch.set(switch.pinned)
                        self._before[position] = before
                except RuntimeError:
                    # An old name that contradicts new ones, which are pinned too; or
                    # torch.backends.disable_global_flags().
                    continue

    def leave(self) -> None:
        """Restore the switches in reverse order when the last thread leaves."""
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                for position in sorted(self._before, reverse=True):
                    self._switches[position].set(self._before.pop(position))


_process = _ProcessSwitches()
