"""Subject masks for images that come without one: by GrabCut, or by Grounding DINO and SAM."""

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
_MOST_SLENDER = 16  # times as long as wide; detectors scale what is longer to no width at all
_one_at_a_time = Lock()  # a model is loaded once, and fills the machine by itself


@dataclass(frozen=True)
class AutoMask:
    """In the place of a mask: find the subject.

    An alpha channel is preferred where an image has one.

    Attributes:
        subject: What to look for, like ``"bear plushie"``; underscores and numbers, as in names
            of folders, are left out. Only Grounding DINO reads it.
        method: ``"grabcut"`` (extra ``masks``): central and unlike the rest. ``"grounded-sam"``
            (extra ``pairs``): Grounding DINO finds what ``subject`` says and SAM outlines it,
            fetched from the Hub on first use. ``"auto"``: grounded-sam where a subject is named
            and transformers and both models are here already, or where a model is named;
            else grabcut.
        detector: Grounding DINO as ``"owner/name"``, ``"owner/name@revision"`` or a folder;
            None = the usual one.
        sam: The same for SAM.
        device: ``"auto"`` (CUDA when there is one), or a torch device, of these models.

    Raises:
        ValueError: Another method, or a model or no subject with a method that does not fit it.
    """

    subject: str = ""
    method: Method = "auto"
    detector: str | None = None
    sam: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"a method of masks is one of {', '.join(METHODS)}; got {self.method!r}."
            )
        names_model = self.detector is not None or self.sam is not None
        if self.method == "grabcut" and names_model:
            raise ValueError(
                "GrabCut loads no model; leave detector and sam out, or take grounded-sam."
            )
        if not self.subject.strip() and (names_model or self.method == "grounded-sam"):
            raise ValueError(
                "Grounding DINO must be told what to look for, like AutoMask('bear plushie')."
            )

    def chosen_method(self) -> Literal["grabcut", "grounded-sam"]:
        """``"grabcut"`` or ``"grounded-sam"``: what ``"auto"`` is here."""
        if self.method != "auto":
            return self.method
        if self.detector is not None or self.sam is not None:
            return "grounded-sam"
        return "grounded-sam" if self.subject.strip() and _models_are_here() else "grabcut"

    def load(self) -> None:
        """Load what finds the mask, so that what is missing is known before the work.

        Raises:
            ImportError: A package is missing; names the extra.
            ModelError: A model is missing; says how to fetch it.
            ValueError: A model's name makes no sense.
        """
        if self.chosen_method() == "grabcut":
            from vsm_fast.images.grabcut import GrabCutMasker

            GrabCutMasker()
        else:
            with _one_at_a_time:
                self._models()

    def find(self, pixels: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
        """Mask the subject of an image; from any thread.

        Args:
            pixels: uint8 [H, W, 3], RGB.

        Returns:
            bool [H, W], True on the subject; None when there is none, and for images under
            8 pixels wide or 16 times as long as wide.

        Raises:
            ImportError, ModelError, ValueError: As :meth:`load`.
        """
        short, long = sorted(pixels.shape[:2])
        if short < _LEAST_SIDE or long > _MOST_SLENDER * short:
            return None
        if self.chosen_method() == "grabcut":
            from vsm_fast.images.grabcut import GrabCutMasker

            return GrabCutMasker()(pixels, self.subject)
        with _one_at_a_time:
            return self._models()(pixels, self.subject)

    def _models(self) -> GroundedSam:
        """Both models, loaded again where a folder is another one than at the last call."""
        states = [
            folder_state(Path(name).absolute())
            for name in (self.detector, self.sam)
            if name is not None
        ]
        return _grounded_sam(self.detector, self.sam, self.device, tuple(states))


@lru_cache(maxsize=1)
def _models_are_here() -> bool:
    """Whether Grounding DINO and SAM can be had without fetching anything."""
    if find_spec("transformers") is None:
        return False
    from vsm_fast.images.grounded_sam import GROUNDING_DINO
    from vsm_fast.images.sam import SAM
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
    from vsm_fast.images.grounded_sam import GROUNDING_DINO, GroundedSam
    from vsm_fast.images.sam import SAM
    from vsm_fast.model.pretrained import ModelSource

    return GroundedSam.from_pretrained(
        ModelSource.parse(GROUNDING_DINO if detector is None else detector),
        ModelSource.parse(SAM if sam is None else sam),
        device=device,
    )
