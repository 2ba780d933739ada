"""Automatic masks: which method finds them, what it is told, and what the results say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from PIL import Image
from pretrained_models import save_grounding_dino, save_sam

import vsm_fast
from vsm_fast import AutoMask, InputError, ModelError, Status, VSMScorer
from vsm_fast.images import automatic_masks
from vsm_fast.images.grabcut import GrabCutMasker
from vsm_fast.images.grounded_sam import GroundedSam
from vsm_fast.images.inputs import distinct, mask_list
from vsm_fast.images.loading import load_image
from vsm_fast.images.masks import subject_mask

one_thread = tiny_models.one_thread
EXAMPLES = Path(__file__).parents[2] / "examples"
REFERENCE = EXAMPLES / "refs/robot_toy/reference.jpg"
REFERENCE_MASK = EXAMPLES / "refs/robot_toy/reference_mask.png"
GENERATIONS = sorted((EXAMPLES / "gens/robot_toy").glob("*.jpg"))


@pytest.fixture(scope="module")
def scorer():
    return VSMScorer.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "detector": str(save_grounding_dino(root / "dino")),
        "sam": str(save_sam(root / "sam")),
    }


def cut_out(path):
    """The photograph as an array with the left half opaque."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    alpha = np.zeros(pixels.shape[:2], np.uint8)
    alpha[:, : alpha.shape[1] // 2] = 255
    return np.dstack([pixels, alpha])


# Which method


def test_without_a_name_or_models_it_is_grabcut(monkeypatch):
    monkeypatch.setattr(automatic_masks, "_models_are_here", lambda: True)
    assert AutoMask().chosen_method() == "grabcut"
    assert AutoMask("robot").chosen_method() == "grounded-sam"
    assert AutoMask("robot", "grabcut").chosen_method() == "grabcut"
    monkeypatch.setattr(automatic_masks, "_models_are_here", lambda: False)
    assert AutoMask("robot").chosen_method() == "grabcut"
    assert AutoMask("robot", sam="folder").chosen_method() == "grounded-sam"


def test_models_are_looked_for_and_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    asked = []

    def find_folder(source, purpose):
        asked.append((source.name, source.local_files_only))
        raise ModelError("not here")

    monkeypatch.setattr("vsm_fast.model.pretrained.find_folder", find_folder)
    automatic_masks._models_are_here.cache_clear()
    assert AutoMask("robot").chosen_method() == "grabcut"
    automatic_masks._models_are_here.cache_clear()
    assert asked == [("IDEA-Research/grounding-dino-base", True)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "grabcut, grounded-sam; got 'magic'"),
        ({"method": "grounded-sam"}, "needs the name"),
        ({"subject": " ", "sam": "a/b"}, "needs the name"),
        ({"subject": "cat", "method": "grabcut", "detector": "a/b"}, "loads no model"),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AutoMask(**arguments)


def test_what_is_missing_is_known_before_the_work(tmp_path):
    AutoMask().load()
    with pytest.raises(ModelError, match="safetensors weights"):
        AutoMask("robot", sam=str(tmp_path), detector=str(tmp_path)).load()


# Which mask


def test_given_then_alpha_then_found(scorer):
    photograph = load_image(REFERENCE)
    found = subject_mask(AutoMask(), photograph)
    assert found.origin == "grabcut"
    np.testing.assert_array_equal(found.pixels, GrabCutMasker()(photograph.pixels, ""))
    scores = scorer.score(
        [REFERENCE],
        [REFERENCE, cut_out(REFERENCE), REFERENCE, REFERENCE],
        ref_masks=[REFERENCE_MASK],
        gen_masks=[REFERENCE_MASK, AutoMask(), AutoMask(), None],
    )
    assert scores.gen_mask_origin.tolist() == ["given", "alpha", "grabcut", "whole image"]
    assert scores.ref_mask_origin.tolist() == ["given"] * 4
    assert (scores.status == "ok").all()
    assert len(set(scores.n_source.tolist())) == 4


def test_found_masks_score_like_the_same_masks_given(scorer):
    paths = [REFERENCE, *GENERATIONS]
    masks = [GrabCutMasker()(load_image(path).pixels, "") for path in paths]
    given = scorer.score(paths[:1], paths[1:], ref_masks=masks[:1], gen_masks=masks[1:])
    found = scorer.score(paths[:1], paths[1:], ref_masks="auto", gen_masks=AutoMask())
    np.testing.assert_array_equal(found.score, given.score)
    np.testing.assert_array_equal(found.visual_similarity, given.visual_similarity)
    assert set(found.gen_mask_origin) == set(found.ref_mask_origin) == {"grabcut"}


def test_auto_is_a_word_alone_and_a_path_in_a_list():
    assert mask_list("auto", 2, "gen") == [AutoMask(), AutoMask()]
    assert mask_list(["auto"], 1, "gen") == ["auto"]
    assert mask_list(Path("auto"), 1, "gen") == [Path("auto")]
    assert mask_list(AutoMask("cat"), 2, "gen") == [AutoMask("cat")] * 2


def test_equal_paths_with_equal_automatic_masks_are_one_image():
    masks = [AutoMask("a"), AutoMask("b"), AutoMask("a"), None]
    first, places = distinct(["x.png"] * 4, masks)
    assert (first, places.tolist()) == ([0, 1, 3], [0, 1, 0, 2])


def test_no_subject_is_a_status_and_costs_its_own_row_only(scorer):
    flat = np.full((64, 64, 3), 127, np.uint8)
    slender = np.random.default_rng(0).integers(0, 256, (20, 2000, 3), np.uint8)
    scores = vsm_fast.score_batch(
        [REFERENCE], [flat, REFERENCE, slender, flat[:3, :3]], ref_masks="auto", gen_masks="auto"
    )
    nothing = Status.NO_SUBJECT.value
    assert scores.status.tolist() == [nothing, "ok", nothing, nothing]
    assert scores.reason[0] == "generation: image 0: grabcut found no subject. Pass a mask."
    assert np.isnan(scores.score[0])
    assert scores.score[1] == 1.0
    with pytest.raises(InputError, match="no 'cat'"):
        scorer.describe([flat], [AutoMask("cat", "grabcut")])


def test_found_masks_are_described_once_with_a_cache(tmp_path):
    cached = VSMScorer.from_pretrained("tiny", device="cpu", cache=tmp_path)
    first = cached.describe(GENERATIONS, "auto")
    assert (cached.cache.hits, cached.cache.misses) == (0, len(GENERATIONS))
    again = cached.describe(GENERATIONS, "auto")
    assert cached.cache.hits == len(GENERATIONS)
    np.testing.assert_array_equal(again.visual, first.visual)
    masks = [GrabCutMasker()(load_image(path).pixels, "") for path in GENERATIONS]
    cached.describe(GENERATIONS, masks)  # the key is of what the network sees
    assert cached.cache.misses == len(GENERATIONS)


# Grounding DINO and SAM


def test_grounded_sam_is_told_the_subject_and_is_shared_by_threads(scorer, models, monkeypatch):
    pixels = load_image(REFERENCE).pixels
    plain = GroundedSam.from_pretrained(**models, device="cpu", box_threshold=0.0)
    loaded = []

    def from_pretrained(*sources, device):
        loaded.append([str(source) for source in sources])
        return plain

    monkeypatch.setattr(GroundedSam, "from_pretrained", from_pretrained)
    automatic_masks._grounded_sam.cache_clear()
    names = ["robot_toy", "bear_plushie", "robot_toy", "bear_plushie"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: AutoMask(name, **models).find(pixels), names))
    assert loaded == [[models["detector"], models["sam"]]]
    Path(models["sam"], "config.json").touch()
    AutoMask("robot toy", **models).load()
    assert len(loaded) == 2  # another model may lie there now
    for name, mask in zip(names, found, strict=True):
        np.testing.assert_array_equal(mask, plain(pixels, name))
    scores = scorer.score([REFERENCE], [REFERENCE], gen_masks=AutoMask("robot toy", **models))
    assert scores.gen_mask_origin.tolist() == ["grounded-sam"]
    automatic_masks._grounded_sam.cache_clear()


def test_what_grounded_sam_does_not_find_has_a_status(scorer, models, monkeypatch):
    monkeypatch.setattr(GroundedSam, "find_box", lambda *_: None)
    mask = AutoMask("robot_toy", "grounded-sam", **models, device="cpu")
    scores = scorer.score([REFERENCE], [REFERENCE], gen_masks=mask)
    assert scores.status.tolist() == [Status.NO_SUBJECT.value]
    assert "grounded-sam found no 'robot_toy'" in scores.reason[0]
    automatic_masks._grounded_sam.cache_clear()
