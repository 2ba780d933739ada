"""An evaluation as text: Markdown for people, rows for CSV, a dictionary for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vsm_fast.lab.evaluation.bootstrap import Estimate
from vsm_fast.lab.evaluation.evaluating import GROUPINGS, OTHER_SUBJECT, UNALTERED, Evaluation
from vsm_fast.lab.evaluation.localisation import Localisation
from vsm_fast.lab.evaluation.measures import Correlation
from vsm_fast.lab.evaluation.published import CONTROLLED, SOURCE

_NONE = "–"


def markdown(evaluation: Evaluation) -> str:
    """The whole evaluation as Markdown tables that also read well as plain text."""
    parts = [_about(evaluation), _main_table(evaluation)]
    if evaluation.human is not None:
        parts.append(_human_table(evaluation))
    parts.append(_located_table(evaluation))
    groups = _group_table(evaluation)
    return "\n\n".join([*parts, *([groups] if groups else []), *_notes(evaluation)]) + "\n"


def _about(evaluation: Evaluation) -> str:
    settings, counts = evaluation.settings, evaluation.counts
    kinds = counts["kind"]
    subjects = [name for name in counts["subject"] if name]
    of_subjects = f" of {len(subjects)} subject{'s' * (len(subjects) != 1)}" if subjects else ""
    other, plain = kinds.get(OTHER_SUBJECT, 0), kinds.get(UNALTERED, 0)
    altered = len(evaluation.pairs) - other - plain
    bootstrap = settings["bootstrap"]
    intervals = (
        f"{bootstrap['level']:.0%} intervals: {bootstrap['resamples']} bootstrap resamples by "
        f"{bootstrap['unit']}, seed {bootstrap['seed']}."
        if bootstrap["resamples"]
        else "No intervals."
    )
    return (
        f"Model `{settings['model']}`, semantic threshold {settings['semantic_threshold']:g}. "
        f"{len(evaluation.pairs)} pairs{of_subjects}: {altered} altered, "
        f"{plain} unaltered, {other} of two subjects. {intervals}"
    )


def _main_table(evaluation: Evaluation) -> str:
    theirs = {row.column: row for row in CONTROLLED if row.column}
    rows: list[tuple[str, ...]] = []
    for metric in evaluation.metrics:
        found, published = evaluation.overall(metric), theirs.pop(metric, None)
        rows.append(
            (
                _name(evaluation, metric),
                _estimate(found.pearson),
                _estimate(found.spearman),
                _pairs(found),
                _estimate(evaluation.gains[metric].pearson)
                if metric in evaluation.gains
                else _NONE,
                _share(evaluation.separation[metric].higher),
                _number(published.pearson) if published else _NONE,
                _number(published.spearman) if published else _NONE,
            )
        )
    others = [row for row in CONTROLLED if not row.column or row.column in theirs]
    rows += [
        (row.label, *[_NONE] * 5, _number(row.pearson), _number(row.spearman)) for row in others
    ]
    heads = (
        "metric", "Pearson", "Spearman", "pairs", "VSM's gain", "same > other",
        "theirs*: Pearson", "Spearman",
    )  # fmt: skip
    return (
        "### Correlation with the oracle\n\n"
        f"{aligned(heads, rows)}\n\n"
        f"VSM's gain: Pearson of `{evaluation.headline}` minus the row's, on the same pairs.\n"
        "same > other: share of comparisons in which an unaltered pair has a higher value than a "
        "pair of two subjects.\n"
        f"\\* Published figures. {SOURCE}. Other pairs than ours, so no row is a comparison."
    )


def _human_table(evaluation: Evaluation) -> str:
    rows = []
    for metric in evaluation.metrics:
        found = evaluation.overall(metric, "human")
        rows.append(
            (metric, _estimate(found.pearson), _estimate(found.spearman), _pairs(found))
        )  # fmt: skip
    table = aligned(("metric", "Pearson", "Spearman", "pairs"), rows)
    return f"### Correlation with the mean human rating\n\n{table}"


def _located_table(evaluation: Evaluation) -> str:
    def row(name: str, found: Localisation, overlap: bool) -> tuple[str, ...]:
        return (
            name,
            _estimate(found.auroc),
            _estimate(found.auroc_within),
            f"{_estimate(found.best_iou)} at {found.best_threshold:.2f}" if overlap else _NONE,
            _estimate(found.best_iou_each) if overlap else _NONE,
            str(found.pairs),
        )

    heads = ("", "AUROC, pooled", "AUROC, mean of pairs", "best IoU, one threshold",
             "best IoU, one a pair", "pairs")  # fmt: skip
    rows = [
        row("matched points", evaluation.points, False),
        row("heat map's pixels", evaluation.pixels, True),
    ]
    return (
        "### Localisation of the altered part\n\n"
        f"{aligned(heads, rows)}\n\n"
        "The thresholds of the IoU are chosen on these pairs: an upper bound."
    )


def _group_table(evaluation: Evaluation) -> str:
    rows = [
        (row.by, row.group, _estimate(row.correlation.pearson),
         _estimate(row.correlation.spearman), _pairs(row.correlation))
        for row in evaluation.correlations
        if row.by != "all" and row.metric == evaluation.headline
    ]  # fmt: skip
    if not rows:
        return ""
    table = aligned(("by", "group", "Pearson", "Spearman", "pairs"), rows)
    return f"### `{evaluation.headline}` by group\n\n{table}"


def _notes(evaluation: Evaluation) -> list[str]:
    without = {name: n for name, n in evaluation.counts["status"].items() if name != "ok"}
    lines = [f"Pairs without a VSM score: {n} ({name})." for name, n in without.items()]
    lines += [f"Baseline {name} left out: {why}" for name, why in evaluation.skipped.items()]
    return ["\n".join(lines)] if lines else []


def csv_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row a metric: correlations (overall, human, by group), gain and separation."""
    rows = []
    for metric in evaluation.metrics:
        row: dict[str, Any] = {"metric": metric}
        targets = ["oracle"] + (["human"] if evaluation.human is not None else [])
        for target in targets:
            found = evaluation.overall(metric, target)
            prefix = "" if target == "oracle" else f"{target}_"
            row |= {f"{prefix}n": found.n, f"{prefix}undefined": found.undefined}
            for name in ("pearson", "spearman"):
                row |= _flat(prefix + name, getattr(found, name))
        gain = evaluation.gains.get(metric)
        for name in ("pearson", "spearman"):
            estimate = Estimate(math.nan) if gain is None else getattr(gain, name)
            row |= _flat(f"headline_minus_this_{name}", estimate)
        row |= asdict(evaluation.separation[metric])
        for group in evaluation.correlations:
            if group.metric == metric and group.by != "all":
                for name in ("pearson", "spearman"):
                    row[f"{name}_{group.by}_{group.group}"] = getattr(group.correlation, name).value
        rows.append(row)
    return rows


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything but the rows of the pairs; what is undefined is null."""
    content = {
        "settings": dict(evaluation.settings),
        "counts": {"pairs": len(evaluation.pairs), **evaluation.counts},
        "headline": evaluation.headline,
        "metrics": list(evaluation.metrics),
        "correlations": [asdict(row) for row in evaluation.correlations],
        "gains_of_headline": {name: asdict(gain) for name, gain in evaluation.gains.items()},
        "localisation": {"points": asdict(evaluation.points), "pixels": asdict(evaluation.pixels)},
        "separation": {name: asdict(found) for name, found in evaluation.separation.items()},
        "skipped_baselines": dict(evaluation.skipped),
        "published": {"source": SOURCE, "controlled": [asdict(row) for row in CONTROLLED]},
    }
    cleaned: dict[str, Any] = _without_nan(content)
    return cleaned


def pair_columns(evaluation: Evaluation) -> dict[str, list[Any]]:
    """One row a pair: what it is, every metric, and why VSM is undefined where it is."""
    pairs = evaluation.pairs
    columns: dict[str, list[Any]] = {
        name: [getattr(pair, name) for pair in pairs] for name in ("id", *GROUPINGS, "oracle")
    }
    columns |= {metric: evaluation.column(metric).tolist() for metric in evaluation.metrics}
    if evaluation.human is not None:
        columns["human"] = evaluation.human.tolist()
    for name in ("n_matched", "n_source", "status"):
        columns[name] = [getattr(pair, name) for pair in pairs]
    return columns


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up; the first column to the left, others to the right."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (heads, *rows)]
    widths = [max(3, *(len(row[column]) for row in escaped)) for column in range(len(heads))]
    left = {0} | {i for i, head in enumerate(heads) if head == "group"}

    def line(cells: Sequence[str]) -> str:
        padded = (
            f"{cell:<{width}}" if column in left else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if column in left else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    return "\n".join([line(escaped[0]), line(rule), *map(line, escaped[1:])])


def _name(evaluation: Evaluation, metric: str) -> str:
    return f"**{metric}** (the model's threshold)" if metric == evaluation.headline else metric


def _pairs(found: Correlation) -> str:
    return str(found.n) + (f" ({found.undefined} undefined)" if found.undefined else "")


def _number(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.3f}"


def _share(value: float) -> str:
    return _NONE if math.isnan(value) else f"{100 * value:.1f} %"


def _estimate(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return _number(estimate.value)
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _flat(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
