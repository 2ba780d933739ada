"""Replaceable stages of dataset generation: protocols, their results, and selection by name.

Each stage has an offline and a pretrained implementation (``vsm_fast.lab.pairs.pretrained``).
An implementation is imported only when selected.

Source: arXiv 2509.21989, the automated dataset of controlled inconsistencies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.pairs.pairs import Mask, Pixels

MASKERS = ("grabcut", "grounded-sam")
PARTS = ("descriptors", "sam", "random")
ALTERERS = ("offline", "sdxl-inpainting", "sd2-inpainting", "flux-fill")
CHANGES = ("lab", "lpips")


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


def make_stages(
    masker: str,
    parts: str,
    alterer: str,
    change: str,
    device: str = "auto",
    *,
    detector_model: str | None = None,
    sam_model: str | None = None,
    alterer_model: str | None = None,
) -> Stages:
    """Load the named stages.

    ``detector_model`` (Grounding DINO), ``sam_model`` and ``alterer_model`` (an inpainting pipeline
    of the same class as the default) are weights: a Hub repository ``"owner/name"`` or
    ``"owner/name@revision"``, or a folder; None selects the default.

    Raises:
        ValueError: If a name is unknown, or if weights are set for a stage that is not selected.
        ImportError: If a package is missing; the message names the extra.
        ModelError: If weights are missing; the message says how to fetch them.
    """
    selected = (masker, parts, alterer, change)
    for name, choices in zip(selected, (MASKERS, PARTS, ALTERERS, CHANGES), strict=True):
        if name not in choices:
            raise ValueError(f"unknown stage {name!r}. Choose one of {', '.join(choices)}.")
    use_sam = masker == "grounded-sam" or parts == "sam"
    # Ignored weights would make another dataset than the command line suggests.
    for name, model, used, stages in (
        ("detector", detector_model, masker == "grounded-sam", "masker grounded-sam"),
        ("SAM", sam_model, use_sam, "masker grounded-sam or the parts sam"),
        ("alterer", alterer_model, alterer != "offline", f"alterers {', '.join(ALTERERS[1:])}"),
    ):
        if model is not None and not used:
            raise ValueError(
                f"the {name} {model!r} is not used by masker {masker}, parts {parts}, alterer "
                f"{alterer}. Leave it out, or select the {stages}."
            )

    from vsm_fast.images.grabcut import GrabCutMasker
    from vsm_fast.lab.pairs.alterations import LabChange, OfflineAlterer
    from vsm_fast.lab.pairs.descriptor_parts import DescriptorParts
    from vsm_fast.model.pretrained import ModelSource

    def source(model: str | None, default: str) -> ModelSource:
        return ModelSource.parse(default if model is None else model)

    masks: SubjectMasker = GrabCutMasker()
    segmenter_of: Callable[[float], PartSegmenter] | None = DescriptorParts
    alters: Alterer = OfflineAlterer()
    measure: ChangeMeasure = LabChange()
    weights: dict[str, str] = {}
    if use_sam:
        from vsm_fast.images.grounded_sam import SAM, SegmentAnything

        sam = SegmentAnything.from_pretrained(source(sam_model, SAM), device=device)
    if masker == "grounded-sam":
        from vsm_fast.images.grounded_sam import GROUNDING_DINO, GroundedSam

        detector = source(detector_model, GROUNDING_DINO)
        masks = grounded = GroundedSam.from_pretrained(detector, sam, device=device)
        weights["detector"] = grounded.weights
    if use_sam:
        weights["sam"] = sam.weights
    if parts == "sam":
        from vsm_fast.lab.pairs.pretrained.sam_parts import SamParts

        sam_parts = SamParts(sam)

        def fixed(share: float) -> PartSegmenter:
            return sam_parts

        segmenter_of = fixed
    elif parts == "random":
        segmenter_of = None
    if alterer != "offline":
        from vsm_fast.lab.pairs.pretrained.inpainting import INPAINTING_MODELS, Inpainter

        pipeline = source(alterer_model, INPAINTING_MODELS[alterer].repository)
        alters = inpainter = Inpainter.from_pretrained(alterer, pipeline, device=device)
        weights["alterer"] = inpainter.weights
    if change == "lpips":
        from vsm_fast.lab.pairs.pretrained.lpips_change import LpipsChange, LpipsDistance

        measure = LpipsChange(LpipsDistance.from_pretrained(device=device))
    return Stages(masks, segmenter_of, alters, measure, weights)
