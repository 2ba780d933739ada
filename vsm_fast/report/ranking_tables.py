"""Rankings and comparisons as text, Markdown, CSV, JSON and figures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsm_fast.errors import ResultsError
from vsm_fast.extras import required
from vsm_fast.files import replacing
from vsm_fast.report.ranking import Comparison, Estimate, Ranking, SubjectMean
from vsm_fast.results import csv_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".md", ".csv", ".json", ".png")

_NONE = "-"
_FEW_SUBJECTS = 10  # below it, percentile intervals miss their level noticeably
_MAX_NAME = 40
_BLUE, _INK, _GREY = "#0072B2", "#222222", "#888888"  # Okabe and Ito's blue

Rows = list[tuple[str, ...]]


def as_text(result: Ranking | Comparison) -> str:
    """Return aligned tables and the sentences below them."""
    tables, notes = _content(result)
    return "\n\n".join([*(_aligned(rows, "  ") for rows in tables), "\n".join(notes)])


def as_markdown(result: Ranking | Comparison) -> str:
    """Return Markdown tables and the sentences below them."""
    tables, notes = _content(result)
    parts = []
    for rows in tables:
        escaped = [tuple(_markdown(cell) for cell in row) for row in rows]
        rule = tuple("---" if column == 0 else "--:" for column in range(len(rows[0])))
        lines = _aligned([escaped[0], rule, *escaped[1:]], " | ", shorten=False).split("\n")
        parts.append("\n".join(f"| {line} |" for line in lines))
    return "\n\n".join([*parts, *map(_markdown, notes)]) + "\n"


def as_csv(result: Ranking | Comparison) -> str:
    """Return one row per group, or one row for a comparison; undefined figures are empty."""
    rows = [_comparison_row(result)] if isinstance(result, Comparison) else _group_rows(result)
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*columns], restval=0, lineterminator="\n")
    writer.writerow({name: csv_cells.as_text(name) for name in columns})
    for row in rows:
        writer.writerow({name: _csv_cell(value) for name, value in row.items()})
    return text.getvalue()


def as_json(result: Ranking | Comparison) -> str:
    """Return all figures as a JSON object; undefined figures are null."""
    return json.dumps(_without_nan(asdict(result)), indent=2, ensure_ascii=False) + "\n"


def draw(result: Ranking | Comparison) -> Figure:
    """Draw a dot and an interval per group, or for the difference of a comparison.

    Raises:
        ResultsError: If there is no score to draw.
        ImportError: If matplotlib is not installed. Names the extra.
    """
    matplotlib = required("matplotlib", "a figure of a ranking")
    if isinstance(result, Comparison):
        marks = [("A − B", result.difference)]
        label = f"difference of mean VSM, {100 * result.level:g} % interval"
    else:
        marks = [(group.name, group.mean) for group in result.groups]
        label = f"mean VSM, {100 * result.level:g} % interval"
    marks = [(name, figure) for name, figure in marks if not math.isnan(figure.value)]
    if not marks:
        raise ResultsError("no pair has a score, so there is nothing to draw.")
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
             "axes.edgecolor": _GREY, "text.parse_math": False}  # fmt: skip
    with matplotlib.rc_context(style):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 0.9 + 0.3 * len(marks)), layout="constrained", dpi=150)
        axes = figure.subplots()
        for place, (_, mark) in enumerate(marks):
            if not math.isnan(mark.low):
                axes.plot([mark.low, mark.high], [place, place], color=_BLUE, linewidth=2)
            axes.plot(mark.value, place, "o", color=_BLUE, markersize=6)
        if isinstance(result, Comparison):
            axes.axvline(0, color=_GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(marks)), [_short(_printable(name)) for name, _ in marks])
        axes.set_ylim(len(marks) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(label, color=_INK)
    return figure


def write(result: Ranking | Comparison, path: Path) -> None:
    """Write a ranking or comparison in the format that the suffix names: one of ``FORMATS``.

    Raises:
        ResultsError: If there is no score to draw.
        ImportError: If matplotlib is not installed. Names the extra.
    """
    texts: dict[str, Callable[[Ranking | Comparison], str]] = {
        ".md": as_markdown, ".csv": as_csv, ".json": as_json,
    }  # fmt: skip
    kind = path.suffix.lower()
    with replacing(path) as temporary:
        if kind == ".png":
            draw(result).savefig(temporary, facecolor="white")
        else:
            temporary.write_text(texts[kind](result), encoding="utf-8", newline="")


def _content(result: Ranking | Comparison) -> tuple[list[Rows], list[str]]:
    """Return tables, each with its head, and the sentences below them."""
    if isinstance(result, Comparison):
        return _comparison_content(result)
    return _ranking_content(result)


def _ranking_content(ranking: Ranking) -> tuple[list[Rows], list[str]]:
    if not ranking.groups:
        return [], ["The results hold no pairs."]
    interval = f"{100 * ranking.level:g} % interval"
    means: Rows = [(ranking.by, "mean", interval, "scored/pairs", "P(above next)", "P(best)")]
    subjects: Rows = [(ranking.by, "worst subject", "mean", "best subject", "mean")]
    for group in ranking.groups:
        figures = _number(group.mean.value), _interval(group.mean), f"{group.scored}/{group.pairs}"
        odds = _share(group.probability_above_next), _share(group.probability_best)
        means.append((group.name, *figures, *odds))
        subjects.append((group.name, *_subject(group.worst), *_subject(group.best)))
    # Share of the pairs of each group per status, flag and verdict.
    kinds = ("statuses", "flags", "verdicts")
    names = [
        (kind, name)
        for kind in kinds
        for name in dict.fromkeys(name for group in ranking.groups for name in getattr(group, kind))
    ]
    shares: Rows = [(ranking.by, *(name for _, name in names))]
    shares += [
        (group.name, *(_share(getattr(group, kind).get(name, 0) / group.pairs)
                       for kind, name in names))
        for group in ranking.groups
    ]  # fmt: skip
    unscored = sum(group.unscored for group in ranking.groups)
    notes = []
    if unscored:
        notes.append(f"{_count(unscored, 'pair')} without a score, not part of any mean.")
    if not math.isnan(ranking.order_probability):
        notes.append(f"This order holds in {_share(ranking.order_probability)} of the resamples.")
    notes.append(_method(ranking))
    return [means, subjects, shares], notes


def _comparison_content(comparison: Comparison) -> tuple[list[Rows], list[str]]:
    head = ("", "mean", f"{100 * comparison.level:g} % interval")
    rows = [
        (name, _number(figure.value, sign=name == "A - B"), _interval(figure, name == "A - B"))
        for name, figure in (
            ("A", comparison.mean_a), ("B", comparison.mean_b), ("A - B", comparison.difference),
        )
    ]  # fmt: skip
    notes = [
        f"A is better in {_share(comparison.probability_a)} of the resamples.",
        f"{_count(comparison.scored, 'pair')} of {_count(comparison.subjects, 'subject')}, "
        f"matched by {' and '.join(comparison.on)}.",
    ]
    for name, only, unscored, repeated in (
        ("A", comparison.only_a, comparison.unscored_a, comparison.repeated_a),
        ("B", comparison.only_b, comparison.unscored_b, comparison.repeated_b),
    ):
        if only:
            notes.append(f"{_count(only, 'pair')} only in {name}, left out.")
        if unscored:
            notes.append(f"{_count(unscored, 'pair')} without a score in {name}, left out.")
        if repeated:
            notes.append(f"{_count(repeated, 'pair')} with several rows in {name}, averaged.")
    return [[head, *rows]], [*notes, *comparison.notes, _method(comparison)]


def _method(result: Ranking | Comparison) -> str:
    levels = " and then ".join(result.resampled)
    text = f"Intervals: bootstrap over {levels}, {result.draws:,} resamples, seed {result.seed}."
    if result.resampled == ("images",):
        return f"{text} They say nothing about other subjects."
    if result.subjects < _FEW_SUBJECTS:
        return f"{text} With {result.subjects} subjects they are too narrow."
    return text


def _group_rows(ranking: Ranking) -> list[dict[str, Any]]:
    rows = []
    for group in ranking.groups:
        row: dict[str, Any] = {
            ranking.by: group.name, "pairs": group.pairs, "scored": group.scored,
            "unscored": group.unscored, "subjects": group.subjects,
            **_bounds("mean", group.mean),
            "probability_best": group.probability_best,
            "probability_above_next": group.probability_above_next,
        }  # fmt: skip
        for name, subjects in (("worst", group.worst), ("best", group.best)):
            row[f"{name}_subject"] = subjects[0].subject if subjects else ""
            row[f"{name}_subject_mean"] = subjects[0].mean if subjects else math.nan
        for kind in ("status", "flag", "verdict"):
            counts = getattr(group, {"status": "statuses"}.get(kind, f"{kind}s"))
            row |= {f"{kind}_{name}": count / group.pairs for name, count in counts.items()}
        rows.append(row)
    return rows


def _comparison_row(comparison: Comparison) -> dict[str, Any]:
    row = asdict(comparison)
    for name in ("mean_a", "mean_b", "difference"):
        row |= _bounds(name, getattr(comparison, name))
    return row | {name: " ".join(row[name]) for name in ("on", "resampled", "notes")}


def _bounds(name: str, figure: Estimate) -> dict[str, float]:
    return {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}


def _csv_cell(value: Any) -> Any:
    if isinstance(value, str):
        return csv_cells.as_text(value)
    return "" if isinstance(value, float) and math.isnan(value) else value


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _aligned(rows: Rows, separator: str, *, shorten: bool = True) -> str:
    """Return the rows as lines: the first column aligned left, the others right."""
    shown = [[_short(_printable(cell)) if shorten else cell for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join(
        separator.join(
            f"{cell:<{width}}" if column == 0 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in shown
    )


def _markdown(cell: str) -> str:
    """Escape the characters that Markdown or HTML would interpret."""
    escaped = _printable(cell).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\")
    for character in "|`*[":
        escaped = escaped.replace(character, f"\\{character}")
    return escaped


def _printable(text: str) -> str:
    """Replace line feeds and terminal codes, which names from files may hold."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _short(text: str) -> str:
    """Cut a long name in the middle: both ends of a path tell names apart."""
    half = (_MAX_NAME - 1) // 2
    return text if len(text) <= _MAX_NAME else f"{text[:half]}…{text[-half:]}"


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def _number(value: float, *, sign: bool = False) -> str:
    return _NONE if math.isnan(value) else f"{value:{'+' if sign else ''}.3f}"


def _interval(figure: Estimate, sign: bool = False) -> str:
    if math.isnan(figure.low):
        return _NONE
    return f"{_number(figure.low, sign=sign)} to {_number(figure.high, sign=sign)}"


def _share(value: float) -> str:
    return _NONE if math.isnan(value) else f"{100 * value:.1f} %"


def _subject(subjects: Sequence[SubjectMean]) -> tuple[str, str]:
    return (subjects[0].subject, _number(subjects[0].mean)) if subjects else (_NONE, _NONE)
