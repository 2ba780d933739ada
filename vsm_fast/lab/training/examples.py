"""Examples for training: controlled pairs framed as the scorer frames them.

An example is made once, with its cells worked out, and kept on disk as uint8; every visit
draws colours and a mirror image anew (``varied``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recipes.tiny.metric_losses import PairCells
from vsm_fast.images.framing import on_grey, resized_region, subject_box
from vsm_fast.lab.pairs.pairs import ControlledPair, Mask
from vsm_fast.lab.training.rows import RowShards, write_rows
from vsm_fast.model.config import BackboneConfig
from vsm_fast.results.heatmap import cells_inside

_BOX_JITTER = 0.05  # of the longer side: masks of users are not exact
_LEAST_SUBJECT = 0.03  # of the frame; smaller subjects have too few cells
_VISIBLE = 0.03  # mean change of a cell on the network's scale of [-1, 1] that shows


@dataclass(frozen=True)
class TrainingExample:
    """One pair, ready for the network.

    Attributes:
        subject: Name, so that negatives come from another one.
        pictures: uint8 [4, 3, R, R]: original 1, original 2, altered 1, altered 2 (a copy of
            original 2 when there is none).
        has_altered_2: Whether the fourth picture is real.
        subject_1, subject_2: bool [n] over the cells of the descriptor grid.
        part: float [n], share of each cell of view 1 that was altered.
        match, landing: int64 [n], see ``PairCells``.
        exact: Whether they are known.
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

    def cells(self, changed: Tensor) -> PairCells:
        """The cells, with those whose pixels differ."""
        return PairCells(
            self.subject_1, self.subject_2, self.part, changed, self.match, self.landing, self.exact
        )


def training_example(
    pair: ControlledPair,
    rng: np.random.Generator,
    backbone: BackboneConfig,
    grid: tuple[int, int],
) -> TrainingExample | None:
    """Frame both views, hide their background where the model does, and work out the cells.

    Args:
        pair: A controlled pair.
        rng: Source of the jitter of frames and masks; unused when the network sees the whole
            image as it is.
        backbone: How the model frames its images.
        grid: (rows, columns) of the descriptors, as many of both.

    Returns:
        None when a subject is too small to learn from.
    """
    views = []
    for pictures, masks in (
        ((pair.original_1, pair.altered_1), (pair.mask_1, pair.part_1 & pair.mask_1)),
        (
            (pair.original_2, pair.original_2 if pair.altered_2 is None else pair.altered_2),
            (pair.mask_2,),
        ),
    ):
        box = _frame(masks[0], rng, backbone)
        if backbone.background == "grey":
            shown = _rough(masks[0], rng)
            pictures = on_grey(pictures[0], shown), on_grey(pictures[1], shown)
        views.append(
            (
                [
                    resized_region(picture, box, backbone.resolution, backbone.interpolation)
                    for picture in pictures
                ],
                [_framed_mask(mask, box, backbone.resolution) for mask in masks],
                box,
            )
        )
    (pictures_1, (mask_1, part), box_1), (pictures_2, (mask_2,), box_2) = views
    if min(mask_1.mean(), mask_2.mean()) < _LEAST_SUBJECT:
        return None
    every = np.arange(grid[0] * grid[1])
    whole = 0, 0, backbone.resolution, backbone.resolution
    subject_1, subject_2 = (cells_inside(mask, every, grid, whole) for mask in (mask_1, mask_2))
    unknown = np.full(len(subject_1), -1, np.int64)
    match, landing = unknown, unknown
    if pair.points is not None:
        points = np.concatenate(
            [_to_grid(pair.points[:, :2], box_1, grid), _to_grid(pair.points[:, 2:], box_2, grid)],
            axis=1,
        )
        landing, miss = _landing_cells(points, subject_1, subject_2, grid)
        match = _one_to_one(landing, miss)
    ordered = [pictures_1[0], pictures_2[0], pictures_1[1], pictures_2[1]]
    return TrainingExample(
        pair.subject,
        torch.from_numpy(np.stack(ordered).transpose(0, 3, 1, 2).copy()),
        pair.altered_2 is not None,
        torch.from_numpy(subject_1),
        torch.from_numpy(subject_2),
        torch.from_numpy(
            cv2.resize(
                part.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA
            ).ravel()
        ),
        torch.from_numpy(match),
        torch.from_numpy(landing),
        pair.points is not None,
    )  # fmt: skip


def _frame(
    mask: Mask, rng: np.random.Generator, backbone: BackboneConfig
) -> tuple[int, int, int, int]:
    """The region that the network sees, moved a little where it follows the mask."""
    left, top, right, bottom = subject_box(mask, backbone.framing)
    if backbone.framing == "image":
        return left, top, right, bottom
    reach = _BOX_JITTER * max(right - left, bottom - top)
    moved = np.array([left, top, right, bottom]) + rng.uniform(-reach, reach, 4)
    height, width = mask.shape
    left, top, right, bottom = np.clip(moved.astype(int), 0, [width, height] * 2).tolist()
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _rough(mask: Mask, rng: np.random.Generator) -> Mask:
    """The mask as another segmentation might have drawn it: mostly the same, or fatter."""
    radius = int(rng.choice([0, 0, 0, 1, 2, 3, 5]))
    if radius == 0:
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    how = cv2.MORPH_DILATE if rng.random() < 0.7 else cv2.MORPH_OPEN
    rough: Mask = cv2.morphologyEx(mask.astype(np.uint8), how, disc) > 0
    return rough


def _framed_mask(mask: Mask, box: tuple[int, int, int, int], resolution: int) -> Mask:
    left, top, right, bottom = box
    cut = mask[top:bottom, left:right].astype(np.uint8)
    size = (resolution, resolution)
    return np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_NEAREST) > 0)


def _to_grid(
    points: NDArray[np.float32], box: tuple[int, int, int, int], grid: tuple[int, int]
) -> NDArray[np.float64]:
    """(x, y) in pixels of the image to (x, y) in cells of the framed grid."""
    left, top, right, bottom = box
    scale = [grid[1] / (right - left), grid[0] / (bottom - top)]
    return (points.astype(np.float64) - [left, top]) * scale


def _landing_cells(
    points: NDArray[np.float64],
    subject_1: NDArray[np.bool_],
    subject_2: NDArray[np.bool_],
    grid: tuple[int, int],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where each cell of view 1 is seen in view 2.

    Args:
        points: float64 [N, 4], x1, y1, x2, y2 in cells.
        subject_1: bool [n].
        subject_2: bool [n].
        grid: (rows, columns).

    Returns:
        int64 [n], the cell of view 2 of the point nearest the cell's centre, -1 = none; and
        float64 [n], the squared distance of where it lands from the centre of that cell.
    """
    inside = ((points >= 0) & (points < [grid[1], grid[0]] * 2)).all(axis=1)
    points = points[inside]
    cells = np.floor(points).astype(np.int64)
    off_centre = np.square(points - cells - 0.5)
    first, second = cells[:, 1] * grid[1] + cells[:, 0], cells[:, 3] * grid[1] + cells[:, 2]
    order = np.argsort(-off_centre[:, :2].sum(axis=1), kind="stable")
    order = order[subject_1[first[order]] & subject_2[second[order]]]
    landing = np.full(len(subject_1), -1, np.int64)
    miss = np.zeros(len(subject_1))
    landing[first[order]] = second[order]  # the nearest point is written last and stays
    miss[first[order]] = off_centre[order, 2:].sum(axis=1)
    return landing, miss


def _one_to_one(landing: NDArray[np.int64], miss: NDArray[np.float64]) -> NDArray[np.int64]:
    """``landing`` with one source per target: the one that lands nearest its centre."""
    match = np.full_like(landing, -1)
    sources = np.nonzero(landing >= 0)[0]
    ordered = sources[np.argsort(miss[sources], kind="stable")]
    targets, where = np.unique(landing[ordered], return_index=True)
    match[ordered[where]] = targets
    return match


def varied(
    example: TrainingExample,
    rng: np.random.Generator,
    *,
    flips: bool = True,
    jitter: float = 0.08,
) -> tuple[Tensor, PairCells]:
    """One visit of an example: other exposures, and in every second visit its mirror image.

    Both views are mirrored or none: handedness belongs to a subject.

    Args:
        example: Read from disk.
        rng: Source of the draws.
        flips: Whether to mirror.
        jitter: Most relative change of a colour channel; brightness shifts by 3/4 of it.

    Returns:
        float32 [4, 3, R, R] in [-1, 1], and the cells.
    """
    pictures = example.pictures.float() / 127.5 - 1
    cells = example
    if rng.random() < 0.5 and flips:
        pictures, cells = pictures.flip(3), _mirrored(example)
    gain = torch.from_numpy(rng.uniform(1 - jitter, 1 + jitter, (2, 3, 1, 1)).astype(np.float32))
    reach = 0.75 * jitter
    shift = torch.from_numpy(rng.uniform(-reach, reach, (2, 1, 1, 1)).astype(np.float32))
    # Pictures of one view share their exposure: it must not tell the altered one apart.
    pictures = pictures.mul(gain.repeat(2, 1, 1, 1)).add(shift.repeat(2, 1, 1, 1)).clamp(-1, 1)
    difference = (pictures[0] - pictures[2]).abs().mean(dim=0)
    side = int(len(cells.part) ** 0.5)
    changed = F.adaptive_avg_pool2d(difference[None], side).flatten() > _VISIBLE
    return pictures, cells.cells(changed)


def _mirrored(example: TrainingExample) -> TrainingExample:
    """The cells of the mirrored pictures."""
    side = int(len(example.part) ** 0.5)
    order = torch.arange(side * side).view(side, side).flip(1).flatten()

    def targets(cells: Tensor) -> Tensor:
        moved = cells[order]
        return torch.where(moved >= 0, order[moved.clamp(min=0)], moved)

    return replace(
        example,
        subject_1=example.subject_1[order],
        subject_2=example.subject_2[order],
        part=example.part[order],
        match=targets(example.match),
        landing=targets(example.landing),
    )


_TENSORS = ("pictures", "subject_1", "subject_2", "part", "match", "landing")
_FLAGS = ("has_altered_2", "exact")


def save_examples(examples: Sequence[TrainingExample], path: Path) -> None:
    """Write a shard, atomically."""
    rows = [{name: getattr(example, name) for name in _TENSORS} for example in examples]
    notes = {name: [getattr(example, name) for example in examples] for name in _FLAGS}
    write_rows(path, rows, {**notes, "subject": [example.subject for example in examples]})


class ExampleShards:
    """Examples on disk; a visit reads one example and nothing else.

    Args:
        paths: Files of :func:`save_examples`.

    Attributes:
        exact: Numbers of the examples whose correspondence is known.
        photographs: Numbers of the others.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._rows = RowShards(paths)
        known = self._rows.notes("exact")
        self.exact = [number for number, exact in enumerate(known) if exact]
        self.photographs = [number for number, exact in enumerate(known) if not exact]

    def read(self, number: int) -> TrainingExample:
        """One example of ``exact`` or ``photographs``."""
        values: dict[str, Any] = dict(self._rows[number])
        for name in (*_FLAGS, "subject"):
            values[name] = self._rows.notes(name)[number]
        return TrainingExample(**values)
