"""Selection of the stages of dataset generation by name.

A pretrained implementation is imported only when selected.
"""

from __future__ import annotations

from collections.abc import Callable

from vsm_fast.images.grabcut import GrabCutMasker
from vsm_fast.lab.pairs.alterations import LabChange, OfflineAlterer
from vsm_fast.lab.pairs.descriptor_parts import DescriptorParts
from vsm_fast.lab.pairs.stages import (
    Alterer,
    ChangeMeasure,
    PartSegmenter,
    Stages,
    SubjectMasker,
)
from vsm_fast.model.pretrained import ModelSource

MASKERS = ("grabcut", "grounded-sam")
PARTS = ("descriptors", "sam", "random")
ALTERERS = ("offline", "sdxl-inpainting", "sd2-inpainting", "flux-fill")
CHANGES = ("lab", "lpips")


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
