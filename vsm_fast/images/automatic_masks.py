"""Automatic subject masks: GrabCut, or Grounding DINO and SAM."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from vsm_fast.errors import ModelError
from vsm_fast.files import FolderState, folder_state

if TYPE_CHECKING:
    from vsm_fast.images.grounded_sam import GroundedSam

Method = Literal["auto", "grabcut", "grounded-sam"]
METHODS: tuple[Method, ...] = ("auto", "grabcut", "grounded-sam")

_LEAST_SIDE = 8  # pixels
_MOST_SLENDER = 16  # aspect ratio; detectors scale longer images to zero width
_model_lock = Lock()  # one load, and one call at a time: a model uses the whole machine


@dataclass(frozen=True)
class AutoMask:
    """Request to find the subject, in place of a mask. An alpha channel takes precedence.

    Attributes:
        subject: Name of the subject, like ``"bear plushie"``; underscores and numbers, as in folder
            names, are ignored. Only Grounding DINO uses it.
        method: ``"grabcut"``: a central subject unlike its surroundings. ``"grounded-sam"`` (extra
            ``lab``): Grounding DINO locates ``subject`` and SAM outlines it; both are fetched from
            the Hub on first use. ``"auto"``: grounded-sam if a model is named, or if a subject is
            named and transformers and both models are installed; else grabcut.
        detector: Grounding DINO as ``"owner/name"``, ``"owner/name@revision"`` or a folder;
            None = the default model.
        sam: The same for SAM.
        device: Device of these models: ``"auto"`` (CUDA if available), or a torch device.

    Raises:
        ValueError: If ``method`` is unknown, or does not fit the model or subject.
    """

    subject: str = ""
    method: Method = "auto"
    detector: str | None = None
    sam: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"method of masks must be one of {', '.join(METHODS)}; got {self.method!r}."
            )
        names_model = self.detector is not None or self.sam is not None
        if self.method == "grabcut" and names_model:
            raise ValueError(
                "GrabCut loads no model. Omit detector and sam, or choose grounded-sam."
            )
        if not self.subject.strip() and (names_model or self.method == "grounded-sam"):
            raise ValueError(
                "Grounding DINO needs the name of the subject, like AutoMask('bear plushie')."
            )

    def chosen_method(self) -> Literal["grabcut", "grounded-sam"]:
        """Return the method in use, with ``"auto"`` resolved."""
        if self.method != "auto":
            return self.method
        if self.detector is not None or self.sam is not None:
            return "grounded-sam"
        return "grounded-sam" if self.subject.strip() and _models_are_here() else "grabcut"

    def load(self) -> None:
        """Load the method, so that missing parts are reported before the work starts.

        Raises:
            ImportError: If a package is missing. Names the extra.
            ModelError: If a model is missing. Says how to fetch it.
            ValueError: If the name of a model is invalid.
        """
        if self.chosen_method() == "grabcut":
            import vsm_fast.images.grabcut  # noqa: F401 - needs OpenCV
        else:
            with _model_lock:
                self._models()

    def find(self, pixels: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
        """Find the subject of an image. Thread-safe.

        Args:
            pixels: uint8 [H, W, 3], RGB.

        Returns:
            bool [H, W], True on the subject; None if there is none, for sides under 8 pixels, and
            for aspect ratios above 16.

        Raises:
            ImportError, ModelError, ValueError: As in :meth:`load`.
        """
        short, long = sorted(pixels.shape[:2])
        if short < _LEAST_SIDE or long > _MOST_SLENDER * short:
            return None
        if self.chosen_method() == "grabcut":
            from vsm_fast.images.grabcut import GrabCutMasker

            return GrabCutMasker()(pixels, self.subject)
        with _model_lock:
            return self._models()(pixels, self.subject)

    def _models(self) -> GroundedSam:
        """Return both models, reloaded if a folder has changed since the last call."""
        folders = [Path(name).absolute() for name in (self.detector, self.sam) if name is not None]
        states = tuple(folder_state(folder) for folder in folders)
        return _grounded_sam(self.detector, self.sam, self.device, states)


@lru_cache(maxsize=1)
def _models_are_here() -> bool:
    """Return whether Grounding DINO and SAM are available without a download."""
    if find_spec("transformers") is None:
        return False
    from vsm_fast.images.grounded_sam import GROUNDING_DINO, SAM
    from vsm_fast.model.pretrained import ModelSource, find_folder

    try:
        for name in (GROUNDING_DINO, SAM):
            find_folder(ModelSource(name, local_files_only=True), "automatic masks")
    except ModelError:
        return False
    return True


@lru_cache(maxsize=1)
def _grounded_sam(
    detector: str | None, sam: str | None, device: str, _states: tuple[FolderState, ...]
) -> GroundedSam:
    from vsm_fast.images.grounded_sam import GROUNDING_DINO, SAM, GroundedSam
    from vsm_fast.model.pretrained import ModelSource

    return GroundedSam.from_pretrained(
        ModelSource.parse(GROUNDING_DINO if detector is None else detector),
        ModelSource.parse(SAM if sam is None else sam),
        device=device,
    )
