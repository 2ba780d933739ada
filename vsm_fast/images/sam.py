"""Segment Anything: masks of one image from a box or a point."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vsm_fast.lab.pairs.pairs import Pixels
from vsm_fast.model.devices import choose_device
from vsm_fast.model.pretrained import (
    ModelSource,
    load_image_processor,
    load_transformer,
    weights_name,
)

SAM = "facebook/sam-vit-huge"


@dataclass(frozen=True, eq=False)
class MaskCandidates:
    """Answers to one prompt.

    Attributes:
        masks: bool [K, H, W].
        quality: float64 [K], the overlap (IoU) with the true mask that the model predicts.
    """

    masks: NDArray[np.bool_]
    quality: NDArray[np.float64]


class SegmentAnything:
    """SAM through transformers, float32.

    The image encoder is nearly all of the work, so that the encoded image is kept until
    another one comes: further prompts on it cost little.

    Args:
        model: A ``transformers.SamModel``.
        processor: Its ``transformers.SamProcessor``.
        weights: Name of the weights, for the record.
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
            device: ``"auto"`` (CUDA when there is one), or a torch device.

        Raises:
            ImportError: transformers is not installed; names the extra.
            ModelError: The model is missing or incomplete.
        """
        source, purpose = ModelSource.of(source), "Segment Anything"
        model = load_transformer("SamModel", source, choose_device(device), purpose=purpose)
        from transformers import SamProcessor

        processor = SamProcessor(load_image_processor(source, purpose=purpose))
        return cls(model, processor, weights_name(source, model))

    def in_box(self, pixels: Pixels, box: tuple[float, float, float, float]) -> MaskCandidates:
        """One mask (K = 1): a box leaves little doubt about what is meant.

        Args:
            pixels: uint8 [H, W, 3].
            box: (left, top, right, bottom) in pixels.
        """
        return self._answers(pixels, multiple=False, input_boxes=[[list(box)]])

    def at_point(self, pixels: Pixels, point: tuple[float, float]) -> MaskCandidates:
        """Three masks: a point may mean the whole, a part or a part of that part.

        Args:
            pixels: uint8 [H, W, 3].
            point: (x, y) in pixels; the first pixel's centre is at 0.5.
        """
        # SAM counts from pixel centres.
        prompt = [[[[point[0] - 0.5, point[1] - 0.5]]]]
        return self._answers(pixels, multiple=True, input_points=prompt)

    @torch.inference_mode()
    def _answers(self, pixels: Pixels, multiple: bool, **prompt: Any) -> MaskCandidates:
        inputs = self._processor(Image.fromarray(pixels), return_tensors="pt", **prompt)
        device = self._model.device
        answer = self._model(
            image_embeddings=self._encode(pixels, inputs["pixel_values"]),
            multimask_output=multiple,
            **{name: inputs[name].to(device, torch.float32) for name in prompt},
        )
        masks = self._processor.post_process_masks(
            answer.pred_masks.cpu(), inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )
        quality = answer.iou_scores[0, 0].double().cpu().numpy()
        return MaskCandidates(masks[0][0].numpy().astype(np.bool_), quality)

    def _encode(self, pixels: Pixels, inputs: Tensor) -> Tensor:
        key = (pixels.shape, blake2b(pixels.tobytes()).digest())
        if self._encoded is None or self._encoded[0] != key:
            embedding = self._model.get_image_embeddings(inputs.to(self._model.device))
            self._encoded = (key, embedding)
        return self._encoded[1]
