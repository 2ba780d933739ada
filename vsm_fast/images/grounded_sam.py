"""Subject masks by Grounding DINO and SAM: the name gives a box, the box gives the mask."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from PIL import Image

from vsm_fast.images.prompts import spoken_name
from vsm_fast.images.sam import SAM, SegmentAnything
from vsm_fast.lab.pairs.pairs import Mask, Pixels
from vsm_fast.model.devices import choose_device
from vsm_fast.model.pretrained import (
    ModelSource,
    load_image_processor,
    load_tokenizer,
    load_transformer,
    weights_name,
)

GROUNDING_DINO = "IDEA-Research/grounding-dino-base"
BOX_THRESHOLD = 0.3  # our choice: the published settings do not say


class GroundedSam:
    """Masks the best-scoring instance of what the subject's name says.

    Args:
        detector: A ``transformers.GroundingDinoForObjectDetection``.
        processor: Its ``transformers.GroundingDinoProcessor``.
        segmenter: Turns the box into a mask.
        box_threshold: In [0, 1); a box must score higher. The score is the sigmoid of the best
            match with any word of the name.
        weights: Name of the detector's weights, for the record.

    Source: arXiv 2509.21989, the automated dataset (subject masks by Grounded-SAM).
    """

    name = "grounded-sam"

    def __init__(
        self,
        detector: Any,
        processor: Any,
        segmenter: SegmentAnything,
        box_threshold: float = BOX_THRESHOLD,
        weights: str = "",
    ) -> None:
        if not 0 <= box_threshold < 1:
            raise ValueError(f"box_threshold must lie in [0, 1); got {box_threshold}.")
        self._detector, self._processor, self.weights = detector, processor, weights
        self._segmenter, self._box_threshold = segmenter, box_threshold

    @classmethod
    def from_pretrained(
        cls,
        detector: ModelSource | str | os.PathLike[str] = GROUNDING_DINO,
        sam: ModelSource | str | os.PathLike[str] | SegmentAnything = SAM,
        *,
        box_threshold: float = BOX_THRESHOLD,
        device: str = "auto",
    ) -> GroundedSam:
        """Load both models, in float32.

        Args:
            detector: Hub repository or folder of a Grounding DINO.
            sam: Hub repository or folder of a SAM, or one that is loaded already (the part
                segmenter can use the same).
            box_threshold: As above.
            device: ``"auto"`` (CUDA when there is one), or a torch device.

        Raises:
            ImportError: transformers is not installed; names the extra.
            ModelError: A model is missing or incomplete.
        """
        source, purpose = ModelSource.of(detector), "Grounding DINO"
        model = load_transformer(
            "GroundingDinoForObjectDetection", source, choose_device(device), purpose=purpose
        )
        from transformers import GroundingDinoProcessor

        processor = GroundingDinoProcessor(
            load_image_processor(source, purpose=purpose), load_tokenizer(source, purpose=purpose)
        )
        if not isinstance(sam, SegmentAnything):
            sam = SegmentAnything.from_pretrained(sam, device=device)
        return cls(model, processor, sam, box_threshold, weights_name(source, model))

    def __call__(self, pixels: Pixels, subject: str) -> Mask | None:
        """Mask the subject.

        Args:
            pixels: uint8 [H, W, 3].
            subject: Its name; underscores and numbers are left out.

        Returns:
            bool [H, W]; None when no box scores high enough or the mask in it is empty.
        """
        box = self.find_box(pixels, subject)
        if box is None:
            return None
        mask: Mask = self._segmenter.in_box(pixels, box).masks[0]
        return mask if mask.any() else None

    @torch.inference_mode()
    def find_box(self, pixels: Pixels, subject: str) -> tuple[float, float, float, float] | None:
        """The best-scoring box (left, top, right, bottom) in pixels, inside the image; or None."""
        height, width = pixels.shape[:2]
        # One phrase; it was trained on phrases in lower case that end with a dot.
        inputs = self._processor(
            images=Image.fromarray(pixels), text=f"{spoken_name(subject)}.", return_tensors="pt"
        ).to(self._detector.device)
        found = self._processor.post_process_grounded_object_detection(
            self._detector(**inputs),
            inputs["input_ids"],
            threshold=self._box_threshold,
            target_sizes=[(height, width)],
        )[0]
        if not len(found["scores"]):
            return None
        best = found["boxes"][found["scores"].argmax()].double().cpu().numpy()
        left, top, right, bottom = np.clip(best, 0, [width, height, width, height]).tolist()
        return (left, top, right, bottom) if left < right and top < bottom else None
