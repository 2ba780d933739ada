"""Scores of many pairs as columns, and of one pair as a record."""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vsm_fast import __version__
from vsm_fast.errors import Status
from vsm_fast.extras import required
from vsm_fast.files import replacing
from vsm_fast.results import csv_cells
from vsm_fast.results.heatmap import HeatmapEvidence
from vsm_fast.results.heatmap import heatmap as draw_heatmap
from vsm_fast.results.points import MatchedPoints, point_columns

if TYPE_CHECKING:
    import pandas
    import pyarrow

__all__ = ["HeatmapEvidence", "VSMResult", "VSMScores"]

_OPTIONAL_TEXTS = ("reason", "notes", "flags", "ref_mask_origin", "gen_mask_origin")
_TEXT_COLUMNS = ("ref_id", "gen_id", "status", *_OPTIONAL_TEXTS)
_TABLE_COLUMNS = (
    "ref_id", "gen_id", "score", "n_matched", "n_source", "status", *_OPTIONAL_TEXTS,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class VSMResult:
    """Result of one pair: its row of :class:`VSMScores`.

    Attributes:
        index: Position of the pair in its ``VSMScores``.
        visual_threshold: Threshold of ``score``.
        visual_similarity: float32 [n_matched] in [-1, 1], of the matched points.
        evidence: Evidence of the heat map; None if not kept.
        points: Matched points; None if not kept.
    """

    index: int
    ref_id: str
    gen_id: str
    score: float
    n_matched: int
    n_source: int
    status: str
    reason: str
    notes: str
    flags: str
    ref_mask_origin: str
    gen_mask_origin: str
    visual_threshold: float
    visual_similarity: NDArray[np.float32] = field(repr=False)
    evidence: HeatmapEvidence | None = field(repr=False)
    points: MatchedPoints | None = field(repr=False, default=None)

    @property
    def ok(self) -> bool:
        """Whether the pair has a score."""
        return self.status == Status.OK.value

    def heatmap(self, visual_threshold: float | None = None) -> NDArray[np.float32]:
        """Draw the heat map of this pair; see ``VSMScores.heatmap``."""
        if not self.ok:
            raise ValueError(
                f"pair {self.index} ({self.ref_id} / {self.gen_id}) has no score, so it has no "
                f"heat map: {self.reason or self.status}."
            )
        if self.evidence is None:
            raise ValueError(
                "heat maps were not kept for these scores. Score again with heatmaps=True."
            )
        threshold = self.visual_threshold if visual_threshold is None else visual_threshold
        return draw_heatmap(self.evidence, threshold)


@dataclass(frozen=True, eq=False, repr=False)
class VSMScores:
    """Scores of ``P`` pairs, as columns.

    ``len``, indexing and iteration give one ``VSMResult`` per pair.

    Attributes:
        score: float32 [P] in [0, 1], at ``visual_threshold``; NaN if undefined.
        n_matched: int64 [P], points that match the reference semantically.
        n_source: int64 [P], points of the generated subject.
        status: str [P], ``"ok"`` or the reason of a missing score, a value of ``vsm_fast.Status``.
        ref_id: str [P], names of the reference images.
        gen_id: str [P], names of the generated images.
        visual_similarity: float32 [T] in [-1, 1], of the matched points of all pairs in order.
        offsets: int64 [P + 1]; pair ``p`` owns ``visual_similarity[offsets[p]:offsets[p + 1]]``.
        semantic_threshold: Semantic threshold in use.
        visual_threshold: Visual threshold of ``score``.
        model: Name of the model.
        reason: str [P], explanation of the status; ``""`` if ok.
        notes: str [P], conversions of the images, and reasons of flags.
        flags: str [P], reasons to doubt a score: values of ``vsm_fast.Flag`` of either image,
            joined by ``,``; ``""`` without flags.
        ref_mask_origin: str [P], ``"given"``, ``"alpha"``, ``"whole image"``, ``"grabcut"``,
            ``"grounded-sam"``; ``""`` if the mask was not read.
        gen_mask_origin: str [P], the same for the generated images.
        evidence: One entry per pair (None without a score); None if heat maps were not requested.
        points: One entry per pair, like ``evidence``.
        extra: Further columns [P], first in tables (see ``with_columns``).
    """

    score: NDArray[np.float32]
    n_matched: NDArray[np.int64]
    n_source: NDArray[np.int64]
    status: NDArray[np.object_]
    ref_id: NDArray[np.object_]
    gen_id: NDArray[np.object_]
    visual_similarity: NDArray[np.float32]
    offsets: NDArray[np.int64]
    semantic_threshold: float
    visual_threshold: float
    model: str
    reason: Sequence[str] | NDArray[np.object_] = ()
    notes: Sequence[str] | NDArray[np.object_] = ()
    flags: Sequence[str] | NDArray[np.object_] = ()
    ref_mask_origin: Sequence[str] | NDArray[np.object_] = ()
    gen_mask_origin: Sequence[str] | NDArray[np.object_] = ()
    evidence: Sequence[HeatmapEvidence | None] | None = None
    points: Sequence[MatchedPoints | None] | None = None
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def store(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        store("score", np.asarray(self.score, np.float32))
        pairs = len(self.score)
        for name in ("n_matched", "n_source", "offsets"):
            store(name, np.asarray(getattr(self, name), np.int64))
        store("visual_similarity", np.asarray(self.visual_similarity, np.float32))
        for name in _TEXT_COLUMNS:
            texts = getattr(self, name)
            missing = name in _OPTIONAL_TEXTS and len(texts) == 0
            store(name, _text_column([""] * pairs if missing else texts))
        store("extra", {name: list(_text_column(column)) for name, column in self.extra.items()})
        names = ("n_matched", "n_source", *_TEXT_COLUMNS, "evidence", "points")
        columns = {**{name: getattr(self, name) for name in names}, **self.extra}
        lengths = {name: len(column) for name, column in columns.items() if column is not None}
        wrong = {name: length for name, length in lengths.items() if length != pairs}
        if wrong:
            raise ValueError(f"every column needs {pairs} entries like score; got {wrong}.")
        taken = sorted(set(self.extra) & {*_TABLE_COLUMNS, *self.settings()})
        if taken:
            raise ValueError(f"extra columns need unused names; taken: {', '.join(taken)}.")
        if not (
            len(self.offsets) == pairs + 1
            and self.offsets[0] == 0
            and self.offsets[-1] == len(self.visual_similarity)
            and np.array_equal(np.diff(self.offsets), self.n_matched)
        ):
            raise ValueError(
                f"offsets must be {pairs + 1} running sums of n_matched, from 0 to the number of "
                f"visual similarities, {len(self.visual_similarity)}."
            )

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index: int) -> VSMResult:
        pair = range(len(self))[index]  # negative indices and IndexError as in a list
        return VSMResult(
            index=pair,
            score=float(self.score[pair]),
            n_matched=int(self.n_matched[pair]),
            n_source=int(self.n_source[pair]),
            visual_threshold=self.visual_threshold,
            visual_similarity=self.visual_similarity[self.offsets[pair] : self.offsets[pair + 1]],
            evidence=None if self.evidence is None else self.evidence[pair],
            points=None if self.points is None else self.points[pair],
            **{name: getattr(self, name)[pair] for name in _TEXT_COLUMNS},
        )

    def __iter__(self) -> Iterator[VSMResult]:
        return (self[pair] for pair in range(len(self)))

    def __repr__(self) -> str:
        scored = np.isfinite(self.score)
        parts = [f"{len(self)} pair{'' if len(self) == 1 else 's'}"]
        if scored.any():
            parts.append(
                f"mean {self.score[scored].mean(dtype=np.float64):.3f} at visual threshold "
                f"{self.visual_threshold:g}"
            )
        others = Counter(self.status[~scored].tolist())
        parts += [f"{count} {status}" for status, count in others.most_common()]
        return f"VSMScores({', '.join(parts)}; model {self.model})"

    def at(self, visual_threshold: float) -> NDArray[np.float32]:
        """Return the scores at another visual threshold, from the stored similarities.

        Args:
            visual_threshold: Any number; a point passes if its similarity is above it.

        Returns:
            float32 [P] in [0, 1]; NaN if no point matched semantically.

        Source: arXiv 2509.21989, the VSM formula.
        """
        passed = self.visual_similarity > np.float32(visual_threshold)
        running = np.concatenate([[0], np.cumsum(passed, dtype=np.int64)])
        hits = np.diff(running[self.offsets])
        share = np.full(len(self), np.nan, np.float32)
        judged = self.n_matched > 0
        share[judged] = hits[judged] / self.n_matched[judged]
        return share

    def heatmap(self, index: int, visual_threshold: float | None = None) -> NDArray[np.float32]:
        """Draw the heat map of one pair: regions of the generated subject that are inconsistent.

        Args:
            index: Position of the pair.
            visual_threshold: Threshold at 0.5, in [-1, 1); None = ``self.visual_threshold``.

        Returns:
            float32 [H, W] at the size of the generated image, in [0, 1], 1 = inconsistent;
            NaN off the subject.

        Raises:
            ValueError: If the pair has no score, or heat maps were not requested.
            IndexError: If there is no such pair.
        """
        return self[index].heatmap(visual_threshold)

    def with_columns(self, extra: Mapping[str, Sequence[str]]) -> VSMScores:
        """Return the scores with further text columns, [P] each, first in tables."""
        return replace(self, extra={**self.extra, **extra})

    def columns(self) -> dict[str, Any]:
        """Return every column of the table by name, [P] each, in table order."""
        table: dict[str, Any] = {name: list(column) for name, column in self.extra.items()}
        table |= {name: getattr(self, name) for name in _TABLE_COLUMNS}
        for name, value in self.settings().items():
            table[name] = np.full(len(self), value, object if isinstance(value, str) else None)
        return table

    def settings(self) -> dict[str, str | float]:
        """Return the settings behind the scores: model, thresholds, library version."""
        return {
            "model": self.model,
            "semantic_threshold": float(self.semantic_threshold),
            "visual_threshold": float(self.visual_threshold),
            "vsm_fast_version": __version__,
        }

    def to_pandas(self) -> pandas.DataFrame:
        """Return a pandas DataFrame with one row per pair; an undefined score is NaN.

        Raises:
            ImportError: If pandas is not installed.
        """
        frame: pandas.DataFrame = required("pandas", "to_pandas()").DataFrame(self.columns())
        return frame

    def to_arrow(self, *, points: bool = False) -> pyarrow.Table:
        """Return an Arrow table with one row per pair; an undefined score is null.

        The schema's metadata repeats the settings, each under ``vsm_fast.<name>``.

        Args:
            points: Add the columns of :func:`vsm_fast.results.points.point_columns`, and the
                descriptor grid (``"32x32"``) as ``vsm_fast.grid`` to the metadata.

        Raises:
            ValueError: If points were not kept.
        """
        import pyarrow as pa

        table = {}
        for name, column in self.columns().items():
            if isinstance(column, list) or column.dtype == object:
                # Arrow refuses the lone surrogates of file names that are not UTF-8.
                texts = [text.encode("utf-8", "backslashreplace").decode() for text in column]
                table[name] = pa.array(texts, type=pa.string())
            else:  # from_pandas=True: NaN becomes null, which averages skip
                table[name] = pa.array(column, from_pandas=True)
        metadata = {f"vsm_fast.{name}": str(value) for name, value in self.settings().items()}
        if points:
            if self.points is None:
                raise ValueError(
                    "matched points were not kept for these scores. Score again with heatmaps=True."
                )
            table |= point_columns(self.points)
            for evidence in filter(None, self.evidence or ()):
                rows, columns = evidence.grid  # all pairs share one grid
                metadata["vsm_fast.grid"] = f"{rows}x{columns}"
        return pa.table(table).replace_schema_metadata(metadata)

    def to_parquet(self, path: str | os.PathLike[str], *, points: bool = False) -> None:
        """Write ``to_arrow()`` to a Parquet file, atomically."""
        table = self.to_arrow(points=points)
        import pyarrow.parquet as pq

        with replacing(path) as temporary:
            pq.write_table(table, temporary)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV file (UTF-8, header, an undefined score is empty), atomically.

        A text that a spreadsheet would evaluate, because it starts with ``=``, ``+``, ``-``, ``@``,
        a tab or a line break, gets a leading single quote, which ``read_manifest`` removes.
        """
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(map(csv_cells.as_text, self.columns()))
            for row in self._plain_rows():
                cells = ("" if value is None else value for value in row.values())
                writer.writerow(
                    [csv_cells.as_text(cell) if isinstance(cell, str) else cell for cell in cells]
                )

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write one JSON object per line (an undefined score is null), atomically."""
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for row in self._plain_rows():
                file.write(json.dumps(row) + "\n")

    def _plain_rows(self) -> Iterator[dict[str, str | int | float | None]]:
        """Yield one dict of plain Python values per pair; NaN becomes None."""
        table = self.columns()
        # The shortest decimal that reads back as the same float32, not 0.6000000238418579.
        table["score"] = [None if math.isnan(x) else float(str(x)) for x in table["score"]]
        plain = {n: c if isinstance(c, list) else c.tolist() for n, c in table.items()}
        for values in zip(*plain.values(), strict=True):
            yield dict(zip(plain, values, strict=True))


def _text_column(values: Sequence[object] | NDArray[Any]) -> NDArray[np.object_]:
    """Return texts as an object array; rows with the same text share its memory."""
    if isinstance(values, str):
        raise TypeError(f"a text column needs a list; got the text {values!r}.")
    column = np.empty(len(values), dtype=object)
    column[:] = [str(value) for value in values]
    return column
