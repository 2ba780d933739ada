"""Stages of dataset generation by name; what needs other packages is imported when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vsm_fast.files import FolderState, folder_state
from vsm_fast.images.grabcut import GrabCutMasker
from vsm_fast.lab.pairs.described_views import DescriptorParts
from vsm_fast.lab.pairs.offline_stages import LabChange, OfflineAlterer
from vsm_fast.lab.pairs.pair_pipeline import Stages
from vsm_fast.lab.pairs.stages import Alterer, ChangeMeasure, PartSegmenter, SubjectMasker

if TYPE_CHECKING:
    from vsm_fast.images.grounded_sam import SegmentAnything
    from vsm_fast.model.pretrained import ModelSource

MASKERS = ("grabcut", "grounded-sam")
PARTS = ("descriptors", "sam", "random")
ALTERERS = ("offline", "sdxl-inpainting", "sd2-inpainting", "flux-fill")
CHANGES = ("lab", "lpips")


@dataclass(frozen=True)
class StageModels:
    """Other weights for the pretrained stages; None = the usual ones.

    Each is a Hub repository ``"owner/name"``, perhaps ``"owner/name@revision"``, or a folder.

    Attributes:
        detector: Grounding DINO, of the masker ``"grounded-sam"``.
        sam: SAM, of the masker ``"grounded-sam"`` and the parts ``"sam"``.
        alterer: The inpainting pipeline, of the same class as the usual one.
    """

    detector: str | None = None
    sam: str | None = None
    alterer: str | None = None


def make_stages(
    masker: str,
    parts: str,
    alterer: str,
    change: str,
    device: str = "auto",
    models: StageModels | None = None,
) -> Stages:
    """The stages of these names.

    Raises:
        ValueError: An unknown name, or weights for a stage that was not chosen.
        ImportError: A package is missing; names the extra.
        ModelError: Weights are missing; says how to fetch them.
    """
    for name, known in ((masker, MASKERS), (parts, PARTS), (alterer, ALTERERS), (change, CHANGES)):
        if name not in known:
            raise ValueError(f"wanted one of {', '.join(known)}; got {name!r}.")
    models = models or StageModels()
    _check_models(models, masker, parts, alterer)
    weights: dict[str, str] = {}  # each pretrained stage adds its own
    return Stages(
        _masker(masker, device, models, weights),
        _parts(parts, device, models, weights),
        _alterer(alterer, device, models, weights),
        _change(change, device),
        weights,
    )


def _check_models(models: StageModels, masker: str, parts: str, alterer: str) -> None:
    """Refuse weights that nothing would load: a dataset would not be what its maker thinks."""
    for name, given, used, where in (
        ("detector", models.detector, masker == "grounded-sam", "masker grounded-sam"),
        (
            "SAM", models.sam, masker == "grounded-sam" or parts == "sam",
            "masker grounded-sam and the parts sam",
        ),
        ("alterer", models.alterer, alterer != "offline", f"alterers {', '.join(ALTERERS[1:])}"),
    ):  # fmt: skip
        if given is not None and not used:
            raise ValueError(
                f"no stage would load the {name} {given!r}: it is for the {where}; got masker "
                f"{masker}, parts {parts}, alterer {alterer}. Leave it out, or choose such a stage."
            )


def _source(chosen: str | None, usual: str) -> ModelSource:
    from vsm_fast.model.pretrained import ModelSource

    return ModelSource.parse(usual if chosen is None else chosen)


def _masker(name: str, device: str, models: StageModels, weights: dict[str, str]) -> SubjectMasker:
    if name == "grabcut":
        return GrabCutMasker()
    from vsm_fast.images.grounded_sam import GROUNDING_DINO, GroundedSam

    detector, sam = _source(models.detector, GROUNDING_DINO), _segment_anything(device, models.sam)
    masker = GroundedSam.from_pretrained(detector, sam, device=device)
    weights.update(detector=masker.weights, sam=sam.weights)
    return masker


def _segment_anything(device: str, model: str | None) -> SegmentAnything:
    return _loaded_sam(device, model, folder_state(Path(model).absolute()) if model else ())


@lru_cache(maxsize=1)
def _loaded_sam(device: str, model: str | None, state: FolderState) -> SegmentAnything:
    """SAM, loaded once for masks and parts; a folder in another state holds another model."""
    from vsm_fast.images.grounded_sam import SAM, SegmentAnything

    return SegmentAnything.from_pretrained(_source(model, SAM), device=device)


def _parts(
    name: str, device: str, models: StageModels, weights: dict[str, str]
) -> Callable[[float], PartSegmenter] | None:
    if name == "random":
        return None
    if name == "descriptors":
        return DescriptorParts
    from vsm_fast.lab.pairs.pretrained.sam_parts import SamParts

    sam = _segment_anything(device, models.sam)
    weights.update(sam=sam.weights)
    segmenter = SamParts.from_pretrained(sam, device=device)
    return lambda share: segmenter


def _alterer(name: str, device: str, models: StageModels, weights: dict[str, str]) -> Alterer:
    if name == "offline":
        return OfflineAlterer()
    from vsm_fast.lab.pairs.pretrained.inpainting import PRESETS, Inpainter

    source = _source(models.alterer, PRESETS[name].repository)
    alterer = Inpainter.from_pretrained(name, source, device=device)
    weights.update(alterer=alterer.weights)
    return alterer


def _change(name: str, device: str) -> ChangeMeasure:
    if name == "lab":
        return LabChange()
    from vsm_fast.lab.pairs.pretrained.lpips_change import LpipsChange

    return LpipsChange.from_pretrained(device=device)
