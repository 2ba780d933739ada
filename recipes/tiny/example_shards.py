"""Shards of training examples on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vsm_fast.lab.training.examples import CELLS, TrainingExample
from vsm_fast.lab.training.rows import RowShards, write_rows

_TENSORS, _FLAGS = ("pictures", *CELLS), ("subject", "has_altered_2", "exact")


def save_examples(examples: Sequence[TrainingExample], path: Path) -> None:
    """Write a shard of examples atomically."""
    rows = [{name: getattr(example, name) for name in _TENSORS} for example in examples]
    notes = {name: [getattr(example, name) for example in examples] for name in _FLAGS}
    write_rows(path, rows, notes)


class ExampleShards:
    """Stored examples; an access reads one example from disk.

    Args:
        paths: Files of :func:`save_examples`.

    Attributes:
        exact: Numbers of the examples with known correspondence.
        photographs: Numbers of the other examples.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._rows = RowShards(paths)
        known = self._rows.notes("exact")
        self.exact = [number for number, exact in enumerate(known) if exact]
        self.photographs = [number for number, exact in enumerate(known) if not exact]

    def read(self, number: int) -> TrainingExample:
        """Return one example of ``exact`` or ``photographs``."""
        values: dict[str, Any] = dict(self._rows[number])
        return TrainingExample(
            **values, **{name: self._rows.notes(name)[number] for name in _FLAGS}
        )
