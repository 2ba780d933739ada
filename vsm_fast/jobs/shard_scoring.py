"""Scoring of one shard: one result row per pair, in the same order."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from vsm_fast import __version__
from vsm_fast.descriptors import Descriptors
from vsm_fast.images.automatic_masks import AutoMask
from vsm_fast.images.loading import load_image
from vsm_fast.images.storage import ImageLocation, StoredImage, version_of
from vsm_fast.jobs.pairing import PairRow
from vsm_fast.jobs.plan import Shard
from vsm_fast.jobs.settings import JobSettings, RunOptions, score_column
from vsm_fast.jobs.shard_files import SCHEMA_VERSION, failed_rows
from vsm_fast.results.overlay import save_overlay
from vsm_fast.results.scores import VSMResult
from vsm_fast.scorer import VSMScorer

# Limits of one scoring call, which bound the memory of references and heat maps. They decide the
# batches and with them the last bits, so they are not options.
_MAX_ROWS = 256
_MAX_REFERENCES = 64

Advance = Callable[[int, int], None]
ReferenceKey = tuple[str, str | None]


class ShardScorer:
    """Scorer of the shards of one job.

    Args:
        scorer: Model.
        settings: Settings of the job.
        options: Options of the run.

    Raises:
        ModelError: If the weights of the model have no recorded hashes.
    """

    def __init__(self, scorer: VSMScorer, settings: JobSettings, options: RunOptions) -> None:
        self._scorer, self._settings, self._options = scorer, settings, options
        self.references = ReferenceCache(scorer, options.reference_bytes)
        self._model = scorer.identity.record()

    @classmethod
    def load(
        cls, settings: JobSettings, options: RunOptions, scorer: VSMScorer | None = None
    ) -> ShardScorer:
        """Load the model of a job, unless ``scorer`` is that model.

        Raises:
            ModelError: If the model is missing, incomplete or altered.
            ImportError: If a package of the model is not installed.
        """
        scorer = scorer or VSMScorer.from_pretrained(
            settings.model,
            device=settings.device,
            dtype=settings.dtype,
            runtime=settings.runtime,
            cache=options.cache,
        )
        return cls(scorer, settings, options)

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the rows, besides the manifest, as JSON values."""
        config, settings = self._scorer.config, self._settings
        semantic, visual = settings.semantic_threshold, settings.visual_threshold
        return {
            "schema": SCHEMA_VERSION,
            "vsm_fast": __version__,
            "model": config.name,
            **self._model,
            "semantic_threshold": config.thresholds.semantic if semantic is None else semantic,
            "visual_threshold": config.thresholds.visual if visual is None else visual,
            "thresholds": list(settings.thresholds),
            "heatmaps": settings.heatmaps,
            "points": settings.points,
            "shard_rows": settings.shard_rows,
        }

    def score(self, shard: Shard, advance: Advance = lambda rows, failed: None) -> pa.Table:
        """Score the rows of a shard.

        Args:
            shard: Rows to score.
            advance: Called often with the numbers of rows finished and failed since the last call;
                its exceptions end the scoring.

        Returns:
            Table with one row per pair; docs/reference/files.md describes the columns.
        """
        keys = [reference_key(row) for row in shard.rows]
        with _reproducible(self._scorer.device):
            parts = [self._score_chunk(shard, chunk, keys, advance) for chunk in _chunks(keys)]
        table = pa.concat_tables(parts)
        return table.take(pc.sort_indices(table, [("row", "ascending")]))

    def complete(self, shard: Shard, before: pa.Table | None, advance: Advance) -> pa.Table:
        """Score a shard, or only the failed rows of a finished shard.

        Args:
            shard: All rows of the shard.
            before: Table of the finished shard; None = score all rows.
            advance: See :meth:`score`.
        """
        if before is None:
            return self.score(shard, advance)
        failed = failed_rows(before)
        again = [i for i, is_failed in enumerate(failed.to_pylist()) if is_failed]
        if not again:  # an earlier process retried the shard and died before the ledger entry
            return before
        part = Shard(
            shard.number, [shard.positions[i] for i in again], [shard.rows[i] for i in again]
        )
        rest = before.filter(pc.invert(failed))
        return pa.concat_tables([rest, self.score(part, advance).cast(rest.schema)]).sort_by("row")

    def _score_chunk(
        self, shard: Shard, chunk: Sequence[int], keys: Sequence[ReferenceKey], advance: Advance
    ) -> pa.Table:
        settings, begin = self._settings, time.perf_counter()
        rows = [shard.rows[i] for i in chunk]
        positions = [shard.positions[i] for i in chunk]
        refs: dict[ReferenceKey, tuple[int, PairRow]] = {}
        gens: dict[tuple[ImageLocation, ImageLocation | AutoMask | None], int] = {}
        pairs = [
            (
                refs.setdefault(keys[i], (len(refs), row))[0],
                gens.setdefault((row.gen, row.gen_mask), len(gens)),
            )
            for i, row in zip(chunk, rows, strict=True)
        ]
        reported = 0

        def progress(done: int, total: int) -> None:
            nonlocal reported
            now = len(chunk) * done // total
            advance(now - reported, 0)
            reported = now

        scores = self._scorer.score(
            self.references.get([(key, row) for key, (_, row) in refs.items()]),
            [gen for gen, _ in gens],
            pairs=np.array(pairs, np.int64),
            gen_masks=[mask for _, mask in gens],
            semantic_threshold=settings.semantic_threshold,
            visual_threshold=settings.visual_threshold,
            batch_size=self._options.batch_size,
            heatmaps=settings.points or settings.heatmaps is not None,
            progress=progress,
        )
        scored = scores.with_columns(
            {name: [getattr(row, name) for row in rows] for name in ("id", "subject", "generator")}
        ).to_arrow(points=settings.points)
        columns: dict[str, Any] = {"row": pa.array(positions, pa.int64())}
        columns |= {name: scored[name] for name in scored.column_names}
        for threshold in settings.thresholds:
            columns[score_column(threshold)] = pa.array(scores.at(threshold), from_pandas=True)
        if settings.heatmaps is not None:
            # Named by position: ids may repeat, and are not file names.
            folder = Path(settings.heatmaps) / f"{shard.number:06d}"
            paths = [
                folder / f"{position}.png" if scores[i].ok else None
                for i, position in enumerate(positions)
            ]
            save_pair_overlays(
                (path, row, scores[i])
                for i, (path, row) in enumerate(zip(paths, rows, strict=True))
                if path is not None
            )
            columns["heatmap"] = pa.array([path and str(path) for path in paths], pa.string())
        seconds = (time.perf_counter() - begin) / len(rows)
        columns["seconds"] = pa.array([seconds] * len(rows), pa.float32())
        # The schema of a shard must not depend on its results.
        grid = "{}x{}".format(*self._scorer.config.aggregation.grid)
        metadata = {**scored.schema.metadata, b"vsm_fast.grid": grid}
        table = pa.table(columns).replace_schema_metadata(metadata)
        advance(len(chunk) - reported, pc.sum(failed_rows(table)).as_py())
        return table


class ReferenceCache:
    """Least recently used cache of reference descriptors.

    Features of each reference are extracted with batch size 1, because the batch changes the last
    bits of a descriptor: an interruption must not change them.

    Args:
        scorer: Model.
        max_bytes: Size of the descriptors kept between calls.

    Attributes:
        misses: Number of extracted references.
    """

    def __init__(self, scorer: VSMScorer, max_bytes: int) -> None:
        self._scorer, self._max_bytes = scorer, max_bytes
        self._entries: OrderedDict[ReferenceKey, Descriptors] = OrderedDict()
        self._bytes = 0
        self.misses = 0

    def get(self, references: Sequence[tuple[ReferenceKey, PairRow]]) -> Descriptors:
        """Return the descriptors of references, in order.

        Args:
            references: Keys, each with a row of that reference; at least one.
        """
        missing = [(key, row) for key, row in references if key not in self._entries]
        if missing:
            new = self._scorer.describe(
                [row.ref for _, row in missing],
                [row.ref_mask for _, row in missing],
                batch_size=1,
                on_error="record",
            )
            self.misses += len(missing)
            for number, (key, _) in enumerate(missing):
                self._entries[key] = new.select([number])
                self._bytes += self._entries[key].nbytes
        for key, _ in references:
            self._entries.move_to_end(key)
        descriptors = Descriptors.cat([self._entries[key] for key, _ in references])
        while self._bytes > self._max_bytes and self._entries:
            self._bytes -= self._entries.popitem(last=False)[1].nbytes
        return descriptors


def reference_key(row: PairRow) -> ReferenceKey:
    """Return the cache key of a row's reference: image, mask and file version."""

    def key(image: ImageLocation | AutoMask) -> str:
        if isinstance(image, AutoMask):
            return repr(image)
        if isinstance(image, StoredImage):
            return image.identity()
        try:
            return f"{os.fspath(image)}\0{version_of(os.fspath(image))}"
        except (OSError, ValueError):  # becomes the status of the row
            return os.fspath(image)

    return key(row.ref), None if row.ref_mask is None else key(row.ref_mask)


def save_pair_overlays(pairs: Iterable[tuple[Path, PairRow, VSMResult]]) -> None:
    """Save the heat map overlays of scored pairs, each to its path."""

    @lru_cache(maxsize=4)  # pairs of a subject share references
    def load(image: ImageLocation) -> Image.Image:
        return Image.fromarray(load_image(image).pixels)

    for path, row, result in pairs:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_overlay(
            path,
            load(row.ref),
            load(row.gen),
            result.heatmap(),
            result.score,
            row.id,
            result.visual_threshold,
            result.n_matched,
            result.n_source,
        )


def _chunks(keys: Sequence[ReferenceKey]) -> Iterator[list[int]]:
    """Yield rows to score in one call: few references each, split over few calls.

    Rows stay in order if all references of the shard fit, which suits sequential storage;
    otherwise they are grouped by reference.
    """
    order = list(range(len(keys)))
    if len(set(keys)) > _MAX_REFERENCES:
        seen: dict[ReferenceKey, int] = {}
        order.sort(key=lambda i: seen.setdefault(keys[i], len(seen)))
    chunk: list[int] = []
    references: set[ReferenceKey] = set()
    for i in order:
        full = len(references) == _MAX_REFERENCES and keys[i] not in references
        if full or len(chunk) == _MAX_ROWS:
            yield chunk
            chunk, references = [], set()
        chunk.append(i)
        references.add(keys[i])
    yield chunk


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """Make the last bits equal in every process.

    On a CPU, matching times its matrix products and takes the fastest, and each rounds differently;
    deterministic mode fixes one. On CUDA that mode would refuse operations, so it stays off.
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
