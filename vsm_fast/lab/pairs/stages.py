"""The stages of dataset generation that can be replaced, as protocols and what passes between them.

Each has an offline implementation and one with pretrained models (``vsm_fast.lab.pairs.pretrained``).

Source: arXiv 2509.21989, the automated dataset of controlled inconsistencies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.pairs.pairs import Mask, Pixels


@dataclass(frozen=True, eq=False)
class DescribedView:
    """One view of a subject with what is known of it.

    Attributes:
        pixels: uint8 [H, W, 3].
        mask: bool [H, W], the subject.
        descriptors: float32 [h, w, C], unit length, of the cells of the descriptor grid; None
            when nothing was described.
        box: (left, top, right, bottom) in pixels, the region that the grid covers.
    """

    pixels: Pixels
    mask: Mask
    descriptors: NDArray[np.float32] | None = None
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, eq=False)
class AlterationRequest:
    """What to alter.

    Attributes:
        pixels: uint8 [H, W, 3].
        part: bool [H, W], what to alter; inside ``mask``.
        mask: bool [H, W], the subject.
        subject: Its name.
        kind: One of the alterer's kinds; None lets it draw one.
        rng: All randomness comes from here.
        donor: uint8 [h, w, 3], another picture to take texture from; None when there is none.
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
    """What was altered.

    Attributes:
        pixels: uint8 [H, W, 3]; equal to the request's outside ``part``.
        part: bool [H, W], what was altered.
        kind: How.
        details: Seeds, prompts, settings. JSON values.
    """

    pixels: Pixels
    part: Mask
    kind: str
    details: Mapping[str, Any] = field(default_factory=dict)


class SubjectMasker(Protocol):
    """Finds the subject of an image.

    Attributes:
        name: ``"given"``, ``"alpha"``, ``"grounded-sam"`` or ``"grabcut"``.
    """

    name: str

    def __call__(self, pixels: Pixels, subject: str) -> Mask | None:
        """Bool [H, W] of the subject that is called ``subject``; None when it is not found."""
        ...


class PartSegmenter(Protocol):
    """Finds a part of a subject.

    Attributes:
        name: ``"sam"`` or ``"descriptors"``.
    """

    name: str

    def __call__(self, view: DescribedView, point: tuple[float, float]) -> Mask | None:
        """Bool [H, W], the part around ``point`` (x, y in pixels), inside the subject; or None."""
        ...


class Alterer(Protocol):
    """Changes how a part of a subject looks.

    Attributes:
        name: ``"offline"``, ``"sdxl-inpainting"``, ``"sd2-inpainting"`` or ``"flux-fill"``.
        kinds: The alterations that it knows.
    """

    name: str
    kinds: tuple[str, ...]

    def __call__(self, request: AlterationRequest) -> Alteration:
        """Alter the part; pixels outside it stay as they are."""
        ...


class ChangeMeasure(Protocol):
    """How much a part changed, as people see it.

    Attributes:
        name: ``"lpips"`` or ``"lab"``.
        threshold: A part that changed less is rejected.
    """

    name: str
    threshold: float

    def __call__(self, before: Pixels, after: Pixels, part: Mask) -> float:
        """Change inside ``part`` (bool [H, W]) from ``before`` to ``after`` (uint8 [H, W, 3])."""
        ...
