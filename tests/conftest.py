"""Shared fixtures."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from vsm_fast.descriptors import Descriptors

if not torch.cuda.is_available():  # before any kernel is imported: see triton_device.py
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fill uninitialised memory with NaN or the largest integer, so forgotten outputs show."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="session")
def make_descriptors() -> Callable[..., Descriptors]:
    """Return a function: (points per image, channels, seed) -> random unit descriptors.

    The visual ones have twice the channels, so no code can confuse the branches.
    """

    def make(counts: Sequence[int], channels: int = 8, seed: int = 0) -> Descriptors:
        generator = torch.Generator().manual_seed(seed)
        rows = sum(counts)
        side = max(1, int(max(counts, default=0) ** 0.5) + 1)
        unit = torch.nn.functional.normalize
        return Descriptors(
            unit(torch.randn(rows, channels, generator=generator), dim=1),
            unit(torch.randn(rows, 2 * channels, generator=generator), dim=1),
            torch.tensor([0, *counts]).cumsum(0),
            torch.cat([torch.arange(count) for count in counts] or [torch.arange(0)]),
            (side, side),
        )

    return make


@pytest.fixture(scope="session")
def small_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a model for batches of 2 to 4; its model folder is beside the export."""
    from tiny_models import aggregation_pair, config_of, pixel_unet

    from vsm_fast.export.onnx_graph import ExportOptions, export_onnx
    from vsm_fast.model.save import save_model
    from vsm_fast.runtimes.exported import BatchRange

    home = tmp_path_factory.mktemp("small_export")
    save_model(home / "model", config_of(("us2",), 32), pixel_unet(), *aggregation_pair((24,)))
    options = ExportOptions(batch=BatchRange(2, 3, 4))
    export_onnx(str(home / "model"), home / "exported", options)
    return home / "exported"


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """Restore Ctrl-C, which a shell disables for background processes; its tests would hang."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
