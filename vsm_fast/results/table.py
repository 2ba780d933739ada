"""The text that the command line prints about scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vsm_fast.results.scores import VSMScores

MAX_ROWS = 40
MAX_REASONS = 10
_MAX_NAME = 60


def score_table(scores: VSMScores, ids: Sequence[str], subjects: Sequence[str]) -> str:
    """An aligned table of the scores, the means, and why pairs have no score.

    Args:
        scores: The scores, ``P`` pairs.
        ids: Name of each pair.
        subjects: Subject of each pair, ``""`` for none.

    Returns:
        At most 40 rows, one mean a subject where there are subjects, where masks came from unless
        all were given, at most 10 reasons, and the flags.
    """
    rows = [
        (ids[i], number(float(scores.score[i])),
         f"{scores.n_matched[i]}/{scores.n_source[i]}", scores.status[i])
        for i in range(min(len(scores), MAX_ROWS))
    ]  # fmt: skip
    parts = [aligned(("id", "score", "matched/source", "status"), rows)]
    if len(scores) > MAX_ROWS:
        parts[0] += f"\n… and {len(scores) - MAX_ROWS} more"
    if any(subjects):
        parts.append(aligned(("subject", "mean score", "scored/pairs"), _means(scores, subjects)))
    scored = np.isfinite(scores.score)
    mean = float(scores.score[scored].mean(dtype=np.float64)) if scored.any() else math.nan
    parts.append(
        f"mean {number(mean)} over {scored.sum()} of {len(scores)} pairs "
        f"(model {scores.model}, visual threshold {scores.visual_threshold:g})"
    )
    origins = [_origins(scores.ref_mask_origin), _origins(scores.gen_mask_origin)]
    if any(set(counts) - {"given", ""} for counts in origins):
        texts = (", ".join(f"{n} {name or 'unknown'}" for name, n in counts.items())
                 for counts in origins)  # fmt: skip
        parts.append("masks: references {}; generations {}".format(*texts))
    failed = np.flatnonzero(~scored).tolist()
    if failed:
        lines = [f"  {_printable(ids[i])}: {_printable(scores.reason[i])}" for i in failed]
        more = [f"  … and {len(lines) - MAX_REASONS} more"] if len(lines) > MAX_REASONS else []
        parts.append("\n".join(["without a score:", *lines[:MAX_REASONS], *more]))
    raised = Counter(flag for flags in scores.flags for flag in flags.split(",") if flag)
    if raised:
        parts.append(flag_line(raised))
    return "\n\n".join(parts)


def flag_line(raised: Mapping[str, int]) -> str:
    """How many pairs have which flag, the most frequent first."""
    counts = sorted(raised.items(), key=lambda item: (-item[1], item[0]))
    return "flags: " + ", ".join(f"{count} {name}" for name, count in counts)


def _means(scores: VSMScores, subjects: Sequence[str]) -> list[tuple[str, ...]]:
    """Mean score and count of each subject, in the order of the pairs; at most 40."""
    by_subject: dict[str, list[float]] = {}
    for subject, score in zip(subjects, scores.score.tolist(), strict=True):
        by_subject.setdefault(subject, []).append(score)
    rows: list[tuple[str, ...]] = []
    for subject, values in list(by_subject.items())[:MAX_ROWS]:
        known = [value for value in values if not math.isnan(value)]
        mean = sum(known) / len(known) if known else math.nan
        rows.append((subject or "(none)", number(mean), f"{len(known)}/{len(values)}"))
    if len(by_subject) > MAX_ROWS:
        rows.append((f"… and {len(by_subject) - MAX_ROWS} more", "", ""))
    return rows


def _origins(column: Sequence[str] | NDArray[np.object_]) -> dict[str, int]:
    """Where the masks of a side came from, and how often."""
    return dict(Counter(column).most_common())


def aligned(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Text in columns under their heads; the last column is not padded."""
    short = [head, *([_shorten(_printable(row[0])), *row[1:]] for row in rows)]
    widths = [max(len(row[column]) for row in short) for column in range(len(head))]
    lines = ("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
             for row in short)  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)


def number(value: float) -> str:
    """A score for people; "-" where there is none."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def _printable(text: str) -> str:
    """A file name may hold line feeds or terminal codes; they must not reach the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _shorten(text: str) -> str:
    """Cut in the middle: both ends of a path tell pairs apart."""
    if len(text) <= _MAX_NAME:
        return text
    half = (_MAX_NAME - 1) // 2
    return f"{text[: _MAX_NAME - 1 - half]}…{text[-half:]}"
