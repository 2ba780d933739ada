"""Baselines with pretrained weights of their own: CLIP-I, DINO, DINOv2, DINO's patches, LPIPS.

All see the subject alone: cut out with a margin, on mid grey, in a square (``subject_crop``), so
that they judge what VSM judges and not the background.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.lab.baselines.crops import subject_crop
from vsm_fast.lab.baselines.protocol import Baseline
from vsm_fast.lab.pairs.pairs import ControlledPair, Mask, Pixels
from vsm_fast.lab.pairs.pretrained.lpips_change import LpipsDistance
from vsm_fast.model.devices import choose_device
from vsm_fast.model.pretrained import ModelSource, load_image_processor, load_transformer

Source = ModelSource | str | os.PathLike[str]

CLIP = "openai/clip-vit-large-patch14"
DINO = "facebook/dino-vits16"
DINOV2 = "facebook/dinov2-small"
LPIPS_CROP = 256  # pixels
_BATCH = 16  # images per forward pass
_MIN_COVERAGE = 0.5  # of a patch by the subject


class ImageEncoder:
    """A vision transformer of transformers, float32: one vector per image and one per patch.

    Args:
        model: A ``CLIPVisionModelWithProjection``, ``ViTModel`` or ``Dinov2Model``.
        processor: Its image processor, of which the size and the normalisation are used.
        purpose: What the encoder is for, the subject of errors' sentences.

    Raises:
        ModelError: The processor's size is no square of whole patches.
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

    @classmethod
    def from_pretrained(
        cls,
        class_name: str,
        source: Source,
        *,
        purpose: str,
        device: str | torch.device = "auto",
        **settings: Any,
    ) -> ImageEncoder:
        """Load an encoder.

        Args:
            class_name: One of the classes above.
            source: Hub repository or folder.
            purpose: As above.
            device: ``"auto"`` (CUDA when there is one), or a torch device.
            settings: Passed to the model's ``from_pretrained``.

        Raises:
            ImportError: transformers is not installed; names the extra.
            ModelError: The model is missing or incomplete.
        """
        source, chosen = ModelSource.of(source), choose_device(device)
        model = load_transformer(class_name, source, chosen, purpose=purpose, **settings)
        return cls(model, load_image_processor(source, purpose=purpose), purpose)

    @torch.inference_mode()
    def __call__(self, crops: Sequence[Pixels]) -> tuple[Tensor, Tensor]:
        """Encode square crops.

        Args:
            crops: uint8 [side, side, 3] each.

        Returns:
            float32 [N, C] of the images and [N, grid * grid, C'] of their patches in row-major
            order, on the CPU, of unit length. C' is C but for CLIP, whose image vectors are
            projected.
        """
        inputs = self._processor(
            list(crops), do_resize=False, do_center_crop=False, return_tensors="pt"
        )
        output = self._model(inputs["pixel_values"].to(self._model.device))
        tokens = output.last_hidden_state
        image = output.image_embeds if "image_embeds" in output else tokens[:, 0]
        return F.normalize(image, dim=-1).cpu(), F.normalize(tokens[:, 1:], dim=-1).cpu()


class EmbeddingCosine:
    """Cosine of the vectors of the two subjects' crops: CLIP-I and DINO as benchmarks use them.

    Args:
        name: Of the column.
        encoder: Gives the vectors.
    """

    def __init__(self, name: str, encoder: ImageEncoder) -> None:
        self.name, self._encoder = name, encoder

    def __call__(self, pairs: Sequence[ControlledPair]) -> NDArray[np.float64]:
        """See :class:`vsm_fast.lab.baselines.Baseline`."""

        def compare(first: _Crops, second: _Crops) -> Tensor:
            generation, reference = (
                self._encoder([crop for crop, _ in side])[0] for side in (first, second)
            )
            return F.cosine_similarity(generation, reference)

        return _compare(pairs, self._encoder.side, compare)


class PatchNearestNeighbour:
    """Mean, over the generation's patches, of the best cosine with a patch of the reference.

    Patches count that the subject covers by half, in both images.

    Args:
        name: Of the column.
        encoder: Gives the patches.
    """

    def __init__(self, name: str, encoder: ImageEncoder) -> None:
        self.name, self._encoder = name, encoder

    def __call__(self, pairs: Sequence[ControlledPair]) -> NDArray[np.float64]:
        """See :class:`vsm_fast.lab.baselines.Baseline`."""
        return _compare(pairs, self._encoder.side, self._nearest)

    def _nearest(self, first: _Crops, second: _Crops) -> Tensor:
        patches = [self._encoder([crop for crop, _ in side])[1] for side in (first, second)]
        covered = [[_covered(mask, self._encoder.grid) for _, mask in s] for s in (first, second)]
        means = [
            (generation[here] @ reference[there].T).amax(1).mean()
            for generation, reference, here, there in zip(*patches, *covered, strict=True)
        ]
        return torch.stack(means)


class NegativeLpips:
    """Minus the LPIPS distance of the two subjects' crops, so that higher is more alike.

    Args:
        distance: LPIPS.
    """

    name = "lpips"

    def __init__(self, distance: LpipsDistance) -> None:
        self._distance = distance

    def __call__(self, pairs: Sequence[ControlledPair]) -> NDArray[np.float64]:
        """See :class:`vsm_fast.lab.baselines.Baseline`."""

        def compare(first: _Crops, second: _Crops) -> Tensor:
            crops = zip(first, second, strict=True)
            return torch.tensor([-self._distance(a[0], b[0]) for a, b in crops])

        return _compare(pairs, LPIPS_CROP, compare)


def _clip_image(source: Source | None, device: str | torch.device) -> Baseline:
    encoder = ImageEncoder.from_pretrained(
        "CLIPVisionModelWithProjection", source or CLIP, purpose="CLIP-I", device=device
    )
    return EmbeddingCosine("clip-i", encoder)


def _dino(source: Source | None, device: str | torch.device) -> Baseline:
    return EmbeddingCosine("dino", _dino_encoder(source, device))


def _dino_patches(source: Source | None, device: str | torch.device) -> Baseline:
    return PatchNearestNeighbour("dino-patches", _dino_encoder(source, device))


def _dino_encoder(source: Source | None, device: str | torch.device) -> ImageEncoder:
    # DINO was published without the pooling layer that ViTModel would add with random weights.
    return ImageEncoder.from_pretrained(
        "ViTModel", source or DINO, purpose="DINO", device=device, add_pooling_layer=False
    )


def _dinov2(source: Source | None, device: str | torch.device) -> Baseline:
    encoder = ImageEncoder.from_pretrained(
        "Dinov2Model", source or DINOV2, purpose="DINOv2", device=device
    )
    return EmbeddingCosine("dinov2", encoder)


def _lpips(source: Source | None, device: str | torch.device) -> Baseline:
    if source is not None:
        raise ValueError("lpips brings its own weights: no other source can be given.")
    return NegativeLpips(LpipsDistance.from_pretrained(device=device))


_MAKERS: dict[str, Callable[[Source | None, str | torch.device], Baseline]] = {
    "clip-i": _clip_image,
    "dino": _dino,
    "dinov2": _dinov2,
    "dino-patches": _dino_patches,
    "lpips": _lpips,
}
PRETRAINED = tuple(_MAKERS)


def pretrained_baseline(
    name: str, *, source: Source | None = None, device: str | torch.device = "auto"
) -> Baseline:
    """Make a baseline by name.

    Args:
        name: Of ``PRETRAINED``.
        source: Weights of the same architecture instead of the default ones: Hub repository or
            folder. Defaults: ``CLIP``, ``DINO`` and ``DINOV2``.
        device: ``"auto"`` (CUDA when there is one), or a torch device.

    Raises:
        ValueError: An unknown name.
        ImportError: A package is missing; names the extra.
        ModelError: The weights are missing or incomplete.
    """
    if name not in _MAKERS:
        raise ValueError(f"pretrained baselines are {', '.join(PRETRAINED)}; got {name!r}.")
    return _MAKERS[name](source, device)


_Crops = list[tuple[Pixels, Mask]]


def _compare(
    pairs: Sequence[ControlledPair], side: int, compare: Callable[[_Crops, _Crops], Tensor]
) -> NDArray[np.float64]:
    """One value per pair from batches of crops; NaN where an image has no subject."""
    values = np.full(len(pairs), np.nan)
    usable = [i for i, pair in enumerate(pairs) if pair.mask_1.any() and pair.mask_2.any()]
    for start in range(0, len(usable), _BATCH):
        rows = usable[start : start + _BATCH]
        first = [subject_crop(pairs[i].altered_1, pairs[i].mask_1, side) for i in rows]
        second = [subject_crop(pairs[i].original_2, pairs[i].mask_2, side) for i in rows]
        values[rows] = compare(first, second).double().numpy()
    return values


def _covered(mask: Mask, grid: int) -> Tensor:
    """Bool [grid * grid]: the patches that count; of a thin subject those that it covers most."""
    patch = len(mask) // grid
    coverage = mask.reshape(grid, patch, grid, patch).mean(axis=(1, 3)).reshape(-1)
    return torch.from_numpy(coverage >= min(_MIN_COVERAGE, float(coverage.max())))
