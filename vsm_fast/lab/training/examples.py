"""Training examples: controlled pairs, framed as the scorer frames them.

An example is created once, with its cells, and stored as uint8. ``varied`` draws colours and
mirror images anew for every visit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vsm_fast.images.framing import on_grey, resized_region, subject_box
from vsm_fast.lab.pairs.pairs import ControlledPair, Mask, Pixels
from vsm_fast.model.config import BackboneConfig
from vsm_fast.results.heatmap import cells_inside

_BOX_JITTER = 0.05  # of the longer side: users' masks are not exact
_MIN_SUBJECT = 0.03  # of the frame; smaller subjects have too few cells
_VISIBLE = 0.03  # minimum mean change of a visibly changed cell, on the network's scale [-1, 1]
CELLS = ("subject_1", "subject_2", "part", "match", "landing")

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class PairCells:
    """Cells of one pair; ``n`` cells per view.

    Attributes:
        subject_1, subject_2: bool [n], cells of the subject.
        part: float [n], altered share of each cell of view 1.
        changed: bool [n], cells of view 1 whose pixels differ visibly; an alteration leaves
            some of its part unchanged.
        match: int64 [n], one-to-one matching cell of view 2, -1 = none.
        landing: int64 [n], the same without the restriction to one source per target.
        exact: Whether ``match`` and ``landing`` are known; two photographs have none.
    """

    subject_1: Tensor
    subject_2: Tensor
    part: Tensor
    changed: Tensor
    match: Tensor
    landing: Tensor
    exact: bool

    @property
    def clean(self) -> Tensor:
        """Unaltered cells of the subject in view 1, bool [n]."""
        return self.subject_1 & (self.part < 0.05)

    @property
    def hit(self) -> Tensor:
        """Visibly altered cells of the subject in view 1, bool [n]."""
        return self.subject_1 & (self.part > 0.5) & self.changed


@dataclass(frozen=True)
class TrainingExample:
    """One pair, ready for the network.

    Attributes:
        subject: Subject name, for negatives of another subject.
        pictures: uint8 [4, 3, R, R]: original 1, original 2, altered 1, altered 2 (a copy of
            original 2 if the pair has none).
        has_altered_2: Whether the fourth picture is real.
        subject_1, subject_2, part, match, landing, exact: As in ``PairCells``.
    """

    subject: str
    pictures: Tensor
    has_altered_2: bool
    subject_1: Tensor
    subject_2: Tensor
    part: Tensor
    match: Tensor
    landing: Tensor
    exact: bool


def training_example(
    pair: ControlledPair, rng: np.random.Generator, backbone: BackboneConfig, grid: tuple[int, int]
) -> TrainingExample | None:
    """Frame both views, hide the background where the model does, and compute the cells.

    ``rng`` jitters frames and masks, unless the network reads the whole image unmasked. The grid of
    descriptors, (rows, columns), is a square.

    Returns:
        The example; None if a subject is too small to learn from.
    """
    altered_2 = pair.original_2 if pair.altered_2 is None else pair.altered_2
    pictures_1, (mask_1, part), box_1 = _framed_view(
        [pair.original_1, pair.altered_1], [pair.mask_1, pair.part_1 & pair.mask_1], rng, backbone
    )
    pictures_2, (mask_2,), box_2 = _framed_view(
        [pair.original_2, altered_2], [pair.mask_2], rng, backbone
    )
    if min(mask_1.mean(), mask_2.mean()) < _MIN_SUBJECT:
        return None
    every = np.arange(grid[0] * grid[1])
    whole = 0, 0, backbone.resolution, backbone.resolution
    subject_1, subject_2 = (cells_inside(mask, every, grid, whole) for mask in (mask_1, mask_2))
    match = landing = np.full(len(every), -1, np.int64)
    if pair.points is not None:
        landing, miss = _landing_cells(pair.points, (box_1, box_2), subject_1, subject_2, grid)
        # One source per target: the one that lands nearest its centre.
        match = np.full_like(landing, -1)
        sources = np.nonzero(landing >= 0)[0]
        sources = sources[np.argsort(miss[sources], kind="stable")]
        targets, first = np.unique(landing[sources], return_index=True)
        match[sources[first]] = targets
    pictures = [pictures_1[0], pictures_2[0], pictures_1[1], pictures_2[1]]
    shares = cv2.resize(part.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA)
    return TrainingExample(
        subject=pair.subject,
        pictures=torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy()),
        has_altered_2=pair.altered_2 is not None,
        subject_1=torch.from_numpy(subject_1),
        subject_2=torch.from_numpy(subject_2),
        part=torch.from_numpy(shares.ravel()),
        match=torch.from_numpy(match),
        landing=torch.from_numpy(landing),
        exact=pair.points is not None,
    )


def _framed_view(
    pictures: list[Pixels], masks: list[Mask], rng: np.random.Generator, backbone: BackboneConfig
) -> tuple[list[Pixels], list[Mask], Box]:
    """Crop and resize the pictures and masks of one view; the first mask is the subject's."""
    mask, side = masks[0], backbone.resolution
    left, top, right, bottom = subject_box(mask, backbone.framing)
    if backbone.framing != "image":
        reach = _BOX_JITTER * max(right - left, bottom - top)
        moved = np.array([left, top, right, bottom]) + rng.uniform(-reach, reach, 4)
        height, width = mask.shape
        left, top, right, bottom = np.clip(moved.astype(int), 0, [width, height] * 2).tolist()
        right, bottom = max(right, left + 1), max(bottom, top + 1)
    if backbone.background == "grey":
        # Imitate another segmentation: mostly the same, sometimes fatter or smoother.
        radius = int(rng.choice([0, 0, 0, 1, 2, 3, 5]))
        if radius:
            disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
            how = cv2.MORPH_DILATE if rng.random() < 0.7 else cv2.MORPH_OPEN
            mask = cv2.morphologyEx(mask.astype(np.uint8), how, disc) > 0
        pictures = [on_grey(picture, mask) for picture in pictures]
    box = left, top, right, bottom
    shown = [resized_region(picture, box, side, backbone.interpolation) for picture in pictures]
    cropped = [mask[top:bottom, left:right].astype(np.uint8) for mask in masks]
    framed = [
        np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_NEAREST) > 0)
        for crop in cropped
    ]
    return shown, framed, box


def _landing_cells(
    points: NDArray[np.float32],
    boxes: tuple[Box, Box],
    subject_1: NDArray[np.bool_],
    subject_2: NDArray[np.bool_],
    grid: tuple[int, int],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the cell of view 2 that shows the same place as each cell of view 1.

    Args:
        points: float32 [N, 4], matched points x1, y1, x2, y2 in pixels.
        boxes: Frame of each view.
        subject_1: bool [n].
        subject_2: bool [n].
        grid: (rows, columns).

    Returns:
        int64 [n], the cell of view 2 of the point nearest the cell's centre, -1 = none; and
        float64 [n], the squared distance of the landing point from the centre of that cell.
    """
    sides = []
    for view, (left, top, right, bottom) in zip((points[:, :2], points[:, 2:]), boxes, strict=True):
        scale = [grid[1] / (right - left), grid[0] / (bottom - top)]
        sides.append((view.astype(np.float64) - [left, top]) * scale)
    placed = np.concatenate(sides, axis=1)  # in cells
    placed = placed[((placed >= 0) & (placed < [grid[1], grid[0]] * 2)).all(axis=1)]
    cells = np.floor(placed).astype(np.int64)
    off_centre = np.square(placed - cells - 0.5)
    first, second = cells[:, 1] * grid[1] + cells[:, 0], cells[:, 3] * grid[1] + cells[:, 2]
    order = np.argsort(-off_centre[:, :2].sum(axis=1), kind="stable")
    order = order[subject_1[first[order]] & subject_2[second[order]]]
    landing = np.full(len(subject_1), -1, np.int64)
    miss = np.zeros(len(subject_1))
    landing[first[order]] = second[order]  # the nearest point is written last and stays
    miss[first[order]] = off_centre[order, 2:].sum(axis=1)
    return landing, miss


def varied(
    example: TrainingExample, rng: np.random.Generator, *, flips: bool = True, jitter: float = 0.08
) -> tuple[Tensor, PairCells]:
    """Augment an example: random exposures, and a mirror image in half of the visits.

    Both views are mirrored or neither: handedness belongs to a subject. ``jitter`` is the maximum
    relative change of a colour channel; brightness shifts by 3/4 of it.

    Returns:
        float32 [4, 3, R, R] in [-1, 1], and the cells.
    """
    pictures = example.pictures.float() / 127.5 - 1
    side = int(len(example.part) ** 0.5)
    if rng.random() < 0.5 and flips:
        pictures = pictures.flip(3)
        order = torch.arange(side * side).view(side, side).flip(1).flatten()
        cells = {name: getattr(example, name)[order] for name in CELLS}
        for name in ("match", "landing"):
            target = cells[name]
            cells[name] = torch.where(target >= 0, order[target.clamp(min=0)], target)
        example = replace(example, **cells)
    gain = torch.from_numpy(rng.uniform(1 - jitter, 1 + jitter, (2, 3, 1, 1)).astype(np.float32))
    reach = 0.75 * jitter
    shift = torch.from_numpy(rng.uniform(-reach, reach, (2, 1, 1, 1)).astype(np.float32))
    # Pictures of one view share their exposure: it must not give the altered one away.
    pictures = pictures.mul(gain.repeat(2, 1, 1, 1)).add(shift.repeat(2, 1, 1, 1)).clamp(-1, 1)
    difference = (pictures[0] - pictures[2]).abs().mean(dim=0)
    changed = F.adaptive_avg_pool2d(difference[None], side).flatten() > _VISIBLE
    own = {name: getattr(example, name) for name in (*CELLS, "exact")}
    return pictures, PairCells(changed=changed, **own)
