"""Doubts about one pair: copies of the reference, a distorted aspect, lost colour.

A copy is told by pixels: blocks of both thumbnails are compared as they are, mirrored, and where a
search over scales and shifts fits the generated image into the reference, as a crop of it. Other
photographs of a subject share few blocks: their backgrounds differ even where the subject does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

import cv2
import numpy as np
from numpy.typing import NDArray

from vsm_fast.errors import Flag
from vsm_fast.images.doubts import THUMBNAIL, Doubt
from vsm_fast.images.subjects import Subject

_GREY = 3.0  # CIE Lab chroma of a nearly grey subject, below
_COLOURED = 3.0  # of a reference with any colour, at least; per the generation's, at least too

_BLOCK = 8  # pixels of the side of a thumbnail's block
_TEXTURED = 4.0  # grey levels of standard deviation in a block, above
_ALIKE = 0.9  # correlation of two blocks, above
_LEAST_BLOCKS = 8  # textured ones, without which pixels do not tell
_COPIED = 0.3  # share of such blocks at their own place; half covered copies have 0.36 and more
_REPLACED = 0.5  # share after a crop was fitted, of which there are more ways to be alike
_OUTSIDE = -1e4  # marks pixels beyond the reference

_TURNED = 0.03  # a copy is upright: shear of the refined fit, at most
_REFINED = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 1e-4)

_SEARCHED = THUMBNAIL // 2  # pixels of the side, on which crops are searched
_SCALES = np.linspace(0.5, 1, 11)  # sides of crops per side of the reference
_FOUND = 0.6  # correlation of a crop with its place before the fit, at least

_DISTORTED = 1.15  # ratio of the scales of width and height, above

# Without pixels: re-encoded and resized copies only.
_LEAST_POINTS = 16
_SAME_LOOK, _SAME_SHARE, _SAME_PLACE = 0.95, 0.85, 0.95


@dataclass(frozen=True, eq=False)
class PairPoints:
    """The ``m`` matched points of one pair.

    Attributes:
        cells: int [m], row-major grid cells of the generated image.
        targets: int [m], those of the reference.
        visual_similarity: float32 [m].
        grid: (rows, columns) of both.
    """

    cells: NDArray[np.integer]
    targets: NDArray[np.integer]
    visual_similarity: NDArray[np.float32]
    grid: tuple[int, int]


def pair_doubts(reference: Subject, generation: Subject, points: PairPoints) -> list[Doubt]:
    """Return the flags that two images raise together.

    Args:
        reference: Without a fingerprint where its descriptors came without one: then its colour
            is not compared, and of copies only re-encoded and resized ones are told.
        generation: The generated image.
        points: Their matched points.
    """
    raised: list[Doubt] = []
    first, second = reference.fingerprint, generation.fingerprint
    if (
        first is not None
        and second is not None
        and second.chroma < _GREY
        and first.chroma >= _COLOURED * max(1, second.chroma)
    ):
        note = f"chroma {second.chroma:.1f}, the reference has {first.chroma:.1f}"
        raised.append((Flag.NEARLY_GREY, note))
    stretch = _copied(reference, generation, points)
    if stretch is None:
        return raised
    raised.append((Flag.COPY_OF_REFERENCE, "shows the reference's own pixels"))
    if abs(log(stretch)) > log(_DISTORTED):
        note = f"the reference stretched {exp(abs(log(stretch))):.2f} times in one direction"
        raised.append((Flag.ASPECT_DISTORTED, note))
    return raised


def _copied(reference: Subject, generation: Subject, points: PairPoints) -> float | None:
    """Width per height of a copy against the reference's, 1 as it was; None unless a copy."""
    if reference.fingerprint is None or generation.fingerprint is None:
        return 1.0 if _same_points(points) else None
    theirs = reference.fingerprint.thumbnail.astype(np.float32)
    mine = generation.fingerprint.thumbnail.astype(np.float32)
    (height, width), (rows, columns) = generation.size, reference.size
    shares = [_share_alike(mine, way) for way in (theirs, theirs[:, ::-1])]
    if shares[0] is None:
        return 1.0 if _same_points(points) else None
    if max(share or 0 for share in shares) >= _COPIED:
        return width * rows / (height * columns)
    way, placed = _searched(mine, theirs, width * rows / (height * columns))
    scales = None if placed is None else _fitted(mine, way, placed)
    if scales is None:
        return None
    across, down = scales
    return (down * rows / height) / (across * columns / width)


def _fitted(
    mine: NDArray[np.float32], theirs: NDArray[np.float32], placed: NDArray[np.float32]
) -> tuple[float, float] | None:
    """Scales of x and y that take a crop to the reference; None where it is no crop."""
    try:
        _, refined = cv2.findTransformECC(
            mine, theirs, placed, cv2.MOTION_AFFINE, _REFINED, None, 3
        )
    except cv2.error:  # it found no way to improve
        return None
    upright = abs(refined[0, 1]) <= _TURNED and abs(refined[1, 0]) <= _TURNED
    if not upright or (_share_placed(mine, theirs, refined) or 0) < _REPLACED:
        return None
    return float(refined[0, 0]), float(refined[1, 1])


def _searched(
    mine: NDArray[np.float32], theirs: NDArray[np.float32], aspect: float
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """The reference, mirrored or not, and where the generation may be cut from it.

    Args:
        mine: Thumbnail of the generation.
        theirs: Of the reference.
        aspect: Width per height of the generation's image per that of the reference's.

    Returns:
        A thumbnail of the reference, and float32 [2, 3] from the generation's pixels to its;
        None where no crop looks alike.
    """
    across, down = min(1.0, aspect), min(1.0, 1 / aspect)
    pieces = []
    for scale in _SCALES:
        width, height = (max(4, round(_SEARCHED * scale * side)) for side in (across, down))
        pieces.append(cv2.resize(mine, (width, height), interpolation=cv2.INTER_AREA))
    best, way, placed = _FOUND, theirs, None
    for turned in (theirs, np.ascontiguousarray(theirs[:, ::-1])):
        small = cv2.resize(turned, (_SEARCHED, _SEARCHED), interpolation=cv2.INTER_AREA)
        for piece in pieces:
            alike = cv2.matchTemplate(small, piece, cv2.TM_CCOEFF_NORMED)
            _, highest, _, (left, top) = cv2.minMaxLoc(alike)
            if highest < best:
                continue
            best, way, twice = highest, turned, THUMBNAIL // _SEARCHED
            x, y = piece.shape[1] / _SEARCHED, piece.shape[0] / _SEARCHED
            corner = twice * left + x / 2 - 0.5, twice * top + y / 2 - 0.5
            placed = np.array([[x, 0, corner[0]], [0, y, corner[1]]], np.float32)
    return way, placed


def _same_points(points: PairPoints) -> bool:
    """Whether the points of both images look the same and lie at the same place."""
    if len(points.cells) < _LEAST_POINTS:
        return False
    same_look = np.mean(points.visual_similarity > _SAME_LOOK)
    same_place = np.mean(points.cells == points.targets)
    return bool(same_look >= _SAME_SHARE and same_place >= _SAME_PLACE)


def _share_placed(
    mine: NDArray[np.float32], theirs: NDArray[np.float32], placed: NDArray[np.float32]
) -> float | None:
    """:func:`_share_alike` after the reference was moved, blurred as it is by that."""
    moved = cv2.warpAffine(
        theirs,
        placed,
        (THUMBNAIL, THUMBNAIL),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_OUTSIDE,
    )
    outside = moved < -1
    blurred = cv2.GaussianBlur(np.where(outside, 0, moved), (0, 0), 0.6)
    blurred[outside] = _OUTSIDE
    return _share_alike(cv2.GaussianBlur(mine, (0, 0), 0.6), blurred)


def _share_alike(mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float | None:
    """Share of the textured blocks that correlate; None with too few of them."""
    first, second = _blocks(mine), _blocks(theirs)
    inside = second.min(axis=1) > -1
    first, second = first[inside], second[inside]
    first = first - first.mean(axis=1, keepdims=True)
    second = second - second.mean(axis=1, keepdims=True)
    squares = (first * first).mean(axis=1), (second * second).mean(axis=1)
    textured = np.maximum(*squares) > _TEXTURED**2
    if np.count_nonzero(textured) < _LEAST_BLOCKS:
        return None
    together = (first * second).mean(axis=1)[textured]
    correlation = together / np.sqrt(squares[0][textured] * squares[1][textured] + 1)
    return float(np.mean(correlation > _ALIKE))


def _blocks(thumbnail: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [blocks, pixels per block]."""
    count = THUMBNAIL // _BLOCK
    split = thumbnail.reshape(count, _BLOCK, count, _BLOCK)
    return split.swapaxes(1, 2).reshape(count * count, -1)
