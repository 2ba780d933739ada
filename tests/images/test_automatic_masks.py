"""Automatic masks: GrabCut, the choice of method, and its place in the results."""

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
from vsm_fast.images.masks import load_mask, subject_mask

one_thread = tiny_models.one_thread
EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTOGRAPHS = sorted(EXAMPLES.glob("*/*/*.jpg"))
REFERENCE = EXAMPLES / "refs/robot_toy/reference.jpg"
REFERENCE_MASK = EXAMPLES / "refs/robot_toy/reference_mask.png"
GENERATIONS = sorted((EXAMPLES / "gens/robot_toy").glob("*.jpg"))


@pytest.fixture(scope="module")
def scorer():
    return VSMScorer.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    detector, sam = save_grounding_dino(root / "dino"), save_sam(root / "sam")
    yield {"detector": str(detector), "sam": str(sam)}
    automatic_masks._grounded_sam.cache_clear()


@pytest.fixture(scope="module")
def grabcut_masks():
    """GrabCut's mask of each shipped photograph."""
    return {path: GrabCutMasker()(load_image(path).pixels, "") for path in PHOTOGRAPHS}


def overlap(found, expected):
    return (found & expected).sum() / (found | expected).sum()


# GrabCut


@pytest.mark.parametrize("shape", [(300, 400), (60, 80), (900, 120)])
def test_grabcut_finds_a_subject_unlike_its_surroundings(shape):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 30, (*shape, 3), np.uint8) + np.array([20, 110, 30], np.uint8)
    y, x = np.mgrid[: shape[0], : shape[1]]
    disc = (x - 0.52 * shape[1]) ** 2 + (y - 0.46 * shape[0]) ** 2 < (0.27 * min(shape)) ** 2
    pixels[disc] = rng.integers(0, 30, (disc.sum(), 3)) + np.array([210, 120, 20])
    found = GrabCutMasker()(pixels, "disc")
    assert (found.dtype, found.shape) == (np.bool_, shape)
    assert overlap(found, disc) > 0.85


def test_grabcut_on_shipped_photographs(grabcut_masks):
    overlaps = [
        overlap(mask, load_mask(path.with_name(f"{path.stem}_mask.png"), mask.shape))
        for path, mask in grabcut_masks.items()
    ]
    assert len(overlaps) == 9
    assert np.mean(overlaps) > 0.8


def test_grabcut_gives_the_same_mask_in_every_thread(grabcut_masks):
    order = [*PHOTOGRAPHS[:2], *reversed(PHOTOGRAPHS[:2])]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda path: GrabCutMasker()(load_image(path).pixels, ""), order)
    for path, mask in zip(order, found, strict=True):
        np.testing.assert_array_equal(mask, grabcut_masks[path])


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (20, 20_000), (900, 2), (64, 64)])
def test_grabcut_finds_nothing_in_a_plain_image(shape):
    assert GrabCutMasker()(np.full((*shape, 3), 127, np.uint8), "x") is None


# Choice of method


def test_grounded_sam_needs_a_name_and_models(monkeypatch):
    monkeypatch.setattr(automatic_masks, "_models_are_here", lambda: True)
    assert AutoMask().chosen_method() == "grabcut"
    assert AutoMask("robot").chosen_method() == "grounded-sam"
    assert AutoMask("robot", "grabcut").chosen_method() == "grabcut"
    monkeypatch.setattr(automatic_masks, "_models_are_here", lambda: False)
    assert AutoMask("robot").chosen_method() == "grabcut"
    assert AutoMask("robot", sam="folder").chosen_method() == "grounded-sam"


def test_models_are_located_but_not_fetched(monkeypatch, tmp_path):
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
def test_contradictory_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AutoMask(**arguments)


def test_missing_models_are_reported_before_the_work(tmp_path):
    AutoMask().load()
    with pytest.raises(ModelError, match="safetensors weights"):
        AutoMask("robot", sam=str(tmp_path), detector=str(tmp_path)).load()


# Choice of mask


def test_a_given_mask_precedes_alpha_and_alpha_an_automatic_mask(scorer, grabcut_masks):
    automatic = subject_mask(AutoMask(), load_image(REFERENCE))
    assert automatic.origin == "grabcut"
    np.testing.assert_array_equal(automatic.pixels, grabcut_masks[REFERENCE])
    pixels = np.asarray(Image.open(REFERENCE).convert("RGB"))
    alpha = np.zeros(pixels.shape[:2], np.uint8)
    alpha[:, : alpha.shape[1] // 2] = 255
    scores = scorer.score(
        [REFERENCE],
        [REFERENCE, np.dstack([pixels, alpha]), REFERENCE, REFERENCE],
        ref_masks=[REFERENCE_MASK],
        gen_masks=[REFERENCE_MASK, AutoMask(), AutoMask(), None],
    )
    assert scores.gen_mask_origin.tolist() == ["given", "alpha", "grabcut", "whole image"]
    assert scores.ref_mask_origin.tolist() == ["given"] * 4
    assert (scores.status == "ok").all()
    assert len(set(scores.n_source.tolist())) == 4


def test_automatic_masks_score_like_the_same_masks_given(scorer, grabcut_masks):
    masks = [grabcut_masks[path] for path in GENERATIONS]
    sides = [REFERENCE], GENERATIONS
    given = scorer.score(*sides, ref_masks=[grabcut_masks[REFERENCE]], gen_masks=masks)
    found = scorer.score(*sides, ref_masks="auto", gen_masks=AutoMask())
    np.testing.assert_array_equal(found.score, given.score)
    np.testing.assert_array_equal(found.visual_similarity, given.visual_similarity)
    assert set(found.gen_mask_origin) == set(found.ref_mask_origin) == {"grabcut"}


def test_auto_is_a_method_alone_and_a_path_in_a_list():
    assert mask_list("auto", 2, "gen") == [AutoMask(), AutoMask()]
    assert mask_list(["auto"], 1, "gen") == ["auto"]
    assert mask_list(Path("auto"), 1, "gen") == [Path("auto")]
    assert mask_list(AutoMask("cat"), 2, "gen") == [AutoMask("cat")] * 2
    masks = [AutoMask("a"), AutoMask("b"), AutoMask("a"), None]
    first, places = distinct(["x.png"] * 4, masks)
    assert (first, places.tolist()) == ([0, 1, 3], [0, 1, 0, 2])


def test_no_subject_is_a_status_of_its_own_row(scorer):
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


def test_the_cache_key_follows_the_mask_and_not_its_origin(tmp_path, grabcut_masks):
    cached = VSMScorer.from_pretrained("tiny", device="cpu", cache=tmp_path)
    first = cached.describe(GENERATIONS, "auto")
    assert (cached.cache.hits, cached.cache.misses) == (0, len(GENERATIONS))
    again = cached.describe(GENERATIONS, "auto")
    assert cached.cache.hits == len(GENERATIONS)
    np.testing.assert_array_equal(again.visual, first.visual)
    cached.describe(GENERATIONS, [grabcut_masks[path] for path in GENERATIONS])
    assert cached.cache.misses == len(GENERATIONS)


# Grounding DINO and SAM


def test_grounded_sam_receives_the_subject_and_is_shared_by_threads(scorer, models, monkeypatch):
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
    assert len(loaded) == 2  # the folder may contain another model now
    for name, mask in zip(names, found, strict=True):
        np.testing.assert_array_equal(mask, plain(pixels, name))
    scores = scorer.score([REFERENCE], [REFERENCE], gen_masks=AutoMask("robot toy", **models))
    assert scores.gen_mask_origin.tolist() == ["grounded-sam"]


def test_grounded_sam_without_a_box_has_a_status(scorer, models, monkeypatch):
    monkeypatch.setattr(GroundedSam, "find_box", lambda *_: None)
    mask = AutoMask("robot_toy", "grounded-sam", **models, device="cpu")
    scores = scorer.score([REFERENCE], [REFERENCE], gen_masks=mask)
    assert scores.status.tolist() == [Status.NO_SUBJECT.value]
    assert "grounded-sam found no 'robot_toy'" in scores.reason[0]
