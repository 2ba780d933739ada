"""Replaceable stages of dataset generation, as protocols with their results.

Each stage has an offline and a pretrained implementation (``vsm_fast.lab.pairs.pretrained``).

Source: arXiv 2509.21989, the automated dataset of controlled inconsistencies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.pairs.pairs import Mask, Pixels


@dataclass(frozen=True, eq=False)
class SubjectView:
    """One view of a subject.

    Attributes:
        pixels: uint8 [H, W, 3].
        mask: bool [H, W], the subject.
        descriptors: float32 [h, w, C], unit length, 0 off the subject.
        box: (left, top, right, bottom) in pixels, the region of the descriptor grid.
    """

    pixels: Pixels
    mask: Mask
    descriptors: NDArray[np.float32]
    box: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class AlterationRequest:
    """Input of an alterer.

    Attributes:
        pixels: uint8 [H, W, 3].
        part: bool [H, W], the region to alter; inside ``mask``.
        mask: bool [H, W], the subject.
        subject: Its name.
        kind: One of the alterer's kinds; None draws one.
        rng: Source of all randomness.
        donor: uint8 [h, w, 3], another picture as a source of texture; None if there is none.
    """

    pixels: Pixels
    part: Mask
    mask: Mask
    subject: str
    kind: str | None
    rng: np.random.Generator
    donor: Pixels | None = None


@dataclass(frozen=True, eq=False)
class Alteration:
    """Result of an alterer.

    Attributes:
        pixels: uint8 [H, W, 3]; equal to the request's outside ``part``.
        part: bool [H, W], the altered region.
        kind: Kind of the alteration.
        details: Seeds, prompts, settings. JSON values.
    """

    pixels: Pixels
    part: Mask
    kind: str
    details: Mapping[str, Any] = field(default_factory=dict)


# (image uint8 [H, W, 3], subject name) -> subject mask bool [H, W]; None if not found.
SubjectMasker = Callable[[Pixels, str], Mask | None]
# (view, point (x, y) in pixels) -> part around the point, bool [H, W] inside the subject, or None.
PartSegmenter = Callable[[SubjectView, tuple[float, float]], Mask | None]


class Alterer(Protocol):
    """Changes the appearance of a part of a subject; ``kinds`` are the supported alterations."""

    kinds: tuple[str, ...]

    def __call__(self, request: AlterationRequest) -> Alteration:
        """Alter the part and nothing else."""
        ...


class ChangeMeasure(Protocol):
    """Perceptual distance of a part before and after an alteration.

    Attributes:
        name: Key of the change in the provenance of a pair.
        threshold: Smaller changes are rejected.
    """

    name: str
    threshold: float

    def __call__(self, before: Pixels, after: Pixels, part: Mask) -> float:
        """Return the change inside ``part`` (bool [H, W]) of images uint8 [H, W, 3]."""
        ...


@dataclass(frozen=True)
class Stages:
    """Selected implementations.

    Attributes:
        masker: Segments views that come without a mask.
        parts: Returns a segmenter for parts of about the given share of the subject; None
            selects a random part of view 1 and no part of view 2.
        alterer: Alters the part.
        change: Measures the change.
        weights: Loaded weights of pretrained stages, by component.
    """

    masker: SubjectMasker
    parts: Callable[[float], PartSegmenter] | None
    alterer: Alterer
    change: ChangeMeasure
    weights: Mapping[str, str] = field(default_factory=dict)
