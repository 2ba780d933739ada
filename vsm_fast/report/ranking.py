"""Rankings and paired comparisons of results, with intervals of a hierarchical bootstrap.

    ranking = rank(read_results("results.parquet"), by="generator")
    comparison = compare(read_results("a.parquet"), read_results("b.parquet"))

**Bootstrap.** A resample draws subjects with replacement, then images of each drawn subject with
replacement. All groups share the drawn subjects, so differences between subjects, which are
larger than those between generators, cancel in every comparison of groups. Images that
correspond across groups are drawn together, too; the others are drawn within their group. All
rows of an image (one per reference) stay together. Rows without a subject count as a subject per
reference. If no group has a second subject, only images are drawn. Intervals are percentiles of
the resampled means.

With few subjects the intervals are too narrow, as those of every bootstrap: about ten subjects
are needed for the nominal level.

A single image has no measurable spread: its group has no interval and no probabilities, and
does not count in those of the others.

**Missing scores.** A row without a score (NaN) is counted and takes no part in any mean.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsm_fast.errors import ResultsError
from vsm_fast.report.data import Results

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

NO_NAME = "(none)"  # of an empty value in the column of groups or subjects
DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure and its bootstrap interval; NaN where undefined."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class SubjectMean:
    """Mean score of a subject within a group, and the number of scored rows behind it."""

    subject: str
    mean: float
    scored: int


@dataclass(frozen=True)
class Group:
    """A row of a ranking.

    Attributes:
        name: Value of the column.
        pairs: Number of rows.
        scored: Rows with a score.
        subjects: Subjects with a scored row.
        mean: Mean score of the scored rows.
        probability_best: Share of resamples in which no other group has a higher mean; ties
            count in equal parts.
        probability_above_next: Share of resamples in which the group's mean is above that of
            the next group; ties count half. NaN for the last group.
        statuses: Rows per status.
        flags: Rows per flag.
        verdicts: Rows per verdict; empty if the results have no such column.
        best: Subjects with the highest means, the highest first.
        worst: Subjects with the lowest means, the lowest first.
    """

    name: str
    pairs: int
    scored: int
    subjects: int
    mean: Estimate
    probability_best: float
    probability_above_next: float
    statuses: Mapping[str, int]
    flags: Mapping[str, int]
    verdicts: Mapping[str, int]
    best: tuple[SubjectMean, ...]
    worst: tuple[SubjectMean, ...]

    @property
    def unscored(self) -> int:
        """Rows without a score."""
        return self.pairs - self.scored


@dataclass(frozen=True)
class Ranking:
    """Groups in descending order of mean score; groups without a score come last.

    Attributes:
        by: Column that defines the groups.
        groups: The groups.
        subjects: Subjects with a scored row.
        order_probability: Share of resamples with strictly this order of all groups with an
            interval; NaN for fewer than two of them.
        resampled: Levels of the bootstrap: subjects and images, or images only.
        draws: Number of resamples.
        level: Nominal coverage of the intervals.
        seed: Seed of the resamples.
    """

    by: str
    groups: tuple[Group, ...]
    subjects: int
    order_probability: float
    resampled: tuple[str, ...]
    draws: int
    level: float
    seed: int


@dataclass(frozen=True)
class Comparison:
    """Scores of A and B on the images that both have.

    Attributes:
        on: Columns whose values a row of A and a row of B must share.
        pairs_a: Rows of A.
        pairs_b: Rows of B.
        matched: Keys that both have.
        scored: Matched keys with a score on both sides; the means are over these.
        unscored_a: Matched keys without a score in A.
        unscored_b: Matched keys without a score in B.
        only_a: Keys that B lacks.
        only_b: Keys that A lacks.
        repeated_a: Keys with several rows in A, whose scores are averaged.
        repeated_b: The same for B.
        subjects: Subjects of the scored keys.
        mean_a: Mean score of A.
        mean_b: Mean score of B.
        difference: Mean of A minus B.
        probability_a: Share of resamples in which A's mean is above B's; ties count half.
        resampled: Levels of the bootstrap: subjects and images, or images only.
        draws: Number of resamples.
        level: Nominal coverage of the intervals.
        seed: Seed of the resamples.
        notes: Reasons to doubt the comparison, such as different thresholds.
    """

    on: tuple[str, ...]
    pairs_a: int
    pairs_b: int
    matched: int
    scored: int
    unscored_a: int
    unscored_b: int
    only_a: int
    only_b: int
    repeated_a: int
    repeated_b: int
    subjects: int
    mean_a: Estimate
    mean_b: Estimate
    difference: Estimate
    probability_a: float
    resampled: tuple[str, ...]
    draws: int
    level: float
    seed: int
    notes: tuple[str, ...]


def rank(
    results: Results,
    by: str = "generator",
    *,
    on: Sequence[str] = (),
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
    extremes: int = 3,
) -> Ranking:
    """Rank the groups of a column by their mean score.

    Args:
        results: Scores, ``P`` pairs.
        by: Column of the groups: any but the scores and counts.
        on: Columns whose values corresponding images of a subject share, such as ``prompt``. By
            default images correspond if their paths differ in the group's name only:
            ``sdxl/cat/0.png`` and ``flux/cat/0.png``. Correspondence narrows the probabilities,
            not the intervals; coincidental correspondence is harmless.
        draws: Number of bootstrap resamples, at least 1.
        level: Nominal coverage of the intervals, in (0, 1).
        seed: Seed of the resamples; equal seeds give equal rankings.
        extremes: Number of best and of worst subjects per group.

    Raises:
        ResultsError: If there is no such column. Names the columns.
        ValueError: If ``draws`` or ``level`` is out of range.
    """
    _check(draws, level)
    names = _column(results, by, "the table", "rank by")
    subjects = _subjects(results)
    score = results.score.astype(np.float64)
    order, group = np.unique(names, return_inverse=True)
    rows = np.flatnonzero(np.isfinite(score))
    subject = _codes(subjects)[rows]
    image = _codes(_image_keys(results, names, on))[rows]
    means, resampled = _resample(score[rows], group[rows], len(order), subject, image, draws, seed)
    value = _means(score[rows], group[rows], len(order))
    ranked = sorted(range(len(order)), key=lambda g: (-np.nan_to_num(value[g], nan=-1), order[g]))
    judged = [g for g in ranked if np.isfinite(means[:, g]).any()]
    best, above_next, in_order = _order_probabilities(means[:, judged])
    odds = dict(zip(judged, zip(best, above_next, strict=True), strict=True))
    groups = []
    for g in ranked:
        probability_best, probability_above_next = odds.get(g, (math.nan, math.nan))
        members = np.flatnonzero(group == g)
        by_subject = _subject_means(subjects[members], score[members])
        tallies = [_tally(results, column, members) for column in ("status", "flags", "verdict")]
        groups.append(
            Group(
                name=order[g],
                pairs=len(members),
                scored=sum(entry.scored for entry in by_subject),
                subjects=len(by_subject),
                mean=_estimate(value[g], means[:, g], level),
                probability_best=probability_best,
                probability_above_next=probability_above_next,
                statuses=tallies[0],
                flags=tallies[1],
                verdicts=tallies[2],
                best=tuple(by_subject[::-1][:extremes]),
                worst=tuple(by_subject[:extremes]),
            )
        )
    return Ranking(
        by, tuple(groups), len(np.unique(subject)), in_order, resampled, draws, level, seed
    )


def compare(
    a: Results,
    b: Results,
    *,
    on: Sequence[str] = (),
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Compare two sets of scores on the images that both have.

    Rows match if they share the values of ``on``, by default ``subject`` and ``id``; never by
    position. A key with several rows on a side has their mean score.

    Args:
        a: Scores of A.
        b: Scores of B.
        on: Columns to match by; both tables need them.
        draws: Number of bootstrap resamples, at least 1.
        level: Nominal coverage of the intervals, in (0, 1).
        seed: Seed of the resamples; equal seeds give equal comparisons.

    Raises:
        ResultsError: If a column is missing or no row of A matches one of B.
        ValueError: If ``draws`` or ``level`` is out of range.
    """
    _check(draws, level)
    columns = tuple(on) or _default_key(a, b)
    sides = [_by_key(a, "A", columns), _by_key(b, "B", columns)]
    keys = [key for key in sides[0] if key in sides[1]]
    if not keys:
        shown = ["; ".join(map(repr, next(iter(side)))) if side else "no rows" for side in sides]
        raise ResultsError(
            f"no row of A matches one of B in {' and '.join(columns)}: A starts with {shown[0]}, "
            f"B with {shown[1]}. Choose other columns with --on."
        )
    # float64 [keys, 2]: the score of each key in A and in B.
    score = np.array([[_mean(side[key][1]) for side in sides] for key in keys])
    defined = np.isfinite(score)
    both = np.flatnonzero(defined.all(axis=1))
    count = len(both)
    subject = _codes([sides[0][keys[key]][0] for key in both])
    means, resampled = _resample(
        score[both].T.ravel(),
        np.repeat([0, 1], count),
        2,
        np.tile(subject, 2),
        np.tile(np.arange(count), 2),
        draws,
        seed,
    )
    value = score[both].mean(axis=0) if count else np.full(2, np.nan)
    return Comparison(
        on=columns,
        pairs_a=len(a),
        pairs_b=len(b),
        matched=len(keys),
        scored=count,
        unscored_a=int((~defined[:, 0]).sum()),
        unscored_b=int((~defined[:, 1]).sum()),
        only_a=len(sides[0]) - len(keys),
        only_b=len(sides[1]) - len(keys),
        repeated_a=sum(len(scores) > 1 for _, scores in sides[0].values()),
        repeated_b=sum(len(scores) > 1 for _, scores in sides[1].values()),
        subjects=len(np.unique(subject)),
        mean_a=_estimate(value[0], means[:, 0], level),
        mean_b=_estimate(value[1], means[:, 1], level),
        difference=_estimate(value[0] - value[1], means[:, 0] - means[:, 1], level),
        probability_a=_probability_above(means[:, 0], means[:, 1]),
        resampled=resampled,
        draws=draws,
        level=level,
        seed=seed,
        notes=_doubts(a, b),
    )


def _check(draws: int, level: float) -> None:
    if draws < 1 or not 0 < level < 1:
        raise ValueError(
            f"a bootstrap needs at least 1 resample and a level in (0, 1); got {draws} and {level}."
        )


def _column(results: Results, column: str, name: str, purpose: str) -> Any:
    """Return a column of text or a setting, object [P]; empty values are ``(none)``.

    Raises:
        ResultsError: If there is no such column. Names the columns.
    """
    if column in results.texts:
        return np.array([text or NO_NAME for text in results.texts[column]], object)
    if column in results.settings:
        return np.full(len(results), results.settings[column] or NO_NAME, object)
    raise ResultsError(
        f"{name} has no column {column!r} to {purpose}. Its columns: "
        f"{', '.join((*results.texts, *results.settings))}."
    )


def _subjects(results: Results) -> Any:
    """Return the subject of each row, object [P]; the reference where there is none."""
    references = _column(results, "ref_id", "the table", "tell subjects apart")
    subjects = results.texts.get("subject", [""] * len(results))
    pairs = zip(subjects, references, strict=True)
    return np.array([subject or reference for subject, reference in pairs], object)


def _default_key(a: Results, b: Results) -> tuple[str, ...]:
    """Return the columns that identify an image in both tables.

    Raises:
        ResultsError: If a table has row numbers instead of ids.
    """
    for name, results in (("A", a), ("B", b)):
        if len(results) and results.texts["id"] == [f"row {i + 1}" for i in range(len(results))]:
            raise ResultsError(
                f"{name} has row numbers instead of ids, and rows are never matched by position. "
                "Name columns that identify an image in both tables with --on, such as gen_id."
            )
    return ("subject", "id") if "subject" in a.texts and "subject" in b.texts else ("id",)


def _by_key(
    results: Results, name: str, columns: Sequence[str]
) -> dict[tuple[str, ...], tuple[str, list[float]]]:
    """Return the subject and the scores of each key."""
    values = [_column(results, column, name, "match rows by") for column in columns]
    keyed: dict[tuple[str, ...], tuple[str, list[float]]] = {}
    rows = zip(zip(*values, strict=True), _subjects(results), results.score.tolist(), strict=True)
    for key, subject, score in rows:
        keyed.setdefault(key, (subject, []))[1].append(score)
    return keyed


def _mean(scores: Sequence[float]) -> float:
    defined = [score for score in scores if math.isfinite(score)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _doubts(a: Results, b: Results) -> tuple[str, ...]:
    """Return a sentence per setting in which A and B differ."""
    common = [name for name in a.settings if name in b.settings]
    return tuple(
        f"A and B differ in {name}: {a.settings[name]} and {b.settings[name]}. Their scores are "
        "not comparable."
        for name in common
        if a.settings[name] != b.settings[name] and name != "vsm_fast_version"
    )


def _image_keys(results: Results, names: Sequence[str], on: Sequence[str]) -> list[Any]:
    """Return a key per row that corresponding images share, [P]."""
    if on:
        columns = [_column(results, column, "the table", "match images by") for column in on]
        return list(zip(*columns, strict=True))
    paths = _column(results, "gen_id", "the table", "match images by")
    return [
        tuple(part for part in re.split(r"[/\\]", path) if part != name)
        for path, name in zip(paths, names, strict=True)
    ]


def _codes(values: Sequence[Hashable]) -> Codes:
    """Number distinct values in order of appearance, int64 [N]."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def _resample(
    score: Floats, group: Codes, groups: int, subject: Codes, image: Codes, draws: int, seed: int
) -> tuple[Floats, tuple[str, ...]]:
    """Resample the mean score of each group: subjects first, then images of each subject.

    Args:
        score: [N], finite.
        group: [N], in [0, groups).
        groups: Number of groups.
        subject: [N], subject of each row.
        image: [N], image of each row; equal within a subject where images correspond.
        draws: Number of resamples.
        seed: Seed of the draws.

    Returns:
        float64 [draws, groups], NaN where a resample has no row of a group and for groups with a
        single image; and the names of the levels that were drawn.
    """
    means = np.full((draws, groups), np.nan)
    both: tuple[str, ...] = ("subjects", "images")
    if not len(score):
        return means, both
    unit = _codes(list(zip(subject.tolist(), image.tolist(), strict=True)))
    # Images are drawn among those of the subject that the same groups have.
    members: dict[int, set[int]] = defaultdict(set)
    for number, name in zip(unit.tolist(), group.tolist(), strict=True):
        members[number].add(name)
    sharing = _codes([frozenset(members[number]) for number in unit.tolist()])
    stratum = _codes(list(zip(subject.tolist(), sharing.tolist(), strict=True)))
    pairs = np.unique(np.stack([group, subject]), axis=1).shape[1]
    by_subject = pairs > len(np.unique(group))  # a group has a second subject
    cluster = subject if by_subject else np.zeros_like(subject)
    # In order of cluster and stratum, the images of each are a range.
    images, row_image = np.unique(np.stack([cluster, stratum, unit]), axis=1, return_inverse=True)
    row_image = row_image.ravel()  # NumPy 2.0 returns [1, N]
    _, first, count = np.unique(images[0], return_index=True, return_counts=True)
    _, start, place, size = np.unique(
        images[1], return_index=True, return_inverse=True, return_counts=True
    )
    low, high = start[place], (start + size)[place]
    rng = np.random.default_rng(seed)
    for draw in range(draws):
        drawn = rng.integers(len(first), size=len(first))
        lengths = count[drawn]
        before = np.cumsum(lengths) - lengths
        slots = np.repeat(first[drawn] - before, lengths) + np.arange(lengths.sum())
        chosen = rng.integers(low[slots], high[slots])
        weights = np.bincount(chosen, minlength=images.shape[1])[row_image]
        means[draw] = _means(score, group, groups, weights)
    group_images = np.unique(np.stack([group, unit]), axis=1)[0]
    means[:, np.bincount(group_images, minlength=groups) < 2] = np.nan
    return means, both if by_subject else both[1:]


def _means(score: Floats, group: Codes, groups: int, weights: Any = None) -> Floats:
    """Return the weighted mean score of each group, NaN where it has no weight."""
    weights = np.ones(len(score)) if weights is None else weights
    total = np.bincount(group, weights * score, groups)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / np.bincount(group, weights, groups), np.float64)


def _estimate(value: float, resampled: Floats, level: float) -> Estimate:
    """Return a figure with its percentile interval.

    It has none if at least half of the resamples leave it undefined.
    """
    defined = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or 2 * len(defined) <= len(resampled):
        return Estimate(float(value))
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Estimate(float(value), float(low), float(high))


def _probability_above(a: Floats, b: Floats) -> float:
    """Return the share of resamples in which A is above B; ties count half."""
    defined = np.isfinite(a) & np.isfinite(b)
    if 2 * defined.sum() <= len(a):
        return math.nan
    return float(((a > b) + 0.5 * (a == b))[defined].mean())


def _order_probabilities(means: Floats) -> tuple[list[float], list[float], float]:
    """Return the probabilities of each group being best and above the next, and of the order.

    Args:
        means: float64 [draws, G], groups in descending order of their means.
    """
    draws, groups = means.shape
    if not groups:
        return [], [], math.nan
    above = [_probability_above(means[:, g], means[:, g + 1]) for g in range(groups - 1)]
    complete = means[np.isfinite(means).all(axis=1)]
    if 2 * len(complete) <= draws:  # too few resamples with all groups
        return [math.nan] * groups, [*above, math.nan], math.nan
    highest = complete == complete.max(axis=1, keepdims=True)
    best = (highest / highest.sum(axis=1, keepdims=True)).mean(axis=0).tolist()
    in_order = float((np.diff(complete, axis=1) < 0).all(axis=1).mean())
    return best, [*above, math.nan], in_order if groups > 1 else math.nan


def _subject_means(subjects: Any, score: Floats) -> list[SubjectMean]:
    """Return the subjects with a score in ascending order of their means."""
    scores = defaultdict(list)
    for subject, value in zip(subjects.tolist(), score.tolist(), strict=True):
        if math.isfinite(value):
            scores[subject].append(value)
    means = [SubjectMean(name, _mean(values), len(values)) for name, values in scores.items()]
    return sorted(means, key=lambda entry: (entry.mean, entry.subject))


def _tally(results: Results, column: str, rows: Codes) -> dict[str, int]:
    """Count the comma-separated values of a column, the most frequent first."""
    texts = results.texts.get(column)
    if texts is None:
        return {}
    values = Counter(value for row in rows.tolist() for value in texts[row].split(",") if value)
    return dict(sorted(values.items(), key=lambda item: (-item[1], item[0])))
