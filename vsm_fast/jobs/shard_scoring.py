"""The rows of one shard to a table: exactly one row out for each row in, in the same order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from vsm_fast import __version__
from vsm_fast.images.automatic_masks import AutoMask
from vsm_fast.images.storage import ImageLocation
from vsm_fast.jobs.pair_overlays import save_pair_overlays
from vsm_fast.jobs.pairing import PairRow
from vsm_fast.jobs.plan import Shard
from vsm_fast.jobs.reference_memory import ReferenceKey, ReferenceMemory, reference_key
from vsm_fast.jobs.settings import JobSettings, RunOptions, load_scorer, score_column
from vsm_fast.jobs.shard_files import SCHEMA_VERSION, failed_rows
from vsm_fast.results.scores import VSMScores
from vsm_fast.scorer import VSMScorer

# Scored in one call, so that neither their references nor what their heat maps need outgrow the
# memory. Both decide batches and with them last bits, so they are no options.
_ROWS_AT_ONCE = 256
_REFERENCES_AT_ONCE = 64

Advance = Callable[[int, int], None]


class ShardScorer:
    """Scores shards of one job with one model.

    Args:
        scorer: The model.
        settings: Of the job.
        options: Of the run.

    Raises:
        ModelError: The model's weights have no recorded hashes.
    """

    def __init__(self, scorer: VSMScorer, settings: JobSettings, options: RunOptions) -> None:
        self._scorer, self._settings, self._options = scorer, settings, options
        self.references = ReferenceMemory(scorer, options.reference_bytes)
        self._model = scorer.identity.record()

    @classmethod
    def load(cls, settings: JobSettings, options: RunOptions) -> ShardScorer:
        """With the model that the job asks for."""
        return cls(load_scorer(settings, options), settings, options)

    def identity(self) -> dict[str, Any]:
        """What decides the rows besides the manifest, as JSON values."""
        config, settings = self._scorer.config, self._settings
        given = settings.semantic_threshold, settings.visual_threshold
        defaults = config.thresholds.semantic, config.thresholds.visual
        semantic, visual = (d if g is None else g for g, d in zip(given, defaults, strict=True))
        return {
            "schema": SCHEMA_VERSION,
            "vsm_fast": __version__,
            "model": config.name,
            **self._model,
            "semantic_threshold": semantic,
            "visual_threshold": visual,
            "thresholds": list(settings.thresholds),
            "heatmaps": settings.heatmaps,
            "points": settings.points,
            "shard_rows": settings.shard_rows,
        }

    def score(self, shard: Shard, advance: Advance = lambda rows, failed: None) -> pa.Table:
        """Score the rows of a shard.

        Args:
            shard: What to score.
            advance: Called often with the numbers of rows finished, and of those that failed,
                since the last call. What it raises ends the call.

        Returns:
            The rows; columns are described in docs/reference/files.md.
        """
        keys = [reference_key(row) for row in shard.rows]
        parts = []
        with _reproducible(self._scorer.device):
            for chosen in _chunks(keys):
                parts.append(self._chunk(shard, chosen, keys, advance))
        table = pa.concat_tables(parts)
        return table.take(pc.sort_indices(table, [("row", "ascending")]))

    def complete(self, shard: Shard, before: pa.Table | None, advance: Advance) -> pa.Table:
        """Score a shard, or of a finished one only the rows that failed.

        Args:
            shard: All of its rows.
            before: Its table, if it was finished before.
            advance: As for :meth:`score`.
        """
        if before is None:
            return self.score(shard, advance)
        failed = failed_rows(before)
        again = [i for i, one in enumerate(failed.to_pylist()) if one]
        if not again:  # retried by a process that ended before it could say so
            return before
        part = Shard(
            shard.number, [shard.positions[i] for i in again], [shard.rows[i] for i in again]
        )
        kept = before.filter(pc.invert(failed))
        return pa.concat_tables([kept, self.score(part, advance).cast(kept.schema)]).sort_by("row")

    def _chunk(
        self, shard: Shard, chosen: Sequence[int], keys: Sequence[ReferenceKey], advance: Advance
    ) -> pa.Table:
        begin = time.perf_counter()
        refs: dict[ReferenceKey, tuple[int, PairRow]] = {}
        gens: dict[tuple[ImageLocation, ImageLocation | AutoMask | None], int] = {}
        pairs = [
            (
                refs.setdefault(keys[i], (len(refs), shard.rows[i]))[0],
                gens.setdefault((shard.rows[i].gen, shard.rows[i].gen_mask), len(gens)),
            )
            for i in chosen
        ]
        told = 0

        def progress(done: int, total: int) -> None:
            nonlocal told
            now = len(chosen) * done // total
            advance(now - told, 0)
            told = now

        scores = self._scorer.score(
            self.references.get([(key, row) for key, (_, row) in refs.items()]),
            [gen for gen, _ in gens],
            pairs=np.array(pairs, np.int64),
            gen_masks=[mask for _, mask in gens],
            semantic_threshold=self._settings.semantic_threshold,
            visual_threshold=self._settings.visual_threshold,
            batch_size=self._options.batch_size,
            heatmaps=self._settings.points or self._settings.heatmaps is not None,
            progress=progress,
        )
        table = self._table(shard, chosen, scores, begin)
        advance(len(chosen) - told, pc.sum(failed_rows(table)).as_py())
        return table

    def _table(
        self, shard: Shard, chosen: Sequence[int], scores: VSMScores, begin: float
    ) -> pa.Table:
        rows = [shard.rows[i] for i in chosen]
        positions = [shard.positions[i] for i in chosen]
        scored = scores.with_columns(
            {
                "id": [row.id for row in rows],
                "subject": [row.subject for row in rows],
                "generator": [row.generator for row in rows],
            }
        ).to_arrow(points=self._settings.points)
        columns: dict[str, Any] = {"row": pa.array(positions, pa.int64())}
        columns |= {name: scored[name] for name in scored.column_names}
        for threshold in self._settings.thresholds:
            columns[score_column(threshold)] = pa.array(scores.at(threshold), from_pandas=True)
        if self._settings.heatmaps is not None:
            columns["heatmap"] = self._draw(shard, chosen, scores)
        seconds = (time.perf_counter() - begin) / len(rows)
        columns["seconds"] = pa.array([seconds] * len(rows), pa.float32())
        grid_rows, grid_columns = self._scorer.config.aggregation.grid
        # Of all shards alike, whatever has a score in them.
        metadata = {**scored.schema.metadata, b"vsm_fast.grid": f"{grid_rows}x{grid_columns}"}
        return pa.table(columns).replace_schema_metadata(metadata)

    def _draw(self, shard: Shard, chosen: Sequence[int], scores: VSMScores) -> pa.Array:
        """Draw what has a score, and say where; null for the others."""
        assert self._settings.heatmaps is not None
        paths = [
            heatmap_path(self._settings.heatmaps, shard.number, shard.positions[i])
            if scores[number].ok
            else None
            for number, i in enumerate(chosen)
        ]
        save_pair_overlays(
            (path, shard.rows[i], scores[number])
            for number, (i, path) in enumerate(zip(chosen, paths, strict=True))
            if path is not None
        )
        return pa.array([None if path is None else str(path) for path in paths], pa.string())


def heatmap_path(folder: str, shard: int, position: int) -> Path:
    """Where the picture of a row is; ids may repeat and are no file names, positions are."""
    return Path(folder) / f"{shard:06d}" / f"{position}.png"


def _chunks(keys: Sequence[ReferenceKey]) -> Iterator[list[int]]:
    """Rows to score together: few references each, and no reference in more chunks than needed.

    Where all references of a shard fit, rows stay in order, which suits what can only be read
    in order; else they are grouped by reference.
    """
    order = list(range(len(keys)))
    if len(set(keys)) > _REFERENCES_AT_ONCE:
        seen: dict[ReferenceKey, int] = {}
        order.sort(key=lambda i: seen.setdefault(keys[i], len(seen)))
    chunk: list[int] = []
    references: set[ReferenceKey] = set()
    for i in order:
        full = len(references) == _REFERENCES_AT_ONCE and keys[i] not in references
        if full or len(chunk) == _ROWS_AT_ONCE:
            yield chunk
            chunk, references = [], set()
        chunk.append(i)
        references.add(keys[i])
    yield chunk


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """The same last bits in each process.

    On a CPU the matching measures which product is fastest, and another one rounds otherwise;
    deterministic mode keeps to one. On CUDA it would refuse operations instead.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if device.type != "cpu" or before:
        yield
        return
    memory = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, not bits
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        memory.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
