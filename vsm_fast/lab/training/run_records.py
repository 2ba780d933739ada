"""What a training run leaves to look at: a table of its epochs, and TensorBoard logs."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from vsm_fast.extras import required
from vsm_fast.files import replacing


class RunRecords:
    """History and TensorBoard logs of one run.

    Args:
        folder: Of the run.
        epochs: How many have ended; what an interrupted run has written beyond is dropped.

    Raises:
        ImportError: tensorboard is missing.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        self._table = folder / "history.csv"
        self._rows = [row for row in _read(self._table) if int(row["epoch"]) <= epochs]
        required("tensorboard", "the training log")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epochs + 1)

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record an epoch; one that was recorded already is replaced."""
        row = {"epoch": str(epoch), **{name: f"{value:.6g}" for name, value in values.items()}}
        self._rows = [known for known in self._rows if int(known["epoch"]) < epoch] + [row]
        names = list(dict.fromkeys(name for known in self._rows for name in known))
        with (
            replacing(self._table) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self._rows)
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        """Finish the logs."""
        self._writer.close()


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
