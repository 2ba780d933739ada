"""Text output of scores for the command line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from vsm_fast.results.scores import VSMScores

MAX_ROWS = 40
MAX_REASONS = 10
_MAX_NAME = 60


def score_table(scores: VSMScores, ids: Sequence[str], subjects: Sequence[str]) -> str:
    """Format scores as an aligned table, with means and the reasons of missing scores.

    Args:
        scores: Scores of ``P`` pairs.
        ids: Name of each pair.
        subjects: Subject of each pair, ``""`` for none.

    Returns:
        At most 40 rows, one mean per subject, the origins of masks unless all were given, at most
        10 reasons, and the flags.
    """
    rows: list[tuple[str, ...]] = [
        (ids[i], number(float(scores.score[i])),
         f"{scores.n_matched[i]}/{scores.n_source[i]}", scores.status[i])
        for i in range(min(len(scores), MAX_ROWS))
    ]  # fmt: skip
    parts = [aligned(("id", "score", "matched/source", "status"), rows)]
    if len(scores) > MAX_ROWS:
        parts[0] += f"\n… and {len(scores) - MAX_ROWS} more"
    if any(subjects):
        by_subject: dict[str, list[float]] = {}
        for subject, score in zip(subjects, scores.score.tolist(), strict=True):
            by_subject.setdefault(subject, []).append(score)
        rows = []
        for subject, values in list(by_subject.items())[:MAX_ROWS]:
            defined = [value for value in values if not math.isnan(value)]
            mean = sum(defined) / len(defined) if defined else math.nan
            rows.append((subject or "(none)", number(mean), f"{len(defined)}/{len(values)}"))
        if len(by_subject) > MAX_ROWS:
            rows.append((f"… and {len(by_subject) - MAX_ROWS} more", "", ""))
        parts.append(aligned(("subject", "mean score", "scored/pairs"), rows))
    scored = np.isfinite(scores.score)
    mean = float(scores.score[scored].mean(dtype=np.float64)) if scored.any() else math.nan
    parts.append(
        f"mean {number(mean)} over {scored.sum()} of {len(scores)} pairs "
        f"(model {scores.model}, visual threshold {scores.visual_threshold:g})"
    )
    origins = Counter(scores.ref_mask_origin), Counter(scores.gen_mask_origin)
    if any(set(counts) - {"given", ""} for counts in origins):
        texts = (", ".join(f"{n} {name or 'unknown'}" for name, n in counts.most_common())
                 for counts in origins)  # fmt: skip
        parts.append("masks: references {}; generated images {}".format(*texts))
    failed = np.flatnonzero(~scored).tolist()
    if failed:
        lines = [f"  {_printable(ids[i])}: {_printable(scores.reason[i])}" for i in failed]
        more = [f"  … and {len(lines) - MAX_REASONS} more"] if len(lines) > MAX_REASONS else []
        parts.append("\n".join(["without a score:", *lines[:MAX_REASONS], *more]))
    flags = Counter(flag for flags in scores.flags for flag in flags.split(",") if flag)
    if flags:
        parts.append(flag_line(flags))
    return "\n\n".join(parts)


def flag_line(counts: Mapping[str, int]) -> str:
    """Format the number of pairs per flag, most frequent first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "flags: " + ", ".join(f"{count} {name}" for name, count in ranked)


def aligned(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Align columns under their heads; long names in the first column are cut in the middle."""
    short = [head]
    for name, *cells in rows:
        name = _printable(name)
        if len(name) > _MAX_NAME:  # both ends of a path are informative
            half = (_MAX_NAME - 1) // 2
            name = f"{name[: _MAX_NAME - 1 - half]}…{name[-half:]}"
        short.append((name, *cells))
    widths = [max(len(row[column]) for row in short) for column in range(len(head))]
    lines = ("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
             for row in short)  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)


def number(value: float) -> str:
    """Format a score with three decimals; "-" if undefined."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def _printable(text: str) -> str:
    """Replace line feeds and terminal codes, which file names may contain."""
    return "".join(character if character.isprintable() else "?" for character in text)
