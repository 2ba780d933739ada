"""Baselines with pretrained weights of their own: CLIP-I, DINO, DINOv2, DINO patches, LPIPS.

All of them compare the subject alone on mid grey (``subject_crop``): like VSM, they ignore the
background.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.lab.baselines.baseline import Baseline, Crop, CropBaseline, one_by_one
from vsm_fast.lab.pairs.pairs import Mask, Pixels
from vsm_fast.lab.pairs.pretrained.lpips_change import LpipsDistance
from vsm_fast.model.devices import choose_device
from vsm_fast.model.pretrained import ModelSource, load_image_processor, load_transformer

LPIPS_CROP = 256  # pixels
_MIN_COVERAGE = 0.5  # of a patch by the subject

# By name: the encoder in error messages, its class and default weights, and loading options.
_ENCODERS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "clip-i": ("CLIP-I", "CLIPVisionModelWithProjection", "openai/clip-vit-large-patch14", {}),
    # DINO has no pooling layer; ViTModel would add one with random weights.
    "dino": ("DINO", "ViTModel", "facebook/dino-vits16", {"add_pooling_layer": False}),
    "dinov2": ("DINOv2", "Dinov2Model", "facebook/dinov2-small", {}),
}
_ENCODERS["dino-patches"] = _ENCODERS["dino"]
PRETRAINED = (*_ENCODERS, "lpips")


class ImageEncoder:
    """Vision transformer in float32 that encodes crops as image vectors and patch vectors.

    Args:
        model: A ``CLIPVisionModelWithProjection``, ``ViTModel`` or ``Dinov2Model``.
        processor: Its image processor, for the size and the normalisation.
        purpose: Use of the encoder, the subject of error messages.

    Raises:
        ModelError: If the processor's size is not a square of whole patches.
    """

    def __init__(self, model: Any, processor: Any, purpose: str) -> None:
        self._model, self._processor = model, processor
        cropped = getattr(processor, "do_center_crop", None)
        size = dict(processor.crop_size if cropped else processor.size)
        patch: int = model.config.patch_size
        self.side: int = size.get("height") or size.get("shortest_edge") or 0
        self.grid = self.side // patch
        if not self.side or self.side % patch or size.get("width", self.side) != self.side:
            raise ModelError(
                f"{purpose}: the image processor's size must be a square of whole patches of "
                f"{patch} pixels; got {size}."
            )

    @torch.inference_mode()
    def __call__(self, crops: Sequence[Pixels]) -> tuple[Tensor, Tensor]:
        """Encode square crops.

        Args:
            crops: N arrays, uint8 [side, side, 3].

        Returns:
            Image vectors float32 [N, C] and patch vectors float32 [N, grid * grid, C'] in
            row-major order, unit length, on the CPU. CLIP projects image vectors: there C' is
            not C.
        """
        inputs = self._processor(
            list(crops), do_resize=False, do_center_crop=False, return_tensors="pt"
        )
        output = self._model(inputs["pixel_values"].to(self._model.device))
        tokens = output.last_hidden_state
        image = output.image_embeds if "image_embeds" in output else tokens[:, 0]
        return F.normalize(image, dim=-1).cpu(), F.normalize(tokens[:, 1:], dim=-1).cpu()

    def cosine(self, generations: list[Crop], references: list[Crop]) -> Tensor:
        """Return the cosine of the image vectors, float64 [N]: CLIP-I and DINO."""
        one, two = (self([crop for crop, _ in side])[0] for side in (generations, references))
        return F.cosine_similarity(one, two).double()

    def patch_nearest(self, generations: list[Crop], references: list[Crop]) -> Tensor:
        """Return the mean best cosine of the generated patches with reference patches, float64 [N].

        In both images, only patches that the subject covers by half count.
        """
        sides = (generations, references)
        patches = [self([crop for crop, _ in side])[1] for side in sides]
        covered = [[covered_patches(mask, self.grid) for _, mask in side] for side in sides]
        means = [
            (generation[here] @ reference[there].T).amax(1).mean()
            for generation, reference, here, there in zip(*patches, *covered, strict=True)
        ]
        return torch.stack(means).double()


def covered_patches(mask: Mask, grid: int) -> Tensor:
    """Return the patches that a subject covers by half, bool [grid * grid].

    A thin subject that covers no patch by half keeps the patches that it covers most.
    """
    patch = len(mask) // grid
    coverage = mask.reshape(grid, patch, grid, patch).mean(axis=(1, 3)).reshape(-1)
    return torch.from_numpy(coverage >= min(_MIN_COVERAGE, float(coverage.max())))


def pretrained_baseline(
    name: str,
    *,
    source: ModelSource | str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
) -> Baseline:
    """Load a baseline by name.

    Args:
        name: One of ``PRETRAINED``.
        source: Hub repository or folder with weights of the same architecture; None loads the
            default weights.
        device: ``"auto"`` (CUDA if available) or a torch device.

    Raises:
        ValueError: If the name is unknown, or LPIPS is given a source.
        ImportError: If a package is missing. Names the extra.
        ModelError: If the weights are missing or incomplete.
    """
    if name not in PRETRAINED:
        raise ValueError(f"pretrained baselines are {', '.join(PRETRAINED)}; got {name!r}.")
    if name == "lpips":
        if source is not None:
            raise ValueError("lpips has its own weights: it takes no other source.")
        distance = LpipsDistance.from_pretrained(device=device)

        # The minus makes higher values more consistent.
        def negative(generation: Crop, reference: Crop) -> float:
            return -distance(generation[0], reference[0])

        return CropBaseline(name, LPIPS_CROP, one_by_one(negative))
    purpose, class_name, default, options = _ENCODERS[name]
    weights = ModelSource.of(source or default)
    model = load_transformer(class_name, weights, choose_device(device), purpose=purpose, **options)
    encoder = ImageEncoder(model, load_image_processor(weights, purpose=purpose), purpose)
    compare = encoder.patch_nearest if name == "dino-patches" else encoder.cosine
    return CropBaseline(name, encoder.side, compare)
