"""From two views to a controlled pair: mask, match, segment a part, alter it, filter.

Source: arXiv 2509.21989, the automated dataset of controlled inconsistencies. Every stage can be
replaced (``stages``); what a pair is rejected for is counted by reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.pairs.alterations import random_part
from vsm_fast.lab.pairs.described_views import centres_of, describe_view
from vsm_fast.lab.pairs.pair_inputs import PairInput, TwoViews
from vsm_fast.lab.pairs.pairs import ControlledPair, Mask, Pixels
from vsm_fast.lab.pairs.semantic_matches import trusted_matches
from vsm_fast.lab.pairs.stages import (
    AlterationRequest,
    Alterer,
    ChangeMeasure,
    DescribedView,
    PartSegmenter,
    SubjectMasker,
)
from vsm_fast.scorer import VSMScorer

_LEAST_SUBJECT = 0.01  # of the image
_FEWEST_POINTS = 4
_MOST_MASKS = 4096  # packed: 32 KiB of a 512 x 512 image
_TRIES = 12  # of one pair, each with new draws


@dataclass(frozen=True)
class PairSettings:
    """Limits of the filters; the defaults are the paper's where our own model allows.

    Attributes:
        size: Longer side of the stored images in pixels; larger ones are reduced.
        unaltered: Share of pairs that stay as they are.
        other_subjects: Share of pairs of two subjects.
        area: Least and most ``area(part) / area(subject)``, in both views.
        area_difference: Most difference of the relative areas of the two part masks.
        aspect_difference: Most difference of the aspect ratios of their boxes.
        similarity: Least score of a semantic match; the paper's 0.7 is for CleanDIFT.
        skewness: Least skewness of its row; None switches the filter off.
    """

    size: int = 512
    unaltered: float = 0.125
    other_subjects: float = 0.0
    area: tuple[float, float] = (0.05, 0.6)
    area_difference: float = 0.1
    aspect_difference: float = 0.2
    similarity: float = 0.5
    skewness: float | None = 1.3

    def __post_init__(self) -> None:
        if not 0 < self.area[0] < self.area[1] < 1:
            raise ValueError(f"area must rise within (0, 1); got {self.area}.")
        if min(self.unaltered, self.other_subjects) < 0:
            raise ValueError("shares of unaltered and of other pairs must not be negative.")
        if self.unaltered + self.other_subjects > 1:
            raise ValueError("shares of unaltered and of other pairs must not exceed 1 together.")
        if self.size < 64:
            raise ValueError(f"size must be at least 64 pixels; got {self.size}.")


@dataclass(frozen=True)
class Stages:
    """The implementations in use.

    Attributes:
        masker: For views without a mask of their own.
        parts: Makes a segmenter of parts that cover about a share of the subject; None takes a
            random part of view 1 and none of view 2.
        alterer: Changes the part.
        change: Judges the change.
        weights: Of the pretrained stages: the part of a stage and what was loaded for it.
    """

    masker: SubjectMasker
    parts: Callable[[float], PartSegmenter] | None
    alterer: Alterer
    change: ChangeMeasure
    weights: Mapping[str, str] = field(default_factory=dict)


class Rejected(Exception):
    """Two views or a part that a filter turned down; the message is the reason."""


class PairMaker:
    """Makes controlled pairs from an input.

    Args:
        source: Two views.
        scorer: Describes the views; its semantic descriptors match them.
        stages: Implementations.
        settings: Limits.
        kinds: Alterations to draw from.
        seed: With a pair's number it decides every draw.
    """

    def __init__(
        self,
        source: PairInput,
        scorer: VSMScorer,
        stages: Stages,
        settings: PairSettings,
        kinds: Sequence[str],
        seed: int,
    ) -> None:
        unknown = sorted(set(kinds) - set(stages.alterer.kinds))
        if unknown or not kinds:
            raise ValueError(
                f"kinds must be of {', '.join(stages.alterer.kinds)}; got {', '.join(kinds)}."
            )
        self._source, self._scorer, self._stages = source, scorer, stages
        self._settings, self._kinds, self._seed = settings, tuple(kinds), seed
        self._donors = source.pictures()
        self._masks: dict[str, NDArray[np.uint8] | None] = {}

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The weights of pretrained stages."""
        return self._stages.weights

    def make(self, number: int) -> tuple[ControlledPair | None, list[str]]:
        """Pair ``number``, and the reasons why earlier draws of it were rejected.

        Returns:
            No pair when every draw was rejected.
        """
        plan = np.random.default_rng((self._seed, number, 0)).random()
        other = plan < self._settings.other_subjects
        untouched = not other and plan < self._settings.other_subjects + self._settings.unaltered
        reasons: list[str] = []
        for attempt in range(1, _TRIES + 1):
            rng = np.random.default_rng((self._seed, number, attempt))
            try:
                views = self._drawn(rng)
                if other:
                    return self._of_two_subjects(number, attempt, views, rng), reasons
                if untouched:
                    return self._pair(number, attempt, views, "none", {}), reasons
                return self._altered(number, attempt, views, rng), reasons
            except Rejected as reason:
                reasons.append(str(reason))
        return None, reasons

    def _drawn(self, rng: np.random.Generator) -> TwoViews:
        """Two views at the stored size."""
        views = self._source.draw(rng, self._donors, self._mask_of)
        pixels, masks = [], []
        for picture, mask in zip(views.pixels, views.masks, strict=True):
            if mask.mean() < _LEAST_SUBJECT:
                raise Rejected("subject too small")
            small, small_mask = _reduced(picture, mask, self._settings.size)
            pixels.append(small)
            masks.append(small_mask)
        points = views.points
        if points is not None:
            scale = [
                small.shape[1] / picture.shape[1]
                for small, picture in zip(pixels, views.pixels, strict=True)
            ]
            points = points * np.repeat(np.array(scale, np.float32), 2)
        return replace(
            views, pixels=(pixels[0], pixels[1]), masks=(masks[0], masks[1]), points=points
        )

    def _mask_of(self, pixels: Pixels, subject: str, origin: str) -> Mask:
        """The masker's mask; an image is segmented once, however often it is drawn."""
        if origin not in self._masks:
            if len(self._masks) >= _MOST_MASKS:
                self._masks.clear()
            mask = self._stages.masker(pixels, subject)
            self._masks[origin] = None if mask is None else np.packbits(mask)
        packed = self._masks[origin]
        if packed is None:
            raise Rejected("subject not found")
        height, width = pixels.shape[:2]
        return np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool)

    def _of_two_subjects(
        self, number: int, attempt: int, views: TwoViews, rng: np.random.Generator
    ) -> ControlledPair:
        stranger = self._drawn(rng)
        if stranger.subject == views.subject:
            raise Rejected("the same subject was drawn twice")
        mixed = TwoViews(
            views.subject, "photo", (stranger.pixels[0], views.pixels[1]),
            (stranger.masks[0], views.masks[1]), (stranger.origins[0], views.origins[1]),
        )  # fmt: skip
        part = stranger.masks[0]
        return self._pair(number, attempt, mixed, "other subject", {"part_1": part})

    def _altered(
        self, number: int, attempt: int, views: TwoViews, rng: np.random.Generator
    ) -> ControlledPair:
        mask_1, mask_2 = views.masks
        settings, stages = self._settings, self._stages
        share = float(rng.uniform(*settings.area))
        points, part_2 = views.points, None
        if stages.parts is None:
            part_1 = random_part(rng, mask_1, area_share=(share, share))
        else:
            described = [
                describe_view(self._scorer, pixels, mask)
                for pixels, mask in zip(views.pixels, (mask_1, mask_2), strict=True)
            ]
            if points is None:
                points = self._matched(described)
            chosen = points[int(rng.integers(len(points)))]
            segment = stages.parts(share)
            found_1 = segment(described[0], (float(chosen[0]), float(chosen[1])))
            found_2 = segment(described[1], (float(chosen[2]), float(chosen[3])))
            if found_1 is None or found_2 is None:
                raise Rejected("no part at the match")
            self._check_parts((found_1, found_2), (mask_1, mask_2))
            part_1, part_2 = found_1, found_2
        kind = str(rng.choice(list(self._kinds)))
        donor = self._donors[int(rng.integers(len(self._donors)))]
        result = stages.alterer(
            AlterationRequest(views.pixels[0], part_1, mask_1, views.subject, kind, rng, donor)
        )
        covered = np.count_nonzero(result.part & mask_1) / np.count_nonzero(mask_1)
        if not settings.area[0] <= covered <= settings.area[1]:
            raise Rejected("too little or too much changed")
        change = stages.change(views.pixels[0], result.pixels, result.part)
        if change < stages.change.threshold:
            raise Rejected("the change cannot be seen")
        return self._pair(
            number, attempt, views, result.kind,
            {
                "altered_1": result.pixels, "part_1": result.part & mask_1, "part_2": part_2,
                "points": points,
            },
            {"share": share, stages.change.name: change, **result.details},
        )  # fmt: skip

    def _matched(self, views: Sequence[DescribedView]) -> NDArray[np.float32]:
        """Points of trusted semantic matches, float32 [K, 4] in pixels."""
        import torch

        cells = []
        for view in views:
            assert view.descriptors is not None
            flat = torch.from_numpy(view.descriptors.reshape(-1, view.descriptors.shape[2]))
            cells.append((flat, flat.abs().sum(1).nonzero()[:, 0]))
        (first, on_1), (second, on_2) = cells
        matches = trusted_matches(
            first[on_1], second[on_2], self._settings.similarity, self._settings.skewness
        )
        if len(matches) < _FEWEST_POINTS:
            raise Rejected("too few trusted matches")
        centres = [centres_of(view) for view in views]
        return np.concatenate(
            [
                centres[0][on_1[matches[:, 0]].numpy()],
                centres[1][on_2[matches[:, 1]].numpy()],
            ],
            axis=1,
        )

    def _check_parts(self, parts: tuple[Mask, Mask], masks: tuple[Mask, Mask]) -> None:
        settings = self._settings
        shares = [
            np.count_nonzero(part) / np.count_nonzero(mask)
            for part, mask in zip(parts, masks, strict=True)
        ]
        if min(shares) < settings.area[0] or max(shares) > settings.area[1]:
            raise Rejected("part too small or too large")
        if abs(shares[0] - shares[1]) > settings.area_difference:
            raise Rejected("parts of different relative area")
        if abs(_aspect(parts[0]) - _aspect(parts[1])) > settings.aspect_difference:
            raise Rejected("parts of different aspect ratio")

    def _pair(
        self,
        number: int,
        attempt: int,
        views: TwoViews,
        kind: str,
        made: Mapping[str, Any],
        details: Mapping[str, Any] | None = None,
    ) -> ControlledPair:
        mask_1, mask_2 = views.masks
        fields = {
            "altered_1": views.pixels[0],
            "part_1": np.zeros_like(mask_1),
            "points": views.points,
            **made,
        }
        return ControlledPair(
            id=f"pair-{number:06d}",
            subject=views.subject,
            view=views.view,
            kind=kind,
            original_1=views.pixels[0],
            original_2=views.pixels[1],
            mask_1=mask_1,
            mask_2=mask_2,
            provenance={
                "seed": [self._seed, number, attempt],
                "origins": list(views.origins),
                **(details or {}),
            },
            **fields,
        )


def _reduced(picture: Pixels, mask: Mask, size: int) -> tuple[Pixels, Mask]:
    """Picture and mask with a longer side of at most ``size`` pixels."""
    height, width = mask.shape
    scale = size / max(height, width)
    if scale >= 1:
        return picture, mask
    small = max(1, round(width * scale)), max(1, round(height * scale))
    pixels: Pixels = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    share = cv2.resize(mask.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    return pixels, np.asarray(share > 0.5)


def _aspect(part: Mask) -> float:
    """Width by height of the box, or its inverse: in (0, 1]."""
    rows, columns = np.nonzero(part)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    return float(min(height, width) / max(height, width))
