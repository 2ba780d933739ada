"""Flags of pairs on synthetic pictures."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from vsm_fast.errors import Flag
from vsm_fast.images.doubts import fingerprint
from vsm_fast.images.subjects import Subject
from vsm_fast.results.doubts import PairPoints, pair_doubts

GRID = (16, 16)
SIDE = 256


def picture(seed: int) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3]: coloured blobs of several sizes."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(0, 1, (side, side, 3)).astype(np.float32), (SIDE, SIDE))
        for side in (8, 20, 40)
    ]
    return (sum(layers) * 35 + 127).clip(0, 255).astype(np.uint8)


def subject(pixels: np.ndarray) -> Subject:
    size = (pixels.shape[0], pixels.shape[1])
    traits = fingerprint(pixels, np.ones(size, bool))
    return Subject(box=(0, 0, size[1], size[0]), size=size, fingerprint=traits)


def points(cells: np.ndarray, targets: np.ndarray, similarity: float) -> PairPoints:
    return PairPoints(cells, targets, np.full(len(cells), similarity, np.float32), GRID)


EVERY = np.arange(GRID[0] * GRID[1])
IN_PLACE = points(EVERY, EVERY, 1.0)
SCATTERED = points(EVERY, np.random.default_rng(0).permutation(EVERY), 0.7)


def flags(reference: np.ndarray, generation: np.ndarray, matched: PairPoints) -> list[Flag]:
    doubts = pair_doubts(subject(reference), subject(generation), matched)
    return [flag for flag, _ in doubts]


def encoded(pixels: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 70])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def half_painted(pixels: np.ndarray) -> np.ndarray:
    painted = pixels.copy()
    painted[:, : SIDE // 2] = (10, 200, 60)
    return painted


COPY = [Flag.COPY_OF_REFERENCE]


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p,
        encoded,
        lambda p: cv2.resize(p, (154, 154), interpolation=cv2.INTER_AREA),
        lambda p: np.ascontiguousarray(p[:, ::-1]),
        half_painted,
    ],
    ids=["same", "encoded", "resized", "mirrored", "half painted"],
)
def test_a_copy_is_told_by_its_pixels_wherever_its_points_went(change) -> None:
    assert flags(picture(0), change(picture(0)), SCATTERED) == COPY


@pytest.mark.parametrize("mirror", [1, -1])
@pytest.mark.parametrize("box", [(20, 30, 225, 235), (0, 0, 154, 154), (60, 51, 256, 180)])
def test_a_crop_is_found_mirrored_too(box, mirror) -> None:
    left, top, right, bottom = box
    crop = np.ascontiguousarray(picture(0)[top:bottom, left:right][:, ::mirror])
    assert flags(picture(0), encoded(crop), SCATTERED) == COPY
    assert flags(picture(1), encoded(crop), SCATTERED) == []


def test_another_picture_is_no_copy_even_with_points_in_place() -> None:
    assert flags(picture(0), picture(1), IN_PLACE) == []


def test_the_subject_in_its_old_place_before_another_background_is_no_copy() -> None:
    moved = picture(1)
    moved[64:192, 64:192] = picture(0)[64:192, 64:192]
    assert flags(picture(0), moved, IN_PLACE) == []


def test_a_turned_picture_is_no_copy() -> None:
    turn = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), 8, 1.0)
    turned = cv2.warpAffine(picture(0), turn, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT)
    assert flags(picture(0), turned, IN_PLACE) == []


@pytest.mark.parametrize(
    ("width", "height", "raised"),
    [(358, 256, True), (256, 358, True), (280, 256, False), (300, 300, False)],
)
def test_a_stretched_copy_is_distorted(width, height, raised) -> None:
    stretched = cv2.resize(picture(0), (width, height))
    expected = [*COPY, Flag.ASPECT_DISTORTED] if raised else COPY
    assert flags(picture(0), stretched, IN_PLACE) == expected
    assert flags(picture(1), stretched, IN_PLACE) == []


def test_a_note_says_how_far_a_copy_is_stretched() -> None:
    stretched = cv2.resize(picture(0), (358, 256))
    assert pair_doubts(subject(picture(0)), subject(stretched), SCATTERED) == [
        (Flag.COPY_OF_REFERENCE, "shows the reference's own pixels"),
        (Flag.ASPECT_DISTORTED, "the reference stretched 1.40 times in one direction"),
    ]


def coloured(level: float) -> np.ndarray:
    """Another picture than the reference, with a share of its colour."""
    pixels = picture(1).astype(np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    return (grey + level * (pixels - grey)).round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("reference", "generation", "raised"),
    [
        (picture(0), coloured(0), True),
        (picture(0), coloured(0.05), True),
        (picture(0), coloured(0.4), False),  # pale
        (picture(0), coloured(1), False),
        (picture(0)[..., :1].repeat(3, 2), coloured(0), False),  # a grey subject
        (coloured(0), picture(0), False),  # colour that was added is no loss
    ],
)
def test_lost_colour_is_flagged(reference, generation, raised) -> None:
    assert flags(reference, generation, SCATTERED) == ([Flag.NEARLY_GREY] if raised else [])


@pytest.mark.parametrize(
    ("matched", "raised"),
    [
        (IN_PLACE, True),
        (points(EVERY, EVERY, 0.9), False),
        (points(EVERY, np.roll(EVERY, 1), 1.0), False),
        (points(EVERY[:8], EVERY[:8], 1.0), False),
        (points(EVERY[:0], EVERY[:0], 1.0), False),
    ],
)
def test_without_pixels_the_points_tell(matched, raised) -> None:
    """For references described before, and for images without texture."""
    expected = COPY if raised else []
    bare = replace(subject(picture(0)), fingerprint=None)
    assert [flag for flag, _ in pair_doubts(bare, subject(picture(0)), matched)] == expected
    plain = np.full((SIDE, SIDE, 3), 90, np.uint8)
    assert flags(plain, plain, matched) == expected
