"""Parts from SAM: candidates of the model, and their selection."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from pretrained_models import save_sam

from vsm_fast.images.grounded_sam import MaskCandidates, SegmentAnything
from vsm_fast.lab.pairs.pretrained.sam_parts import SamParts
from vsm_fast.lab.pairs.stages import SubjectView

one_thread = tiny_models.one_thread
SIDE = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_sam(tmp_path_factory.mktemp("sam"))


class Answers(SegmentAnything):
    """Answers every point with fixed masks."""

    def __init__(self, *masks, quality=None):
        self._masks, self._quality = masks, quality

    def at_point(self, pixels, point):
        quality = [0.5] * len(self._masks) if self._quality is None else self._quality
        return MaskCandidates(np.stack(self._masks), np.array(quality, float))


def rectangle(rows, columns):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def view(mask, pixels=None):
    height, width = mask.shape
    pixels = np.zeros((height, width, 3), np.uint8) if pixels is None else pixels
    return SubjectView(pixels, mask, np.zeros((1, 1, 1), np.float32), (0, 0, width, height))


SUBJECT = rectangle((0, 20), (0, 40))  # 800 pixels
WHOLE, HALF, QUARTER, SPECK = (rectangle((0, 20), (0, w)) for w in (40, 20, 10, 1))


@pytest.mark.parametrize(
    ("masks", "quality", "best"),
    [
        ((WHOLE, HALF, SPECK), (0.9, 0.1, 0.8), HALF),  # the only mask within 0.05 to 0.6
        ((HALF, QUARTER), (0.3, 0.7), QUARTER),  # of two within, the one with the higher quality
        ((HALF, QUARTER), (0.7, 0.3), HALF),
        ((WHOLE, SPECK), (0.9, 0.1), SPECK),  # none within: 0.025 is nearer than 1.0
    ],
)
def test_the_mask_nearest_to_the_range_wins(masks, quality, best):
    part = SamParts(Answers(*masks, quality=quality))(view(SUBJECT), (0.5, 5.5))
    assert np.array_equal(part, best)


def test_a_mask_that_leaves_the_subject_is_no_candidate():
    outside = rectangle((0, 40), (0, 10))  # half of it
    assert SamParts(Answers(outside))(view(SUBJECT), (5, 5)) is None
    part = SamParts(Answers(outside), min_inside=0.5)(view(SUBJECT), (5, 5))
    assert np.array_equal(part, QUARTER)  # clipped to the subject


def test_other_components_are_removed():
    two = QUARTER | rectangle((0, 20), (30, 33))
    part = SamParts(Answers(two))(view(SUBJECT), (5, 5))
    assert np.array_equal(part, QUARTER)


def test_a_mask_without_the_point_is_no_candidate():
    assert SamParts(Answers(QUARTER))(view(SUBJECT), (15, 5)) is None


def test_a_point_beside_the_subject_or_the_image():
    parts = SamParts(Answers(QUARTER))
    assert parts(view(SUBJECT), (5, 30)) is None
    assert parts(view(np.zeros_like(SUBJECT)), (5, 5)) is None
    assert parts(view(SUBJECT), (39.9, 5)) is None
    with pytest.raises(ValueError, match="outside the image of 40 x 40"):
        parts(view(SUBJECT), (40.0, 5))
    with pytest.raises(ValueError, match="outside the image"):
        parts(view(SUBJECT), (-0.1, 5))


def test_a_share_inside_of_zero_is_refused():
    with pytest.raises(ValueError, match="min_inside"):
        SamParts(Answers(QUARTER), min_inside=0)


@torch.no_grad()
def test_candidates_equal_transformers_output(folder):
    from transformers import SamModel, SamProcessor

    pixels = np.random.default_rng(1).integers(0, 256, (48, 72, 3), dtype=np.uint8)
    sam = SegmentAnything.from_pretrained(folder, device="cpu")
    model, processor = SamModel.from_pretrained(folder).eval(), SamProcessor.from_pretrained(folder)
    for point in ((20.5, 30.5), (60.5, 10.5)):  # the second reuses the encoded image
        prompt = [[[[point[0] - 0.5, point[1] - 0.5]]]]
        inputs = processor(Image.fromarray(pixels), input_points=prompt, return_tensors="pt")
        inputs["input_points"] = inputs["input_points"].float()
        output = model(**inputs)
        expected = processor.post_process_masks(
            output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )[0][0]
        found = sam.at_point(pixels, point)
        assert found.masks.shape == (3, 48, 72)
        assert np.array_equal(found.masks, expected.numpy())
        np.testing.assert_allclose(found.quality, output.iou_scores[0, 0], atol=1e-6)


def test_an_image_is_encoded_once(folder, monkeypatch):
    sam = SegmentAnything.from_pretrained(folder, device="cpu")
    encoded = []
    plain = sam._model.get_image_embeddings
    monkeypatch.setattr(
        sam._model, "get_image_embeddings", lambda x: encoded.append(len(x)) or plain(x)
    )
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for point in ((3, 3), (20, 20), (5, 25)):
        sam.at_point(pixels, point)
    assert len(encoded) == 1
    pixels[0] = 0  # the same array with other content
    sam.at_point(pixels, (3, 3))
    assert len(encoded) == 2
    sam.at_point(pixels.reshape(16, 64, 3), (3, 3))  # the same bytes in another shape
    assert len(encoded) == 3


def test_a_part_of_a_real_model_lies_inside_the_subject(folder):
    pixels = np.random.default_rng(1).integers(0, 256, (48, 72, 3), dtype=np.uint8)
    mask = np.zeros((48, 72), bool)
    mask[8:40, 10:60] = True
    parts = SamParts(SegmentAnything.from_pretrained(folder, device="cpu"), min_inside=0.01)
    found = [parts(view(mask, pixels), (x, 20)) for x in range(12, 60, 8)]
    assert any(part is not None for part in found)
    for part in found:
        assert part is None or not (part & ~mask).any()
