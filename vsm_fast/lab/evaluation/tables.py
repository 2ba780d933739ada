"""Tables of an evaluation: Markdown, CSV rows, JSON content and columns of the pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vsm_fast.lab.evaluation.bootstrap import Estimate
from vsm_fast.lab.evaluation.metrics import Correlation
from vsm_fast.lab.evaluation.run import GROUPINGS, OTHER_SUBJECT, UNALTERED, Evaluation

_NONE = "–"


@dataclass(frozen=True)
class Published:
    """Published correlations of a metric, and the name of our column of the same kind if any."""

    label: str
    column: str
    pearson: float
    spearman: float


SOURCE = "Mind-the-Glitch, NeurIPS 2025, arXiv 2509.21989: their controlled test set, their weights"
CONTROLLED = (
    Published("CLIP", "clip-i", -0.053, -0.005),
    Published("DINO", "dino", 0.087, 0.120),
    Published("VLM (GPT-4o)", "", 0.072, 0.091),
    Published("VSM, visual threshold 0.5", "vsm@0.5", 0.465, 0.454),
    Published("VSM, visual threshold 0.6", "vsm@0.6", 0.448, 0.582),
    Published("VSM, visual threshold 0.7", "vsm@0.7", 0.352, 0.496),
)


def markdown(evaluation: Evaluation) -> str:
    """Return the evaluation as Markdown tables that also read well as plain text."""
    settings, counts = evaluation.settings, evaluation.counts
    headline, bootstrap = evaluation.headline, settings["bootstrap"]
    other, plain = counts["kind"].get(OTHER_SUBJECT, 0), counts["kind"].get(UNALTERED, 0)
    subjects = len([name for name in counts["subject"] if name])
    of_subjects = f" of {subjects} subject{'s' * (subjects != 1)}" if subjects else ""
    intervals = "No intervals."
    if bootstrap["resamples"]:
        intervals = (
            f"{bootstrap['level']:.0%} intervals: {bootstrap['resamples']} bootstrap resamples by "
            f"{bootstrap['unit']}, seed {bootstrap['seed']}."
        )
    parts = [
        f"Model `{settings['model']}`, semantic threshold {settings['semantic_threshold']:g}. "
        f"{len(evaluation.pairs)} pairs{of_subjects}: "
        f"{len(evaluation.pairs) - other - plain} altered, {plain} unaltered, "
        f"{other} of two subjects. {intervals}"
    ]

    published = {row.column: row for row in CONTROLLED if row.column in evaluation.metrics}
    rows: list[tuple[str, ...]] = []
    for metric in evaluation.metrics:
        name = f"**{metric}** (the model's threshold)" if metric == headline else metric
        gain = evaluation.gains.get(metric)
        row = published.get(metric)
        rows.append(
            (
                name,
                *_coefficients(evaluation.overall(metric)),
                _NONE if gain is None else _estimate(gain.pearson),
                _share(evaluation.separation[metric].higher),
                _NONE if row is None else _number(row.pearson),
                _NONE if row is None else _number(row.spearman),
            )
        )
    rows += [
        (row.label, *[_NONE] * 5, _number(row.pearson), _number(row.spearman))
        for row in CONTROLLED
        if row.column not in published
    ]
    coefficients = ("Pearson", "Spearman", "pairs")
    ours = ("VSM gain", "same > other", "published*: Pearson", "Spearman")
    parts += [
        "### Correlation with the oracle",
        markdown_table(("metric", *coefficients, *ours), rows),
        f"VSM gain: Pearson of `{headline}` minus that of the row, on the same pairs.\n"
        "same > other: share of comparisons in which an unaltered pair scores higher than a pair "
        "of two subjects.\n"
        f"\\* Published figures. {SOURCE}. Their pairs differ from ours: the figures are not "
        "comparable.",
    ]

    if evaluation.human is not None:
        rows = [(m, *_coefficients(evaluation.overall(m, "human"))) for m in evaluation.metrics]
        table = markdown_table(("metric", *coefficients), rows)
        parts += ["### Correlation with the mean human rating", table]

    points, pixels = evaluation.points, evaluation.pixels
    iou = f"{_estimate(pixels.best_iou)} at {pixels.best_threshold:.2f}"
    each = _estimate(pixels.best_iou_each)
    rows = [
        (name, _estimate(place.auroc), _estimate(place.auroc_within), *overlap, str(place.pairs))
        for name, place, overlap in (
            ("matched points", points, (_NONE, _NONE)),
            ("heat map pixels", pixels, (iou, each)),
        )
    ]
    heads = ("AUROC, pooled", "AUROC, mean of pairs", "best IoU, one threshold",
             "best IoU, threshold per pair", "pairs")  # fmt: skip
    parts += [
        "### Localisation of the altered part",
        markdown_table(("", *heads), rows),
        "The IoU thresholds are chosen on these pairs: an upper bound.",
    ]

    rows = [
        (row.by, row.group, *_coefficients(row.correlation))
        for row in evaluation.correlations
        if row.by != "all" and row.metric == headline
    ]
    if rows:
        table = markdown_table(("by", "group", *coefficients), rows)
        parts += [f"### `{headline}` by group", table]

    undefined = {status: n for status, n in counts["status"].items() if status != "ok"}
    notes = [f"Pairs without a VSM score: {n} ({status})." for status, n in undefined.items()]
    notes += [f"Baseline {name} skipped: {why}" for name, why in evaluation.skipped.items()]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])]) + "\n"


def csv_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return one row per metric: correlations (overall, human, by group), gain and separation."""
    rows = []
    targets = ["oracle"] + (["human"] if evaluation.human is not None else [])
    coefficients = ("pearson", "spearman")
    for metric in evaluation.metrics:
        row: dict[str, Any] = {"metric": metric}
        for target in targets:
            correlation = evaluation.overall(metric, target)
            prefix = "" if target == "oracle" else f"{target}_"
            row |= {f"{prefix}n": correlation.n, f"{prefix}undefined": correlation.undefined}
            for name in coefficients:
                row |= _bounds(prefix + name, getattr(correlation, name))
        gain = evaluation.gains.get(metric)
        for name in coefficients:
            estimate = Estimate(math.nan) if gain is None else getattr(gain, name)
            row |= _bounds(f"headline_minus_this_{name}", estimate)
        row |= asdict(evaluation.separation[metric])
        for group in evaluation.correlations:
            if group.metric == metric and group.by != "all":
                for name in coefficients:
                    row[f"{name}_{group.by}_{group.group}"] = getattr(group.correlation, name).value
        rows.append(row)
    return rows


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything except the pairs as JSON values; undefined figures are null."""
    content = {
        "settings": dict(evaluation.settings),
        "counts": {"pairs": len(evaluation.pairs), **evaluation.counts},
        "headline": evaluation.headline,
        "metrics": list(evaluation.metrics),
        "correlations": [asdict(row) for row in evaluation.correlations],
        "gains_of_headline": {name: asdict(gain) for name, gain in evaluation.gains.items()},
        "localisation": {"points": asdict(evaluation.points), "pixels": asdict(evaluation.pixels)},
        "separation": {name: asdict(row) for name, row in evaluation.separation.items()},
        "skipped_baselines": dict(evaluation.skipped),
        "published": {"source": SOURCE, "controlled": [asdict(row) for row in CONTROLLED]},
    }
    cleaned: dict[str, Any] = _without_nan(content)
    return cleaned


def pair_columns(evaluation: Evaluation) -> dict[str, list[Any]]:
    """Return the columns of the pairs: description, all metrics, and the status of VSM."""
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


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns: the first one left, the others right."""
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


def _coefficients(correlation: Correlation) -> tuple[str, str, str]:
    """Format Pearson, Spearman and the number of pairs."""
    undefined = f" ({correlation.undefined} undefined)" if correlation.undefined else ""
    pearson, spearman = _estimate(correlation.pearson), _estimate(correlation.spearman)
    return pearson, spearman, f"{correlation.n}{undefined}"


def _number(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.3f}"


def _share(value: float) -> str:
    return _NONE if math.isnan(value) else f"{100 * value:.1f} %"


def _estimate(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return _number(estimate.value)
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _bounds(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
