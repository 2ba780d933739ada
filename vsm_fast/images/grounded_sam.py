"""Subject masks by Grounded SAM: Grounding DINO turns a name into a box, SAM a box into a mask."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vsm_fast.model.devices import choose_device
from vsm_fast.model.pretrained import (
    ModelSource,
    load_image_processor,
    load_tokenizer,
    load_transformer,
    weights_name,
)

GROUNDING_DINO = "IDEA-Research/grounding-dino-base"
SAM = "facebook/sam-vit-huge"
BOX_THRESHOLD = 0.3  # our choice: the paper's setting is not published


def spoken_name(subject: str) -> str:
    """Convert a folder name to words: ``"colorful_sneaker2"`` -> ``"colorful sneaker"``.

    Args:
        subject: Name in any script. Numbers (``dog``, ``dog2``) are dropped: they distinguish
            subjects but do not describe them.

    Returns:
        Lower-case words; ``"object"`` if the name has none.
    """
    words = re.sub(r"[\W\d_]+", " ", subject).lower().split()
    return " ".join(words) or "object"


@dataclass(frozen=True, eq=False)
class MaskCandidates:
    """Answers of SAM to one prompt.

    Attributes:
        masks: bool [K, H, W].
        quality: float64 [K], predicted overlap (IoU) with the true mask.
    """

    masks: NDArray[np.bool_]
    quality: NDArray[np.float64]


class SegmentAnything:
    """SAM of transformers, in float32.

    The image encoder takes nearly all of the time. The last encoded image is cached, so further
    prompts on it are cheap.

    Args:
        model: A ``transformers.SamModel``.
        processor: Its ``transformers.SamProcessor``.
        weights: Name of the weights, for records.
    """

    def __init__(self, model: Any, processor: Any, weights: str = "") -> None:
        self._model, self._processor, self.weights = model, processor, weights
        self._encoded: tuple[object, Tensor] | None = None

    @classmethod
    def from_pretrained(
        cls, source: ModelSource | str | os.PathLike[str] = SAM, *, device: str = "auto"
    ) -> SegmentAnything:
        """Load a model.

        Args:
            source: Hub repository or folder, like ``"facebook/sam-vit-base"``.
            device: ``"auto"`` (CUDA if available), or a torch device.

        Raises:
            ImportError: If transformers is not installed. Names the extra.
            ModelError: If the model is missing or incomplete.
        """
        source, purpose = ModelSource.of(source), "Segment Anything"
        model = load_transformer("SamModel", source, choose_device(device), purpose=purpose)
        from transformers import SamProcessor

        processor = SamProcessor(load_image_processor(source, purpose=purpose))
        return cls(model, processor, weights_name(source, model))

    def in_box(
        self, pixels: NDArray[np.uint8], box: tuple[float, float, float, float]
    ) -> MaskCandidates:
        """Segment the object in a box; a box is unambiguous, so K = 1.

        Args:
            pixels: uint8 [H, W, 3].
            box: (left, top, right, bottom) in pixels.
        """
        return self._answers(pixels, multiple=False, input_boxes=[[list(box)]])

    def at_point(self, pixels: NDArray[np.uint8], point: tuple[float, float]) -> MaskCandidates:
        """Segment the object at a point: K = 3 masks of the whole, a part and a part of that part.

        Args:
            pixels: uint8 [H, W, 3].
            point: (x, y) in pixels; the first pixel's centre is at 0.5.
        """
        # SAM counts from pixel centres.
        prompt = [[[[point[0] - 0.5, point[1] - 0.5]]]]
        return self._answers(pixels, multiple=True, input_points=prompt)

    @torch.inference_mode()
    def _answers(self, pixels: NDArray[np.uint8], multiple: bool, **prompt: Any) -> MaskCandidates:
        inputs = self._processor(Image.fromarray(pixels), return_tensors="pt", **prompt)
        device = self._model.device
        key = (pixels.shape, blake2b(pixels.tobytes()).digest())
        if self._encoded is None or self._encoded[0] != key:
            embedding = self._model.get_image_embeddings(inputs["pixel_values"].to(device))
            self._encoded = (key, embedding)
        answer = self._model(
            image_embeddings=self._encoded[1],
            multimask_output=multiple,
            **{name: inputs[name].to(device, torch.float32) for name in prompt},
        )
        masks = self._processor.post_process_masks(
            answer.pred_masks.cpu(), inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )
        quality = answer.iou_scores[0, 0].double().cpu().numpy()
        return MaskCandidates(masks[0][0].numpy().astype(np.bool_), quality)


class GroundedSam:
    """Masks of the best-scoring instance of a named subject.

    Args:
        detector: A ``transformers.GroundingDinoForObjectDetection``.
        processor: Its ``transformers.GroundingDinoProcessor``.
        segmenter: SAM, which turns the box into a mask.
        box_threshold: In [0, 1); a box must score higher. The score is the sigmoid of the best
            match with any word of the name.
        weights: Name of the detector's weights, for records.

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
            sam: Hub repository or folder of a SAM, or a loaded one to share.
            box_threshold: As in the class.
            device: ``"auto"`` (CUDA if available), or a torch device.

        Raises:
            ImportError: If transformers is not installed. Names the extra.
            ModelError: If a model is missing or incomplete.
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

    def __call__(self, pixels: NDArray[np.uint8], subject: str) -> NDArray[np.bool_] | None:
        """Find the subject.

        Args:
            pixels: uint8 [H, W, 3].
            subject: Its name; underscores and numbers are ignored.

        Returns:
            bool [H, W]; None if no box scores high enough or its mask is empty.
        """
        box = self.find_box(pixels, subject)
        if box is None:
            return None
        mask: NDArray[np.bool_] = self._segmenter.in_box(pixels, box).masks[0]
        return mask if mask.any() else None

    @torch.inference_mode()
    def find_box(
        self, pixels: NDArray[np.uint8], subject: str
    ) -> tuple[float, float, float, float] | None:
        """Return the best box (left, top, right, bottom) in pixels, inside the image; or None."""
        height, width = pixels.shape[:2]
        # Grounding DINO was trained on lower-case phrases that end with a dot.
        inputs = self._processor(
            images=Image.fromarray(pixels), text=f"{spoken_name(subject)}.", return_tensors="pt"
        ).to(self._detector.device)
        detections = self._processor.post_process_grounded_object_detection(
            self._detector(**inputs),
            inputs["input_ids"],
            threshold=self._box_threshold,
            target_sizes=[(height, width)],
        )[0]
        if not len(detections["scores"]):
            return None
        best = detections["boxes"][detections["scores"].argmax()].double().cpu().numpy()
        left, top, right, bottom = np.clip(best, 0, [width, height, width, height]).tolist()
        return (left, top, right, bottom) if left < right and top < bottom else None
