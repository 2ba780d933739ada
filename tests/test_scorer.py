"""Images to scores with the embedded model and the shipped photographs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vsm_fast
from vsm_fast import Descriptors, InputError, PairingError, VSMScorer

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def scorer() -> VSMScorer:
    return VSMScorer.from_pretrained("tiny")


def _photo(side: str, subject: str, name: str) -> tuple[str, str]:
    folder = EXAMPLES / side / subject
    return str(folder / f"{name}.jpg"), str(folder / f"{name}_mask.png")


# A photograph, the same with a part repainted, another photograph, and another subject.
REFERENCE, REFERENCE_MASK = _photo("gens", "robot_toy", "other_photo")
REPAINTED, REPAINTED_MASK = _photo("gens", "robot_toy", "repainted")
SECOND, SECOND_MASK = _photo("refs", "robot_toy", "reference")
OTHER, OTHER_MASK = _photo("refs", "bear_plushie", "reference")


def test_an_image_is_consistent_with_itself() -> None:
    scores = vsm_fast.score_batch(
        [REFERENCE], [REFERENCE], ref_masks=[REFERENCE_MASK], gen_masks=[REFERENCE_MASK]
    )
    assert scores.score.tolist() == [1.0]
    assert scores.n_matched[0] == scores.n_source[0] > 100


def test_scores_fall_from_same_to_repainted_to_another_subject() -> None:
    scores = vsm_fast.score_batch(
        [REFERENCE],
        [REFERENCE, REPAINTED, OTHER],
        ref_masks=[REFERENCE_MASK],
        gen_masks=[REFERENCE_MASK, REPAINTED_MASK, OTHER_MASK],
    ).score
    assert scores[0] > scores[1] + 0.1
    assert scores[1] > scores[2] + 0.1


@pytest.mark.parametrize("subject", ["bear_plushie", "colorful_sneaker", "robot_toy"])
def test_repainting_another_photograph_lowers_its_score(scorer: VSMScorer, subject: str) -> None:
    reference, reference_mask = _photo("refs", subject, "reference")
    photo, mask = _photo("gens", subject, "other_photo")
    repainted, _ = _photo("gens", subject, "repainted")
    scores = scorer.score(
        [reference], [photo, repainted], ref_masks=[reference_mask], gen_masks=[mask, mask]
    ).score
    assert scores[0] > scores[1] + 0.05


def test_another_photograph_scores_above_another_subject(scorer: VSMScorer) -> None:
    scores = scorer.score(
        [REFERENCE],
        [SECOND, OTHER],
        ref_masks=[REFERENCE_MASK],
        gen_masks=[SECOND_MASK, OTHER_MASK],
    ).score
    assert scores[0] > scores[1] + 0.3


def test_the_heat_map_lights_up_the_repainted_part() -> None:
    scores = vsm_fast.score_batch(
        [REFERENCE],
        [REPAINTED],
        ref_masks=[REFERENCE_MASK],
        gen_masks=[REPAINTED_MASK],
        heatmaps=True,
    )
    heat = scores.heatmap(0)
    part = np.asarray(Image.open(EXAMPLES / "parts" / "robot_toy.png").convert("L")) > 127
    mask = np.asarray(Image.open(REPAINTED_MASK).convert("L")) > 127
    np.testing.assert_array_equal(np.isnan(heat), ~mask)
    assert heat[part & mask].mean() > heat[~part & mask].mean() + 0.2


def test_reference_descriptors_give_the_same_scores(scorer: VSMScorer) -> None:
    described = scorer.describe([REFERENCE], [REFERENCE_MASK])
    gens, masks = [REPAINTED, OTHER], [REPAINTED_MASK, OTHER_MASK]
    once = scorer.score(described, gens, gen_masks=masks)
    again = scorer.score([REFERENCE], gens, ref_masks=[REFERENCE_MASK], gen_masks=masks)
    np.testing.assert_array_equal(once.score, again.score)


def test_reference_descriptors_keep_names_statuses_and_flags(scorer: VSMScorer) -> None:
    images = [REFERENCE, np.zeros((64, 64, 3), np.uint8), "nowhere.png", OTHER]
    masks = [REFERENCE_MASK, None, None, None]
    described = scorer.describe(images, masks, on_error="record")
    joined = Descriptors.cat([described.select([0, 1]), described.select([2, 3]).to("cpu")])
    pairs = [[number, 0] for number in range(4)]
    gens = {"gens": [OTHER], "gen_masks": [OTHER_MASK], "pairs": pairs}
    once = scorer.score(joined, **gens)
    again = scorer.score(images, ref_masks=masks, **gens)
    for column in ("ref_id", "status", "notes", "flags", "ref_mask_origin"):
        assert getattr(once, column).tolist() == getattr(again, column).tolist(), column
    assert once.ref_id.tolist() == [str(REFERENCE), "ref[1]", "nowhere.png", str(OTHER)]
    assert once.flags.tolist() == ["", "no_mask", "", "no_mask,copy_of_reference"]
    assert "nowhere.png" in once.reason[2]


def test_a_repeated_reference_runs_the_network_once(
    scorer: VSMScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [REFERENCE, OTHER, REFERENCE, REFERENCE]
    ref_masks = [REFERENCE_MASK, OTHER_MASK, REFERENCE_MASK, None]
    gens, gen_masks = [REPAINTED, OTHER, REFERENCE, REPAINTED], [REPAINTED_MASK, None, None, None]
    one_by_one = [
        scorer.score([ref], [gen], ref_masks=[ref_mask], gen_masks=[gen_mask])
        for ref, ref_mask, gen, gen_mask in zip(refs, ref_masks, gens, gen_masks, strict=True)
    ]
    described, plain = [], scorer.runtime.__class__.__call__

    def counting(runtime: Any, images: torch.Tensor) -> Any:
        described.append(len(images))
        return plain(runtime, images)

    monkeypatch.setattr(scorer.runtime.__class__, "__call__", counting)
    steps: list[tuple[int, int]] = []
    together = scorer.score(
        refs, gens, ref_masks=ref_masks, gen_masks=gen_masks,
        progress=lambda done, of: steps.append((done, of)),
    )  # fmt: skip
    assert described == [3, 4]
    assert steps[-1] == (8, 8)
    assert together.ref_id.tolist() == [str(ref) for ref in refs]
    assert together.ref_mask_origin.tolist() == ["given"] * 3 + ["whole image"]
    for row, single in enumerate(one_by_one):
        assert abs(together.score[row] - single.score[0]) <= 1.5 / single.n_matched[0]


def test_masks_with_reference_descriptors_are_refused(scorer: VSMScorer) -> None:
    described = scorer.describe([REFERENCE])
    with pytest.raises(PairingError, match="describe"):
        scorer.score(described, [REFERENCE], ref_masks=[REFERENCE_MASK])


def test_batch_size_order_and_neighbours_change_rounding_only(scorer: VSMScorer) -> None:
    gens, masks = [REPAINTED, REFERENCE, OTHER], [REPAINTED_MASK, REFERENCE_MASK, OTHER_MASK]
    alone = [scorer.describe([gen], [mask]) for gen, mask in zip(gens, masks, strict=True)]
    singles = [
        scorer.score(alone[1], [gen], gen_masks=[mask])
        for gen, mask in zip(gens, masks, strict=True)
    ]
    for batch_size in (1, 2, 3):
        together = scorer.describe(gens, masks, batch_size=batch_size)
        backwards = scorer.describe(gens[::-1], masks[::-1], batch_size=batch_size)
        for number, one in enumerate(alone):
            for many, position in ((together, number), (backwards, len(gens) - 1 - number)):
                rows = many.rows(position)
                torch.testing.assert_close(many.semantic[rows], one.semantic, atol=1e-5, rtol=0)
                torch.testing.assert_close(many.visual[rows], one.visual, atol=1e-5, rtol=0)
        scores = scorer.score(alone[1], gens, gen_masks=masks, batch_size=batch_size)
        for single, score in zip(singles, scores.score, strict=True):
            # Last bits decide only for a point at a threshold or between equal matches.
            assert abs(single.score[0] - score) <= 1.5 / single.n_matched[0]


def test_pairs_select_references_and_images(scorer: VSMScorer) -> None:
    refs, ref_masks = [REFERENCE, OTHER], [REFERENCE_MASK, OTHER_MASK]
    scores = scorer.score(
        refs, refs, ref_masks=ref_masks, gen_masks=ref_masks, pairs=[[1, 0], [0, 0], [1, 1]]
    )
    assert scores.ref_id.tolist() == [OTHER, REFERENCE, OTHER]
    assert scores.gen_id.tolist() == [REFERENCE, REFERENCE, OTHER]
    assert scores.score[1] == scores.score[2] == 1.0
    assert not scores.score[0] > 0.9


def test_a_bad_image_costs_its_own_rows_only(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    truncated = tmp_path / "truncated.jpg"
    truncated.write_bytes(Path(REFERENCE).read_bytes()[:2000])
    nan = torch.full((3, 64, 64), torch.nan)
    blank = np.zeros(Image.open(REFERENCE).size[::-1], bool)
    gens = [REFERENCE, "missing.png", str(empty), str(truncated), nan, REFERENCE, REFERENCE]
    masks = [REFERENCE_MASK, None, None, None, None, blank, blank[:5]]
    scores = vsm_fast.score_batch([REFERENCE], gens, ref_masks=[REFERENCE_MASK], gen_masks=masks)
    assert scores.status.tolist() == [
        "ok",
        "missing_file",
        "unreadable_image",
        "unreadable_image",
        "bad_pixel_values",
        "empty_mask",
        "bad_mask",
    ]
    assert scores.score[0] == 1.0
    assert np.isnan(scores.score[1:]).all()
    assert all(scores.reason[1:])


def test_a_bad_reference_costs_its_own_rows_only(scorer: VSMScorer) -> None:
    scores = scorer.score(["missing.png", REFERENCE], [REFERENCE, REFERENCE])
    assert scores.status.tolist() == ["missing_file", "ok"]
    assert scores.reason[0].startswith("reference:")


def test_on_error_raise_stops_at_the_first_bad_image(scorer: VSMScorer) -> None:
    with pytest.raises(InputError, match=r"missing\.png"):
        scorer.score([REFERENCE], ["missing.png"], on_error="raise")


def test_nothing_to_score_gives_an_empty_table() -> None:
    scores = vsm_fast.score_batch([REFERENCE], [])
    assert len(scores) == 0
    assert scores.to_arrow().num_rows == 0


def test_nothing_matched_is_undefined_and_says_so(scorer: VSMScorer) -> None:
    scores = scorer.score([REFERENCE], [OTHER], semantic_threshold=1.0)
    assert np.isnan(scores.score[0])
    assert scores.status[0] == "no_semantic_match"
    assert scores.n_source[0] > 0


def test_progress_counts_every_image(scorer: VSMScorer) -> None:
    calls: list[tuple[int, int]] = []
    scorer.score(
        [REFERENCE], [REPAINTED] * 3, batch_size=2, progress=lambda *done: calls.append(done)
    )
    assert calls == [(1, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("options", [{"runtime": "tensorrt"}, {"dtype": "int3"}, {"batch_size": 0}])
def test_an_option_that_does_not_exist_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        vsm_fast.score_batch([REFERENCE], [REFERENCE], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["semantic_threshold", "visual_threshold"])
@pytest.mark.parametrize("value", [1.5, float("nan")])
def test_a_threshold_that_is_no_similarity_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        vsm_fast.score_batch([REFERENCE], [REFERENCE], **{name: value})  # type: ignore[arg-type]


def test_references_of_another_model_are_refused(scorer: VSMScorer) -> None:
    rows = torch.nn.functional.normalize(torch.ones(4, 16), dim=1)
    other = vsm_fast.Descriptors(
        rows, rows, torch.tensor([0, 4]), torch.arange(4), scorer.config.aggregation.grid
    )
    with pytest.raises(vsm_fast.ModelError, match="another model"):
        scorer.score(other, [REFERENCE])


def test_every_kind_of_image_gives_the_same_score() -> None:
    pixels = np.asarray(Image.open(REPAINTED).convert("RGB"))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    kinds = [REPAINTED, Path(REPAINTED), Image.fromarray(pixels), pixels, tensor]
    scores = vsm_fast.score_batch(
        [REFERENCE], kinds, ref_masks=[REFERENCE_MASK], gen_masks=[REPAINTED_MASK] * 5
    )
    assert len(set(scores.score.tolist())) == 1


def test_scores_at_another_threshold_agree_with_scoring_again(scorer: VSMScorer) -> None:
    options = {"ref_masks": [REFERENCE_MASK], "gen_masks": [REPAINTED_MASK]}
    first = scorer.score([REFERENCE], [REPAINTED], **options)
    again = scorer.score([REFERENCE], [REPAINTED], visual_threshold=0.9, **options)
    np.testing.assert_array_equal(first.at(0.9), again.score)
    np.testing.assert_array_equal(first.at(first.visual_threshold), first.score)


@pytest.mark.slow  # the short form, with a small model, is in matching/test_numeric_contract.py
def test_two_processes_agree_bit_for_bit_in_deterministic_mode() -> None:
    code = f"""
import hashlib, torch
torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)
import vsm_fast
scores = vsm_fast.score_batch(
    [{SECOND!r}], [{REFERENCE!r}, {REPAINTED!r}],
    ref_masks=[{SECOND_MASK!r}], gen_masks=[{REFERENCE_MASK!r}, {REPAINTED_MASK!r}],
)
print(hashlib.sha256(scores.visual_similarity.tobytes() + scores.score.tobytes()).hexdigest())
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300
        ).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
