"""Rankings and comparisons: exact figures, coverage of the intervals, recovery of an order."""

import csv
import io
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from job_inputs import write_model, write_pairs

from vsm_fast.cli.main import main
from vsm_fast.errors import ResultsError
from vsm_fast.report import compare, rank, read_results, results_of
from vsm_fast.report.ranking_tables import as_csv, as_json, as_markdown, as_text, draw, write

NAN = math.nan


def table(score, *, subject=(), generator=(), drop=(), **columns):
    """Results with a row per score; subject, generator and ids have simple defaults."""
    rows = len(score)
    given = {
        "id": [f"image {row}" for row in range(rows)],
        "subject": list(subject) or ["cat"] * rows,
        "generator": list(generator) or ["sdxl"] * rows,
        "ref_id": ["ref.png"] * rows,
        "gen_id": [f"{row}.png" for row in range(rows)],
        "score": pa.array(score, pa.float32(), from_pandas=True),
        "n_matched": [10] * rows,
        "n_source": [20] * rows,
        "status": ["no_semantic_match" if math.isnan(value) else "ok" for value in score],
        "flags": [""] * rows,
        **columns,
    }
    arrays = {name: pa.array(column) for name, column in given.items() if name not in drop}
    empty = {name: pa.array([], pa.string()) for name in arrays if not rows and name != "score"}
    return results_of(pa.table(arrays | empty))


def test_exact_figures():
    results = table(
        [0.5, 1.0, NAN, 0.25, 0.75, 0.0],
        generator=["flux", "flux", "flux", "sdxl", "sdxl", "sdxl"],
        subject=["cat", "dog", "dog", "cat", "dog", "dog"],
        flags=["no_mask", "no_mask,tiny_subject", "", "", "", "tiny_subject"],
        verdict=["check", "consistent", "", "check", "consistent", "inconsistent"],
    )
    flux, sdxl = rank(results).groups
    assert (flux.name, flux.pairs, flux.scored, flux.unscored, flux.subjects) == (
        "flux",
        3,
        2,
        1,
        2,
    )
    assert flux.mean.value == 0.75  # the missing score is no zero
    assert flux.statuses == {"ok": 2, "no_semantic_match": 1}
    assert flux.flags == {"no_mask": 2, "tiny_subject": 1}
    assert flux.verdicts == {"check": 1, "consistent": 1}
    assert [(entry.subject, entry.mean, entry.scored) for entry in flux.best] == [
        ("dog", 1.0, 1), ("cat", 0.5, 1),
    ]  # fmt: skip
    assert [entry.subject for entry in rank(results, extremes=1).groups[0].worst] == ["cat"]
    assert sdxl.mean.value == pytest.approx(1 / 3)
    assert [entry.mean for entry in sdxl.worst] == [0.25, 0.375]
    assert rank(results, draws=50) == rank(results, draws=50)
    assert rank(results, draws=50, seed=1) != rank(results, draws=50)


def test_the_bootstrap_draws_subjects_and_then_images():
    """Two subjects of two images each: the means of all resamples are known."""
    results = table([0.0, 0.2, 0.6, 1.0], subject=["cat", "cat", "dog", "dog"])
    # 0 and 1 need one subject twice and one of its images four times, 1/4 * 1/16; the next means
    # are 0.05 and 0.9, each with 1/4 * 4/16.
    for level, interval in ((0.98, (0, 1)), (0.9, (0.05, 0.9))):
        mean = rank(results, draws=4000, level=level).groups[0].mean
        assert (mean.value, mean.low, mean.high) == pytest.approx((0.45, *interval))
    one_subject = rank(table([0.0, 0.2, 0.6, 1.0]))
    assert one_subject.resampled == ("images",)
    assert "nothing about other subjects" in as_text(one_subject)
    assert one_subject.groups[0].mean.high < mean.high


def test_rows_of_an_image_are_drawn_together():
    """Each image against 25 references: rows alone would look like 50 independent images."""
    rows = {"generator": ["a"] * 50, "gen_id": ["0.png"] * 25 + ["1.png"] * 25}
    mean = rank(table([0.0] * 25 + [1.0] * 25, **rows)).groups[0].mean
    assert (mean.low, mean.high) == (0, 1)


def test_corresponding_images_are_drawn_together():
    """B is 0.01 below A on every image, far below their spread."""
    rng = np.random.default_rng(0)
    a = rng.uniform(0.2, 1, 40)
    names = [f"{number}.png" for number in range(40)]
    paths = [f"gens/{group}/cat/{name}" for group in "ab" for name in names]
    columns = {"generator": ["a"] * 40 + ["b"] * 40, "subject": (["cat"] * 20 + ["dog"] * 20) * 2}
    score = [*a, *(a - 0.01)]
    assert rank(table(score, **columns, gen_id=paths)).order_probability == 1
    apart = table(score, **columns, prompt=names * 2)
    assert rank(apart).order_probability < 0.9
    assert rank(apart, on=["subject", "prompt"]).order_probability == 1
    # Only one image corresponds: the others are drawn within their group.
    paths[41:] = [f"{number}.jpg" for number in range(39)]
    assert rank(table(score, **columns, gen_id=paths)).order_probability < 0.9


@pytest.mark.parametrize("share", [0, 0.15], ids=["every score", "missing scores"])
def test_coverage_of_the_interval(share):
    """15 subjects of 4 images: subjects differ by 0.09, images by 0.1 (as the embedded model)."""
    rng = np.random.default_rng(4)
    subject = [f"s{number}" for number in range(15)] * 4
    hits = []
    for _ in range(80):
        score = 0.7 + np.tile(rng.normal(0, 0.09, 15), 4) + rng.normal(0, 0.1, 60)
        score[rng.random(60) < share] = NAN
        mean = rank(table(score, subject=subject), draws=200).groups[0].mean
        hits.append(mean.low <= 0.7 <= mean.high)
    assert 0.88 <= np.mean(hits) <= 0.99


def test_ties_are_shared():
    results = table([0.5] * 6, generator=["c", "b", "a"] * 2)
    ranking = rank(results)
    assert [group.name for group in ranking.groups] == ["a", "b", "c"]
    assert [group.probability_best for group in ranking.groups] == pytest.approx([1 / 3] * 3)
    assert ranking.groups[0].probability_above_next == 0.5
    assert ranking.order_probability == 0
    assert compare(results, results).probability_a == 0.5


def test_groups_without_a_score_come_last():
    results = table([NAN, NAN, 0.0, 1.0, 0.0, 1.0], generator=["a", "a", "z", "y", "z", "y"])
    ranking = rank(results)
    assert [group.name for group in ranking.groups] == ["y", "z", "a"]
    last = ranking.groups[-1]
    assert math.isnan(last.mean.value)
    assert (last.best, last.worst, last.unscored) == ((), (), 2)
    assert ranking.groups[1].mean.value == 0
    assert ranking.order_probability == 1
    nothing = rank(table([NAN, NAN]))
    assert math.isnan(nothing.groups[0].mean.value)
    assert math.isnan(nothing.order_probability)
    assert "2 pairs without a score" in as_text(nothing)
    with pytest.raises(ResultsError, match="nothing to draw"):
        draw(nothing)


def test_a_single_image_has_no_interval_and_no_probabilities():
    ranking = rank(table([0.5, 0.9, 0.8, 0.2, 0.1], generator=["one", "a", "a", "b", "b"]))
    a, one, b = ranking.groups
    assert (one.name, one.mean.value) == ("one", 0.5)
    assert all(map(math.isnan, (one.mean.low, one.probability_best, one.probability_above_next)))
    assert (a.probability_best, a.probability_above_next, b.probability_best) == (1, 1, 0)
    assert ranking.order_probability == 1
    single = compare(table([0.5]), table([0.4]))
    assert single.difference.value == pytest.approx(0.1)
    assert math.isnan(single.difference.low)
    assert math.isnan(single.probability_a)


def test_one_group_and_no_pairs():
    one = rank(table([0.4, 0.6]))
    assert one.groups[0].probability_best == 1
    assert math.isnan(one.groups[0].probability_above_next)
    assert math.isnan(one.order_probability)
    none = rank(table([]))
    assert none.groups == ()
    assert as_text(none) == "The results hold no pairs."
    assert json.loads(as_json(none))["groups"] == []
    assert as_csv(none).strip() == ""


def test_any_column_and_missing_columns():
    results = table([0.2, 0.8, 0.6], subject=["", "dog", "dog"], generator=["", "flux", ""],
                    ref_id=["x.png", "y.png", "y.png"], checkpoint=[100, 200, 200],
                    model=["tiny"] * 3)  # fmt: skip
    assert [group.name for group in rank(results, "checkpoint").groups] == ["200", "100"]
    assert [group.name for group in rank(results).groups] == ["flux", "(none)"]
    assert [group.name for group in rank(results, "model").groups] == ["tiny"]
    assert rank(results).groups[1].worst[0].subject == "x.png"  # no subject: the reference
    by_subject = rank(results, "subject")
    assert by_subject.resampled == ("images",)  # a group is a subject
    assert [group.name for group in by_subject.groups] == ["dog", "(none)"]
    for column in ("prompt", "score"):
        with pytest.raises(ResultsError, match=f"'{column}' to rank by.*checkpoint.*model"):
            rank(results, column)
    with pytest.raises(ResultsError, match="no column 'generator'"):
        rank(table([0.5], drop=["generator"]))
    for wrong in ({"draws": 0}, {"level": 1.0}):
        with pytest.raises(ValueError, match="at least 1 resample"):
            rank(results, **wrong)


# Scores of the embedded model on 160 pairs of two photographs of a subject (the four test and four
# validation subjects of recipes/tiny/splits.py, 20 pairs each), the same part altered in 0.1, 0.2
# and 0.3 of the subject's area by the six kinds of the benchmark: mean per share, and the standard
# deviations between subjects; between images of a subject, common to the shares (photographs,
# framing, kind); of the rest; and, between subjects, of a share's effect.
MEANS = (0.834, 0.783, 0.724)
BETWEEN_SUBJECTS, IMAGE, REST, EFFECT = 0.080, 0.094, 0.033, 0.005


@pytest.mark.parametrize("subjects", [4, 8])
def test_the_order_of_three_generators_is_recovered(subjects):
    names = [f"s{image % subjects}" for image in range(40)]
    of_image = np.arange(40) % subjects
    for seed in range(8):
        rng = np.random.default_rng((seed, subjects))
        common = rng.normal(0, BETWEEN_SUBJECTS, subjects)[of_image] + rng.normal(0, IMAGE, 40)
        score, generator, paths = [], [], []
        for number, mean in enumerate(MEANS):
            own = rng.normal(0, EFFECT, subjects)[of_image] + rng.normal(0, REST, 40)
            score += np.clip(mean + common + own, 0, 1).tolist()
            generator += [f"g{number}"] * 40
            paths += [f"g{number}/{name}/{image}.png" for image, name in enumerate(names)]
        ranking = rank(
            table(score, subject=names * 3, generator=generator, gen_id=paths), draws=1000
        )
        assert [group.name for group in ranking.groups] == ["g0", "g1", "g2"]
        assert ranking.order_probability >= 0.99


def test_a_paired_difference():
    a = table([0.5, 0.7, NAN, 0.9, 0.1], subject=["cat", "cat", "cat", "dog", "dog"])
    b = table([0.4, 0.6, 0.3, NAN, 0.0, 0.2], subject=["cat", "cat", "cat", "dog", "dog", "eel"])
    comparison = compare(a, b)
    assert comparison.on == ("subject", "id")
    assert (comparison.pairs_a, comparison.pairs_b) == (5, 6)
    assert (comparison.matched, comparison.scored, comparison.subjects) == (5, 3, 2)
    assert (comparison.unscored_a, comparison.unscored_b) == (1, 1)
    assert (comparison.only_a, comparison.only_b) == (0, 1)
    assert comparison.mean_a.value == pytest.approx(1.3 / 3)
    assert comparison.mean_b.value == pytest.approx(1.0 / 3)
    difference = comparison.difference
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert comparison.probability_a == 1
    assert compare(b, a).probability_a == 0
    printed = as_text(comparison)
    for line in ("1 pair only in B", "1 pair without a score in A", "1 pair without a score in B"):
        assert line in printed
    assert "+0.100" in printed


def test_the_difference_has_the_interval_of_paired_images():
    rng = np.random.default_rng(1)
    common, noise = rng.uniform(0.3, 0.9, 60), rng.normal(0, 0.02, 60)
    subject = [f"s{row % 12}" for row in range(60)]
    comparison = compare(table(common, subject=subject), table(common + noise, subject=subject))
    width = comparison.difference.high - comparison.difference.low
    assert 0.5 < width / (4 * 0.02 / 60**0.5) < 2
    assert comparison.mean_a.high - comparison.mean_a.low > 4 * width


def test_columns_to_match_by():
    a = table([0.2, 0.6, 0.5], id=["x", "y", "z"], prompt=["p", "p", "q"])
    b = table([0.3, 0.9], id=["u", "v"], prompt=["q", "p"])
    with pytest.raises(ResultsError, match=r"no row of A matches.*subject and id.*'x'.*'u'.*--on"):
        compare(a, b)
    comparison = compare(a, b, on=["prompt"])
    assert (comparison.matched, comparison.repeated_a, comparison.repeated_b) == (2, 1, 0)
    assert comparison.mean_a.value == pytest.approx(0.45)  # 0.4 for prompt p, 0.5 for q
    assert "1 pair with several rows in A, averaged" in as_text(comparison)
    with pytest.raises(ResultsError, match=r"B has no column 'seed' to match rows by.*prompt"):
        compare(table([1.0], seed=["1"]), b, on=["seed"])
    assert compare(a, table([0.1], id=["x"], drop=["subject"])).on == ("id",)
    with pytest.raises(ResultsError, match=r"no row of A .*no rows"):
        compare(a, table([]))
    with pytest.raises(ResultsError, match=r"A has row numbers instead of ids.*--on"):
        compare(table([0.5, 0.6], drop=["id"]), b)


def test_a_comparison_without_a_score_and_one_with_other_settings():
    nothing = compare(table([NAN]), table([0.5]))
    assert (nothing.matched, nothing.scored, nothing.unscored_a) == (1, 0, 1)
    assert math.isnan(nothing.difference.value)
    assert math.isnan(nothing.probability_a)
    assert "without a score in A" in as_text(nothing)
    other = compare(
        table([0.5], visual_threshold=[0.66], model=["tiny"]),
        table([0.5], visual_threshold=[0.7], model=["tiny"]),
    )
    (note,) = other.notes
    assert "visual_threshold: 0.66 and 0.7" in note
    assert note in as_text(other)


@pytest.fixture(scope="module")
def hostile():
    """Names with the syntax of spreadsheets, Markdown, HTML, mathtext and terminals."""
    names = ["=1+1", "a|b*`<b>$\\frac{$", "$x$\n\x1b[0m", "x" * 90]
    return rank(
        table([0.9, 0.8, NAN, 0.6, 0.8, 0.7, NAN, 0.5], generator=names * 2,
              subject=["-2", "b", "c", "d"] * 2)
    )  # fmt: skip


def test_written_tables(hostile, tmp_path):
    for name in ("t.md", "t.csv", "t.json", "t.png"):
        write(hostile, tmp_path / name)
    markdown = (tmp_path / "t.md").read_text()
    assert markdown == as_markdown(hostile)
    assert "a\\|b\\*\\`&lt;b>" in markdown
    assert "\x1b" not in markdown
    assert "x" * 90 in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines[:6]} == {7}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert [row["generator"][:5] for row in rows] == ["'=1+1", "a|b*`", "xxxxx", "$x$\n\x1b"]
    assert rows[0]["worst_subject"] == "'-2"
    assert float(rows[1]["mean"]) == hostile.groups[1].mean.value
    assert (rows[3]["mean"], rows[3]["mean_low"], rows[3]["scored"]) == ("", "", "0")
    assert (rows[0]["status_no_semantic_match"], rows[3]["status_no_semantic_match"]) == (
        "0",
        "1.0",
    )
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["groups"][3]["mean"] == {"value": None, "low": None, "high": None}
    assert content["groups"][0]["statuses"] == {"ok": 2}
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    assert "x" * 90 not in as_text(hostile)
    assert "\x1b" not in as_text(hostile)


def test_a_figure_has_a_dot_and_an_interval_per_group(hostile):
    (axes,) = draw(hostile).axes
    assert len(axes.get_yticklabels()) == 3  # the group without a score has none
    drawn = [np.ravel(line.get_xdata()).tolist() for line in axes.lines]
    means = [group.mean for group in hostile.groups[:3]]
    assert drawn[::2] == [[mean.low, mean.high] for mean in means]
    assert drawn[1::2] == [[mean.value] for mean in means]
    comparison = compare(table([0.5, 0.9]), table([0.4, 0.7]))
    (axes,) = draw(comparison).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A − B"]
    row = next(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert float(row["difference"]) == pytest.approx(0.15)
    assert float(row["difference_low"]) == pytest.approx(0.1)
    assert (row["on"], row["matched"]) == ("subject id", "2")
    assert "| A - B |" in as_markdown(comparison)


def test_a_job_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path / "small")
    write_pairs(tmp_path / "in", 7, broken=(4,))
    main(["score", "--model", str(model), "--device", "cpu", "--manifest", "in/pairs.csv",
          "--out", "scores/", "--shard-rows", "3", "-q"])  # fmt: skip
    results = read_results("scores")
    groups = {group.name: group for group in rank(results).groups}
    generators = results.texts["generator"]
    assert {name: group.pairs for name, group in groups.items()} == {
        name: generators.count(name) for name in generators
    }
    broken = groups[generators[4]]
    assert broken.statuses["unreadable_image"] == 1
    assert broken.unscored == 1
    for name, group in groups.items():
        scores = [results.score[row] for row in range(7) if row != 4 and generators[row] == name]
        assert group.mean.value == pytest.approx(np.mean(scores))
    assert compare(results, results).scored == 6
    max(tmp_path.glob("scores/*.parquet")).unlink()
    assert main(["rank", "scores"]) == 0
    assert "The job scores is not finished: 7 pairs were planned." in capsys.readouterr().out
