"""Dataset generation: mask two views, match them, segment a part, alter it, filter.

Source: arXiv 2509.21989, the automated dataset of controlled inconsistencies. Every stage is
replaceable (``stages``); rejections are counted by reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.pairs.alterations import random_part
from vsm_fast.lab.pairs.descriptor_parts import centres_of, extract_view
from vsm_fast.lab.pairs.pair_inputs import PairInput, TwoViews
from vsm_fast.lab.pairs.pairs import ControlledPair, Mask, Pixels
from vsm_fast.lab.pairs.semantic_matches import trusted_matches
from vsm_fast.lab.pairs.stages import AlterationRequest, Stages, SubjectView
from vsm_fast.scorer import VSMScorer

_LEAST_SUBJECT = 0.01  # of the image
_FEWEST_POINTS = 4
_MOST_MASKS = 4096  # packed: 32 KiB for an image of 512 x 512
_TRIES = 12  # draws per pair


@dataclass(frozen=True)
class PairSettings:
    """Limits of the filters; the paper's values where the embedded model allows them.

    Attributes:
        size: Longer side of the stored images in pixels; larger images are reduced.
        unaltered: Share of unaltered pairs.
        other_subjects: Share of pairs of two subjects.
        area: Range of ``area(part) / area(subject)`` in both views.
        area_difference: Upper bound of the difference of the relative areas of both parts.
        aspect_difference: Upper bound of the difference of the aspect ratios of their boxes.
        similarity: Lower bound of the score of a semantic match; the paper's 0.7 is for CleanDIFT.
        skewness: Lower bound of the skewness of its row; None disables the filter.
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
        shares = (self.unaltered, self.other_subjects)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(
                "the shares of unaltered pairs and of pairs of two subjects must be at least 0 and "
                f"at most 1 together; got {self.unaltered} and {self.other_subjects}."
            )
        if self.size < 64:
            raise ValueError(f"size must be at least 64 pixels; got {self.size}.")


class Rejected(Exception):
    """A filter rejected two views or a part; the message is the reason."""


class PairMaker:
    """Makes controlled pairs from a source of two views.

    The seed and the number of the pair determine every draw. ``inputs`` holds the weights of the
    pretrained stages.
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
        if not kinds or not set(kinds) <= set(stages.alterer.kinds):
            raise ValueError(
                f"kinds must be of {', '.join(stages.alterer.kinds)}; got {', '.join(kinds)}."
            )
        self._source, self._scorer, self._stages = source, scorer, stages
        self._settings, self._kinds, self._seed = settings, list(kinds), seed
        self._donors = source.pictures()
        self._masks: dict[str, NDArray[np.uint8] | None] = {}
        self.inputs: Mapping[str, Any] = stages.weights

    def make(self, number: int) -> tuple[ControlledPair | None, list[str]]:
        """Return pair ``number`` and the reasons of its rejected draws.

        The pair is None if every draw was rejected.
        """
        settings = self._settings
        plan = np.random.default_rng((self._seed, number, 0)).random()
        two_subjects = plan < settings.other_subjects
        unaltered = not two_subjects and plan < settings.other_subjects + settings.unaltered
        reasons: list[str] = []
        for attempt in range(1, _TRIES + 1):
            rng = np.random.default_rng((self._seed, number, attempt))
            try:
                views = self._draw(rng)
                kind, changes, details = "none", dict[str, Any](), dict[str, Any]()
                if two_subjects:
                    kind, other = "other subject", self._draw(rng)
                    if other.subject == views.subject:
                        raise Rejected("the same subject was drawn twice")
                    views = TwoViews(
                        views.subject, "photo", (other.pixels[0], views.pixels[1]),
                        (other.masks[0], views.masks[1]), (other.origins[0], views.origins[1]),
                    )  # fmt: skip
                    changes = {"part_1": other.masks[0]}
                elif not unaltered:
                    kind, changes, details = self._alter(views, rng)
            except Rejected as reason:
                reasons.append(str(reason))
                continue
            fields: dict[str, Any] = {
                "altered_1": views.pixels[0],
                "part_1": np.zeros_like(views.masks[0]),
                "points": views.points,
                **changes,
            }
            pair = ControlledPair(
                id=f"pair-{number:06d}",
                subject=views.subject,
                view=views.view,
                kind=kind,
                original_1=views.pixels[0],
                original_2=views.pixels[1],
                mask_1=views.masks[0],
                mask_2=views.masks[1],
                provenance={
                    "seed": [self._seed, number, attempt],
                    "origins": list(views.origins),
                    **details,
                },
                **fields,
            )
            return pair, reasons
        return None, reasons

    def _draw(self, rng: np.random.Generator) -> TwoViews:
        """Draw two views at the stored size."""
        views = self._source.draw(rng, self._donors, self._mask_of)
        if min(mask.mean() for mask in views.masks) < _LEAST_SUBJECT:
            raise Rejected("subject too small")
        (first, mask_1), (second, mask_2) = (
            _reduced(pixels, mask, self._settings.size)
            for pixels, mask in zip(views.pixels, views.masks, strict=True)
        )
        points = views.points
        if points is not None:
            scale = [
                small.shape[1] / pixels.shape[1]
                for small, pixels in zip((first, second), views.pixels, strict=True)
            ]
            points = points * np.repeat(np.array(scale, np.float32), 2)
        return replace(views, pixels=(first, second), masks=(mask_1, mask_2), points=points)

    def _mask_of(self, pixels: Pixels, subject: str, origin: str) -> Mask:
        """Segment an image once, however often it is drawn."""
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

    def _alter(
        self, views: TwoViews, rng: np.random.Generator
    ) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Alter a part of view 1; return kind, changed fields of the pair, and details."""
        settings, stages, (mask_1, mask_2) = self._settings, self._stages, views.masks
        share = float(rng.uniform(*settings.area))
        points, part_2 = views.points, None
        if stages.parts is None:
            part_1 = random_part(rng, mask_1, area_share=(share, share))
        else:
            first, second = (
                extract_view(self._scorer, pixels, mask)
                for pixels, mask in zip(views.pixels, views.masks, strict=True)
            )
            if points is None:
                points = self._match(first, second)
            x1, y1, x2, y2 = map(float, points[int(rng.integers(len(points)))])
            segment = stages.parts(share)
            segmented, part_2 = segment(first, (x1, y1)), segment(second, (x2, y2))
            if segmented is None or part_2 is None:
                raise Rejected("no part at the match")
            part_1 = segmented
            areas = [
                np.count_nonzero(part) / np.count_nonzero(mask)
                for part, mask in ((part_1, mask_1), (part_2, mask_2))
            ]
            if min(areas) < settings.area[0] or max(areas) > settings.area[1]:
                raise Rejected("part too small or too large")
            if abs(areas[0] - areas[1]) > settings.area_difference:
                raise Rejected("parts of different relative area")
            if abs(_aspect(part_1) - _aspect(part_2)) > settings.aspect_difference:
                raise Rejected("parts of different aspect ratio")
        kind = str(rng.choice(self._kinds))
        donor = self._donors[int(rng.integers(len(self._donors)))]
        result = stages.alterer(
            AlterationRequest(views.pixels[0], part_1, mask_1, views.subject, kind, rng, donor)
        )
        changed = result.part & mask_1
        if not (
            settings.area[0]
            <= np.count_nonzero(changed) / np.count_nonzero(mask_1)
            <= settings.area[1]
        ):
            raise Rejected("too little or too much changed")
        change = stages.change(views.pixels[0], result.pixels, result.part)
        if change < stages.change.threshold:
            raise Rejected("the change cannot be seen")
        fields = {
            "altered_1": result.pixels, "part_1": changed, "part_2": part_2, "points": points,
        }  # fmt: skip
        return result.kind, fields, {"share": share, stages.change.name: change, **result.details}

    def _match(self, *views: SubjectView) -> NDArray[np.float32]:
        """Match two views semantically; return points, float32 [K, 4] in pixels."""
        import torch

        cells, flat = [], []
        for view in views:
            descriptors = torch.from_numpy(view.descriptors.reshape(-1, view.descriptors.shape[2]))
            cells.append(descriptors.abs().sum(1).nonzero()[:, 0])
            flat.append(descriptors[cells[-1]])
        source, target = flat
        matches = trusted_matches(
            source, target, self._settings.similarity, self._settings.skewness
        )
        if len(matches) < _FEWEST_POINTS:
            raise Rejected("too few trusted matches")
        return np.concatenate(
            [centres_of(view)[cells[n][matches[:, n]].numpy()] for n, view in enumerate(views)],
            axis=1,
        )


def _reduced(pixels: Pixels, mask: Mask, size: int) -> tuple[Pixels, Mask]:
    """Reduce image and mask to a longer side of at most ``size`` pixels."""
    height, width = mask.shape
    scale = size / max(height, width)
    if scale >= 1:
        return pixels, mask
    small = max(1, round(width * scale)), max(1, round(height * scale))
    reduced: Pixels = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    share = cv2.resize(mask.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    return reduced, np.asarray(share > 0.5)


def _aspect(part: Mask) -> float:
    """Return the shorter by the longer side of the bounding box, in (0, 1]."""
    rows, columns = np.nonzero(part)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    return float(min(height, width) / max(height, width))
