"""Collection of the scores of batches into one table, in the order of the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsm_fast.descriptors import Descriptors
from vsm_fast.errors import Flag, Status
from vsm_fast.images.subjects import Subject
from vsm_fast.matching.matches import Matches
from vsm_fast.matching.scoring import score
from vsm_fast.results.doubts import PairPoints, pair_doubts
from vsm_fast.results.heatmap import HeatmapEvidence
from vsm_fast.results.points import GridFrame, MatchedPoints
from vsm_fast.results.scores import VSMScores

_NONE = np.empty(0, np.float32)


@dataclass(frozen=True)
class MatchedSides:
    """Input of the matching of one batch.

    Attributes:
        generations: Descriptors of the batch's generated images.
        references: Descriptors of the references.
        pairs: int64 [p, 2], (image of ``generations``, image of ``references``) of each pair.
    """

    generations: Descriptors
    references: Descriptors
    pairs: NDArray[np.int64]


@dataclass
class ScoreCollector:
    """Rows of the result, filled batch by batch.

    Args:
        pairs: int64 [P, 2], (reference, generated image) of each row.
        visual_threshold: Threshold of the score column.
        heatmaps: Keep the evidence of heat maps and the matched points.
    """

    pairs: NDArray[np.int64]
    visual_threshold: float
    heatmaps: bool

    def __post_init__(self) -> None:
        rows = len(self.pairs)
        self._score = np.full(rows, np.nan, np.float32)
        self._n_source = np.zeros(rows, np.int64)
        self._similarity: list[NDArray[np.float32]] = [_NONE] * rows
        self._evidence: list[HeatmapEvidence | None] = [None] * rows
        self._points: list[MatchedPoints | None] = [None] * rows
        names = ("status", "reason", "notes", "flags", "ref_mask_origin", "gen_mask_origin")
        self._columns: dict[str, list[str]] = {name: [""] * rows for name in names}

    def add(
        self,
        rows: NDArray[np.int64],
        matches: Matches,
        sides: MatchedSides,
        references: Sequence[Subject],
        generations: Sequence[Subject],
        first: int,
    ) -> None:
        """Add the matches of one batch.

        Args:
            rows: int64 [p], the row of each pair of ``matches``.
            matches: Matches of the batch's pairs.
            sides: Input of the matching.
            references: All references.
            generations: The batch's generated images.
            first: Position of the batch's first generated image among all.
        """
        kept_all = matches.kept.cpu().numpy()
        visual_all = matches.visual_similarity.float().cpu().numpy()
        targets_all = matches.target_index.cpu().numpy()
        if self.heatmaps:
            semantic_all = matches.semantic_similarity.float().cpu().numpy()
        offsets = matches.offsets.tolist()
        self._score[rows] = score(matches, [self.visual_threshold]).score[:, 0].numpy()
        for position, row in enumerate(rows.tolist()):
            points = slice(offsets[position], offsets[position + 1])
            reference = references[self.pairs[row, 0]]
            generation = generations[self.pairs[row, 1] - first]
            kept, visual = kept_all[points], visual_all[points]
            self._n_source[row] = len(kept)
            self._similarity[row] = visual[kept]
            gen_image, ref_image = sides.pairs[position].tolist()
            gen, ref = sides.generations, sides.references
            cells = gen.cells[gen.rows(gen_image)].numpy()
            ref_cells = ref.cells[ref.rows(ref_image)].numpy()
            targets = ref_cells[targets_all[points][kept]].astype(np.int32)
            matched = PairPoints(cells[kept], targets, visual[kept], gen.grid)
            self._set_text(row, reference, generation, matched)
            if self.heatmaps and kept.any():
                assert generation.mask is not None  # a subject with points was prepared
                evidence = HeatmapEvidence.pack(
                    cells, kept, visual, gen.grid, generation.box, generation.mask
                )
                # Descriptors from elsewhere carry no size of their image.
                frame = GridFrame(reference.box, reference.size) if any(reference.size) else None
                self._evidence[row] = evidence
                self._points[row] = MatchedPoints(
                    evidence, targets, semantic_all[points][kept], frame
                )

    def _set_text(
        self, row: int, reference: Subject, generation: Subject, matched: PairPoints
    ) -> None:
        status, reason = Status.OK, ""
        if reference.status is not Status.OK:
            status, reason = reference.status, f"reference: {reference.reason}"
        elif generation.status is not Status.OK:
            status, reason = generation.status, f"generation: {generation.reason}"
        elif not len(matched.cells):
            status = Status.NO_MATCH
            reason = "no point of the generated image matches the reference semantically."
        doubts = pair_doubts(reference, generation, matched)
        notes = [f"reference: {note}" for note in reference.notes]
        notes += [f"generation: {note}" for note in generation.notes]
        notes += [f"pair: {note}" for _, note in doubts]
        flags = {*reference.flags, *generation.flags, *(flag for flag, _ in doubts)}
        for name, text in (
            ("status", status.value),
            ("reason", reason),
            ("notes", "; ".join(notes)),
            ("flags", ",".join(flag for flag in Flag if flag in flags)),
            ("ref_mask_origin", reference.mask_origin),
            ("gen_mask_origin", generation.mask_origin),
        ):
            self._columns[name][row] = text

    def finish(
        self,
        ref_ids: Sequence[str],
        gen_ids: Sequence[str],
        model: str,
        semantic_threshold: float,
    ) -> VSMScores:
        """Return the table of all rows."""
        n_matched = np.array([len(part) for part in self._similarity], np.int64)
        return VSMScores(
            score=self._score,
            n_matched=n_matched,
            n_source=self._n_source,
            status=np.array(self._columns.pop("status"), object),
            ref_id=np.array([ref_ids[ref] for ref in self.pairs[:, 0]], object),
            gen_id=np.array([gen_ids[gen] for gen in self.pairs[:, 1]], object),
            visual_similarity=np.concatenate([_NONE, *self._similarity]),
            offsets=np.concatenate([[0], n_matched.cumsum()]).astype(np.int64),
            semantic_threshold=semantic_threshold,
            visual_threshold=self.visual_threshold,
            model=model,
            evidence=self._evidence if self.heatmaps else None,
            points=self._points if self.heatmaps else None,
            **self._columns,  # type: ignore[arg-type]
        )
