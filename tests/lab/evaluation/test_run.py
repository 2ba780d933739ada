"""From pairs to figures, with a small random model and with the embedded one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from made_pairs import made_pair, small_model
from PIL import Image
from scipy.stats import pearsonr

from vsm_fast.errors import PairingError
from vsm_fast.lab.evaluation import Bootstrap, Evaluation, evaluate
from vsm_fast.lab.evaluation.metrics import auroc
from vsm_fast.lab.evaluation.run import vsm_name
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.scorer import VSMScorer

one_thread = tiny_models.one_thread

EXAMPLES = Path(__file__).parents[3] / "examples"
FEW = Bootstrap(resamples=50)


class Remembered:
    """A baseline that knows the oracle, and what it was given."""

    name = "remembered"

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def __call__(self, pairs) -> np.ndarray:
        self.batches.append([pair.id for pair in pairs])
        return np.array([np.nan if pair.id == "pair-1" else pair.oracle for pair in pairs])


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> VSMScorer:
    return VSMScorer.from_pretrained(small_model(tmp_path_factory.mktemp("model")))


def evaluated(scorer: VSMScorer, count: int = 16, **settings) -> Evaluation:
    settings = {"bootstrap": FEW, "semantic_threshold": -1.0} | settings
    return evaluate((made_pair(i) for i in range(count)), scorer, [Remembered()], **settings)


def test_scores_are_the_scorers_at_every_threshold(scorer: VSMScorer) -> None:
    evaluation = evaluated(scorer, visual_thresholds=(0.9, 0.99))
    pairs = [made_pair(i) for i in range(16)]
    for tau in (0.6, 0.9, 0.99):
        scores = scorer.score(
            [pair.original_2 for pair in pairs],
            [pair.altered_1 for pair in pairs],
            ref_masks=[pair.mask_2 for pair in pairs],
            gen_masks=[pair.mask_1 for pair in pairs],
            semantic_threshold=-1.0,
            visual_threshold=tau,
        )
        np.testing.assert_allclose(evaluation.column(vsm_name(tau)), scores.score, atol=1e-5)
    assert evaluation.headline == "vsm@0.6"
    assert evaluation.metrics == ("vsm@0.6", "vsm@0.9", "vsm@0.99", "remembered")


def test_pairs_of_two_subjects_are_in_no_correlation(scorer: VSMScorer) -> None:
    evaluation = evaluated(scorer)
    same = [made_pair(i) for i in range(16) if i % 4 != 3]
    found = evaluation.overall("remembered")
    assert (found.n, found.undefined) == (len(same) - 1, 1)
    assert found.pearson.value == pytest.approx(1)
    tau = evaluation.headline
    column = evaluation.column(tau)[[i for i in range(16) if i % 4 != 3]]
    if np.ptp(column):
        expected = pearsonr(column, [pair.oracle for pair in same])[0]
        assert evaluation.overall(tau).pearson.value == pytest.approx(expected)
    groups = {(row.by, row.group) for row in evaluation.correlations}
    assert groups == {
        ("all", ""), ("kind", "recolour"), ("kind", "pattern"), ("view", "photo"),
        ("subject", "cup"), ("subject", "shoe"),
    }  # fmt: skip
    separated = evaluation.separation["remembered"]
    assert (separated.higher, separated.n_same, separated.n_other) == (1, 4, 4)
    with pytest.raises(KeyError, match="psnr"):
        evaluation.overall("psnr")


def test_only_partly_altered_pairs_are_localised(scorer: VSMScorer) -> None:
    evaluation = evaluated(scorer)
    localised = [pair.id for pair in evaluation.pairs if pair.points is not None]
    assert localised == [f"pair-{i}" for i in range(16) if i % 4 in (1, 2)]
    assert evaluation.pixels.pairs == 8
    pixels = sum(int(made_pair(i).mask_1.sum()) for i in range(16) if i % 4 in (1, 2))
    assert evaluation.pixels.places == pixels


def test_histograms_say_what_matches_and_heat_map_say(scorer: VSMScorer) -> None:
    pair = made_pair(1)
    (row,) = evaluate([pair], scorer, semantic_threshold=-1.0).pairs
    (result,) = scorer.score(
        [pair.original_2], [pair.altered_1], ref_masks=[pair.mask_2], gen_masks=[pair.mask_1],
        semantic_threshold=-1.0, visual_threshold=0.6, heatmaps=True,
    )  # fmt: skip
    evidence = result.evidence
    assert evidence is not None
    rows, columns = evidence.grid
    left, top, right, bottom = evidence.box
    altered = []
    for cell in evidence.cells[evidence.kept].tolist():
        x = left + (cell % columns + 0.5) * (right - left) / columns
        y = top + (cell // columns + 0.5) * (bottom - top) / rows
        altered.append(bool(pair.part_1[int(y), int(x)]))
    assert row.points is not None
    assert row.pixels is not None
    assert row.points.sum(axis=1).tolist() == [altered.count(False), altered.count(True)]
    heat = result.heatmap()
    counts = row.pixels.astype(float)
    edges = np.arange(counts.shape[1])
    mine = auroc(edges.repeat(row.pixels[1]), edges.repeat(row.pixels[0]))
    whole = auroc(heat[pair.part_1], heat[pair.mask_1 & ~pair.part_1])
    assert mine == pytest.approx(whole, abs=2e-3)


def test_pairs_stream_in_batches(scorer: VSMScorer) -> None:
    baseline, alive, most = Remembered(), set(), 0

    def stream():
        nonlocal most
        for number in range(10):
            seen = sum(len(batch) for batch in baseline.batches)
            alive.add(number)
            most = max(most, len(alive) - seen)
            yield made_pair(number)

    done: list[tuple[int, int]] = []
    evaluate(
        stream(), scorer, [baseline], batch_size=4, total=10, bootstrap=FEW,
        progress=lambda count, total: done.append((count, total)),
    )  # fmt: skip
    assert [len(batch) for batch in baseline.batches] == [4, 4, 2]
    assert most <= 4
    assert done == [(8, 20), (16, 20), (20, 20)]


def test_batches_do_not_change_a_figure(scorer: VSMScorer) -> None:
    one, many = evaluated(scorer, batch_size=1), evaluated(scorer, batch_size=16)
    for metric in one.metrics:
        np.testing.assert_allclose(one.column(metric), many.column(metric), atol=1e-5)


def test_undefined_scores_stay_and_are_counted(scorer: VSMScorer) -> None:
    empty = np.zeros((48, 48), bool)
    pairs = [made_pair(i) for i in range(6)]
    pairs += [made_pair(1, id="no subject", mask_1=empty, part_1=empty), made_pair(2, mask_2=empty)]
    evaluation = evaluate(pairs, scorer, bootstrap=FEW, semantic_threshold=-1.0)
    assert evaluation.counts["status"] == {"empty_mask": 2, "ok": 6}
    column = evaluation.column("vsm@0.6")
    assert np.isnan(column[-2:]).all()
    assert np.isfinite(column[:6]).all()
    found = evaluation.overall("vsm@0.6")
    # The pair without a subject has no oracle either; the other one has.
    assert (found.n, found.undefined) == (5, 1)
    assert math.isnan(evaluation.oracle[-2])


def test_ratings_are_a_second_target(scorer: VSMScorer) -> None:
    ratings = {f"method/pair-{i}": 4 * made_pair(i).oracle for i in range(8)}
    evaluation = evaluated(scorer, ratings=ratings)
    found = evaluation.overall("remembered", "human")
    assert (found.n, found.undefined) == (7, 1)
    assert found.pearson.value == pytest.approx(1)
    assert evaluation.human is not None
    assert np.isnan(evaluation.human[8:]).all()


def test_resampling_by_subject_changes_intervals_only(scorer: VSMScorer) -> None:
    by_pair, by_subject = evaluated(scorer), evaluated(scorer, unit="subject")
    for one, two in zip(by_pair.correlations, by_subject.correlations, strict=True):
        assert one.correlation.pearson.value == pytest.approx(
            two.correlation.pearson.value, nan_ok=True
        )
    assert by_subject.settings["bootstrap"]["unit"] == "subject"
    inner = [row for row in by_subject.correlations if row.by == "subject"]
    assert all(math.isnan(row.correlation.pearson.low) for row in inner)


def test_wrong_input_is_refused(scorer: VSMScorer) -> None:
    with pytest.raises(PairingError, match="no pairs to evaluate"):
        evaluate([], scorer)
    with pytest.raises(ValueError, match=r"lie in \[-1, 1\]; got \[1\.5\]"):
        evaluated(scorer, visual_thresholds=[1.5])
    with pytest.raises(PairingError, match="these pairs name none"):
        evaluate([made_pair(i, subject="") for i in range(4)], scorer, unit="subject")
    with pytest.raises(ValueError, match="unit must be"):
        evaluated(scorer, unit="image")

    def broken(values: object):
        baseline = lambda pairs: np.array(values)  # noqa: E731
        baseline.name = "broken"  # type: ignore[attr-defined]
        return baseline

    for values, message in (([1.0], r"4 finite numbers or NaN; got shape \(1,\)"),
                            ([1.0, 2, np.inf, 0], "with 1 infinite")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            evaluate([made_pair(i) for i in range(4)], scorer, [broken(values)])


def _photo(side: str, subject: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    folder = EXAMPLES / side / subject
    with Image.open(folder / f"{name}.jpg") as image:
        pixels = np.asarray(image.convert("RGB"))
    with Image.open(folder / f"{name}_mask.png") as mask:
        return pixels, np.asarray(mask.convert("L")) > 127


def test_repainted_photographs_are_found_by_the_embedded_model() -> None:
    """The shipped photographs: score, and heat map against what was repainted."""
    pairs = []
    for subject in ("bear_plushie", "robot_toy"):
        reference, mask_2 = _photo("refs", subject, "reference")
        original, mask_1 = _photo("gens", subject, "other_photo")
        altered, _ = _photo("gens", subject, "repainted")
        # The files are JPEG, so that all pixels differ a little; the repainted ones differ a lot.
        part = (np.abs(altered.astype(int) - original).max(-1) > 40) & mask_1
        shared = {
            "subject": subject, "view": "photo", "original_1": original, "original_2": reference,
            "mask_1": mask_1, "mask_2": mask_2,
        }  # fmt: skip
        pairs.append(ControlledPair(f"{subject}/plain", kind="none", altered_1=original,
                                    part_1=np.zeros_like(mask_1), **shared))  # fmt: skip
        pairs.append(ControlledPair(f"{subject}/repainted", kind="repainted", altered_1=altered,
                                    part_1=part, **shared))  # fmt: skip
    evaluation = evaluate(pairs, VSMScorer.from_pretrained("tiny"), bootstrap=FEW)
    score = evaluation.column(evaluation.headline)
    assert score[0] > score[1]
    assert score[2] > score[3]
    assert evaluation.overall(evaluation.headline).pearson.value > 0
    assert evaluation.points.pairs == evaluation.pixels.pairs == 2
    assert evaluation.pixels.auroc.value > 0.6
