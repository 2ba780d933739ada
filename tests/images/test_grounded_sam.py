"""Grounded SAM against its two models: the best box of Grounding DINO and SAM's mask in it."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from pretrained_models import save_grounding_dino, save_sam

from vsm_fast.errors import ModelError
from vsm_fast.images.grounded_sam import GroundedSam, MaskCandidates, SegmentAnything, spoken_name

one_thread = tiny_models.one_thread


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return save_grounding_dino(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    return save_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (48, 72, 3), dtype=np.uint8)


def plain_boxes(folder, pixels, text):
    """(scores [Q], boxes [Q, 4] in pixels) by the formulas of the detector's paper."""
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

    model = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    processor = GroundingDinoProcessor.from_pretrained(folder)
    inputs = processor(images=Image.fromarray(pixels), text=text, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    scores = output.logits[0].sigmoid().amax(1)
    x, y, width, height = output.pred_boxes[0].T
    corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)
    return scores.numpy(), (corners * torch.tensor([72, 48, 72, 48])).numpy()


def test_the_best_scoring_box_of_the_name(detector, sam, pixels):
    masker = GroundedSam.from_pretrained(detector, sam, box_threshold=0.0, device="cpu")
    found = {}
    for subject, text in (("bear_plushie2", "bear plushie."), ("robot_toy", "robot toy.")):
        scores, boxes = plain_boxes(detector, pixels, text)
        found[subject] = masker.find_box(pixels, subject)
        wanted = np.clip(boxes[scores.argmax()], 0, [72, 48, 72, 48])
        np.testing.assert_allclose(found[subject], wanted, atol=1e-3)
    assert len(set(found.values())) == 2  # the text is heard


@torch.no_grad()
def test_the_mask_is_sams_in_that_box(detector, sam, pixels):
    from transformers import SamModel, SamProcessor

    masker = GroundedSam.from_pretrained(detector, sam, box_threshold=0.0, device="cpu")
    box = masker.find_box(pixels, "robot_toy")
    processor = SamProcessor.from_pretrained(sam)
    inputs = processor(Image.fromarray(pixels), input_boxes=[[list(box)]], return_tensors="pt")
    inputs["input_boxes"] = inputs["input_boxes"].float()
    output = SamModel.from_pretrained(sam).eval()(**inputs, multimask_output=False)
    wanted = processor.post_process_masks(
        output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )[0][0, 0]
    answer = masker._segmenter.in_box(pixels, box)
    assert answer.masks.shape == (1, 48, 72)
    np.testing.assert_allclose(answer.quality, output.iou_scores[0, 0], atol=1e-6)
    mask = masker(pixels, "robot_toy")
    assert mask.dtype == np.bool_
    assert mask.shape == (48, 72)
    assert mask.any()
    assert not mask.all()
    assert np.array_equal(mask, wanted.numpy())


def test_a_square_photograph(detector, sam, pixels):
    # Its last level is one cell; Grounding DINO normalises each level by groups of channels.
    masker = GroundedSam.from_pretrained(detector, sam, box_threshold=0.0, device="cpu")
    square = np.pad(pixels[:, :48], ((200, 200), (200, 200), (0, 0)))
    assert masker.find_box(square, "robot_toy") is not None


def test_a_threshold_between_two_scores_decides(detector, sam, pixels):
    best = float(plain_boxes(detector, pixels, "robot toy.")[0].max())
    assert best < 1
    segmenter = SegmentAnything.from_pretrained(sam, device="cpu")
    below, above = (
        GroundedSam.from_pretrained(detector, segmenter, box_threshold=limit, device="cpu")
        for limit in (best - 1e-5, (best + 1) / 2)
    )
    assert below(pixels, "robot_toy") is not None
    assert above.find_box(pixels, "robot_toy") is None
    assert above(pixels, "robot_toy") is None


def test_an_empty_mask_is_nothing_found(detector, pixels):
    class Empty(SegmentAnything):
        def in_box(self, pixels, box):
            return MaskCandidates(np.zeros((1, *pixels.shape[:2]), bool), np.ones(1))

    masker = GroundedSam.from_pretrained(detector, Empty(None, None), box_threshold=0.0)
    assert masker(pixels, "robot_toy") is None


def test_the_same_twice(detector, sam, pixels):
    masker = GroundedSam.from_pretrained(detector, sam, box_threshold=0.0, device="cpu")
    first = masker(pixels, "bear_plushie")
    masker(pixels[:, ::-1], "bear_plushie")
    assert np.array_equal(first, masker(pixels, "bear_plushie"))


def test_wrong_models_and_settings_are_refused(detector, sam):
    with pytest.raises(ModelError, match="Grounding DINO"):
        GroundedSam.from_pretrained(sam, sam)
    with pytest.raises(ModelError, match="Segment Anything"):
        GroundedSam.from_pretrained(detector, detector)
    with pytest.raises(ValueError, match=r"\[0, 1\); got 1"):
        GroundedSam.from_pretrained(detector, sam, box_threshold=1)


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ("bear_plushie", "bear plushie"),
        ("dog2", "dog"),
        ("Grey-Sloth.plushie", "grey sloth plushie"),
        ("théière", "théière"),
        ("001", "object"),
        ("", "object"),
    ],
)
def test_names_as_words(subject, words):
    assert spoken_name(subject) == words
