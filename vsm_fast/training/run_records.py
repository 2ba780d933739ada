"""What a training run leaves to look at: a table of its epochs, TensorBoard logs, a figure."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from vsm_fast.aggregation import AggregationNetwork
from vsm_fast.atomic import replacing
from vsm_fast.extras import required

_COLOURS = {"semantic": "#0072B2", "visual": "#D55E00"}  # Okabe and Ito


class RunRecords:
    """History, TensorBoard logs and mixing weights of one run.

    Args:
        folder: Of the run.
        levels: Names of the backbone's levels.
        epochs: How many have ended; what an interrupted run has written beyond is dropped.

    Raises:
        ImportError: tensorboard or matplotlib is missing.
    """

    def __init__(self, folder: Path, levels: Sequence[str], epochs: int) -> None:
        self._table = folder / "history.csv"
        self._figure = folder / "mixing.png"
        self.levels = tuple(levels)
        self._rows = [row for row in _read(self._table) if int(row["epoch"]) <= epochs]
        required("tensorboard", "train", "the training log")
        required("matplotlib", "train", "the figure of the mixing weights")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epochs + 1)

    @property
    def rows(self) -> list[dict[str, str]]:
        """The epochs so far, as texts."""
        return self._rows

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

    def draw_mixing(self, semantic: AggregationNetwork, visual: AggregationNetwork) -> None:
        """Write ``mixing.png``: the weight of every level in both networks."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1.6 + 0.8 * len(self.levels), 2.6), layout="constrained")
        axes = figure.subplots()
        for side, (name, network) in enumerate((("semantic", semantic), ("visual", visual))):
            places = [position + 0.38 * (side - 0.5) for position in range(len(self.levels))]
            bars = axes.bar(
                places, network.mixing().tolist(), 0.36, label=name, color=_COLOURS[name]
            )
            axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=2)
        axes.set_xticks(range(len(self.levels)), self.levels)
        axes.set_ylabel("weight in the sum")
        axes.margins(y=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
        with replacing(self._figure) as temporary:
            figure.savefig(temporary, dpi=200)

    def close(self) -> None:
        """Finish the logs."""
        self._writer.close()


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
