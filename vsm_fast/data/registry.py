"""Stages of dataset generation by name; what needs other packages is imported when asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from vsm_fast.data.described_views import DescriptorParts
from vsm_fast.data.offline_stages import GrabCutMasker, LabChange, OfflineAlterer
from vsm_fast.data.pair_pipeline import Stages
from vsm_fast.data.stages import Alterer, ChangeMeasure, PartSegmenter, SubjectMasker

if TYPE_CHECKING:
    from vsm_fast.data.pretrained.sam import SegmentAnything

MASKERS = ("grabcut", "grounded-sam")
PARTS = ("descriptors", "sam", "random")
ALTERERS = ("offline", "sdxl-inpainting", "sd2-inpainting", "flux-fill")
CHANGES = ("lab", "lpips")


def make_stages(masker: str, parts: str, alterer: str, change: str, device: str = "auto") -> Stages:
    """The stages of these names.

    Raises:
        ValueError: An unknown name.
        ImportError: A package is missing; names the extra.
        ModelError: Weights are missing; says how to fetch them.
    """
    for name, known in ((masker, MASKERS), (parts, PARTS), (alterer, ALTERERS), (change, CHANGES)):
        if name not in known:
            raise ValueError(f"wanted one of {', '.join(known)}; got {name!r}.")
    return Stages(
        _masker(masker, device), _parts(parts, device), _alterer(alterer, device),
        _change(change, device),
    )  # fmt: skip


def _masker(name: str, device: str) -> SubjectMasker:
    if name == "grabcut":
        return GrabCutMasker()
    from vsm_fast.data.pretrained.grounded_sam import GroundedSam

    return GroundedSam.from_pretrained(sam=_segment_anything(device), device=device)


@lru_cache(maxsize=1)
def _segment_anything(device: str) -> SegmentAnything:
    """SAM, loaded once for masks and parts."""
    from vsm_fast.data.pretrained.sam import SegmentAnything

    return SegmentAnything.from_pretrained(device=device)


def _parts(name: str, device: str) -> Callable[[float], PartSegmenter] | None:
    if name == "random":
        return None
    if name == "descriptors":
        return DescriptorParts
    from vsm_fast.data.pretrained.sam_parts import SamParts

    segmenter = SamParts.from_pretrained(_segment_anything(device), device=device)
    return lambda share: segmenter


def _alterer(name: str, device: str) -> Alterer:
    if name == "offline":
        return OfflineAlterer()
    from vsm_fast.data.pretrained.inpainting import Inpainter

    return Inpainter.from_pretrained(name, device=device)


def _change(name: str, device: str) -> ChangeMeasure:
    if name == "lab":
        return LabChange()
    from vsm_fast.data.pretrained.lpips_change import LpipsChange

    return LpipsChange.from_pretrained(device=device)
