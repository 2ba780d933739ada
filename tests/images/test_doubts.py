from __future__ import annotations

import numpy as np
import pytest

from vsm_fast.errors import Flag
from vsm_fast.images.doubts import fingerprint, mask_doubts
from vsm_fast.images.subjects import prepare_subject
from vsm_fast.model.config import BackboneConfig, ModelConfig


def boxes(*corners: tuple[int, int, int, int]) -> np.ndarray:
    """A mask of 200 x 100 (width x height) pixels with boxes (left, top, right, bottom) on."""
    mask = np.zeros((100, 200), bool)
    for left, top, right, bottom in corners:
        mask[top:bottom, left:right] = True
    return mask


MIDDLE = (60, 20, 140, 80)
RIM = 7  # pixels next to the border, where GrabCut finds nothing


@pytest.mark.parametrize(
    ("origin", "mask", "flags"),
    [
        ("given", boxes(MIDDLE), []),
        ("grabcut", boxes(MIDDLE), []),
        # Found masks: they fill the image, touch three borders, or are a scrap.
        ("grounded-sam", boxes((0, 0, 200, 100)), [Flag.DOUBTFUL_MASK]),
        ("grounded-sam", boxes((2, 2, 190, 90)), [Flag.DOUBTFUL_MASK]),
        ("grounded-sam", boxes((4, 4, 180, 80)), []),
        ("grounded-sam", boxes((0, 0, 40, 100)), [Flag.DOUBTFUL_MASK, Flag.CUT_OFF]),
        ("grabcut", boxes((RIM, RIM, 40, 100 - RIM)), [Flag.DOUBTFUL_MASK, Flag.CUT_OFF]),
        ("grounded-sam", boxes((0, 0, 40, 90)), [Flag.CUT_OFF]),
        ("given", boxes((0, 0, 40, 100)), [Flag.CUT_OFF]),
        ("grabcut", boxes((80, 40, 105, 70)), [Flag.DOUBTFUL_MASK]),
        ("grabcut", boxes((80, 40, 110, 70)), []),
        ("grounded-sam", boxes((80, 40, 105, 70)), []),
        # The border cuts a side, or a foot touches it; masks of whole images cannot tell.
        ("given", boxes((60, 0, 140, 60)), [Flag.CUT_OFF]),
        ("alpha", boxes((0, 20, 80, 80)), [Flag.CUT_OFF]),
        ("given", boxes(MIDDLE, (60, 80, 80, 100)), []),
        ("given", boxes((60, 1, 140, 99)), []),
        ("given", boxes((0, 0, 200, 100)), []),
        ("whole image", boxes((0, 0, 200, 100)), []),
        # Two pieces of like size, a small second one, one that is noise, two that touch.
        ("given", boxes((20, 20, 80, 80), (120, 20, 180, 60)), [Flag.SEVERAL_SUBJECTS]),
        ("given", boxes((20, 20, 80, 80), (120, 20, 140, 60)), []),
        ("given", boxes((20, 20, 24, 24), (120, 20, 124, 24)), []),
        ("given", boxes((20, 20, 100, 80), (100, 20, 180, 60)), []),
    ],
)
def test_flags_of_masks(origin, mask, flags) -> None:
    assert [flag for flag, _ in mask_doubts(mask, origin)] == flags


@pytest.mark.parametrize("factor", [1, 4])
def test_notes_hold_the_measure_at_any_size(factor) -> None:
    mask = boxes((20, 20, 80, 80), (100, 20, 160, 50)).repeat(factor, 0).repeat(factor, 1)
    assert mask_doubts(mask, "given") == [
        (Flag.SEVERAL_SUBJECTS, "the mask has two separate pieces, one 50% as large as the other")
    ]


def test_a_fingerprint_holds_the_subjects_colour_only() -> None:
    pixels = np.full((100, 200, 3), (200, 40, 40), np.uint8)
    mask = boxes(MIDDLE)
    pixels[mask] = 90
    assert fingerprint(pixels, mask).chroma < 0.5
    assert fingerprint(pixels, ~mask).chroma > 40
    dot = np.zeros_like(mask)
    dot[0, 0] = True
    assert fingerprint(pixels, dot).chroma > 40  # less than a pixel


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (64, 64), (500, 331)])
def test_a_fingerprint_has_one_size_for_all_images(size) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert fingerprint(pixels, np.ones(size, bool)).thumbnail.shape == (64, 64)


def test_a_subject_carries_flags_notes_and_its_fingerprint() -> None:
    config = ModelConfig("test", BackboneConfig(("us1",), 64, 0))
    pixels = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    subject = prepare_subject(pixels, boxes((0, 20, 80, 80)), "picture", config)
    assert subject.flags == (Flag.CUT_OFF,)
    assert subject.notes == ("the image border cuts the subject along 21% of its bounding box",)
    assert subject.summary().fingerprint is not None
