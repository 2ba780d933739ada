"""How much a part changed, as LPIPS sees it.

LPIPS is the one model here that is not read from safetensors: the ``lpips`` package brings its
own small weights, and torchvision downloads AlexNet's, both as torch files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vsm_fast.errors import ModelError
from vsm_fast.extras import required
from vsm_fast.lab.pairs.pairs import Mask, Pixels
from vsm_fast.model.devices import choose_device

THRESHOLD = 0.15
_MIN_SIDE = 64  # pixels; AlexNet's last features are 3 x 3 there, and none remain below 31


class LpipsDistance:
    """The distance of two images: 0 for equal ones, about 1 for quite different ones.

    Args:
        model: An ``lpips.LPIPS``: two float tensors [1, 3, H, W] in [-1, 1] -> one number.
        device: Where it is.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model, self._device = model, device

    @classmethod
    def from_pretrained(cls, *, device: str | torch.device = "auto") -> LpipsDistance:
        """LPIPS 0.1 on AlexNet, the version that its authors recommend as a metric.

        Args:
            device: ``"auto"`` (CUDA when there is one), or a torch device.

        Raises:
            ImportError: lpips or torchvision is not installed; names the extra.
            ModelError: AlexNet's weights are not in torch's cache and cannot be fetched.
        """
        lpips = required("lpips", "LPIPS")
        chosen = choose_device(device)
        try:
            model = lpips.LPIPS(net="alex", version="0.1", verbose=False)
        except (OSError, RuntimeError) as error:
            raise ModelError(
                f"LPIPS: AlexNet's weights are not in {torch.hub.get_dir()} and could not be "
                f"fetched ({type(error).__name__}: {error}). With network access run: "
                "python -c \"import lpips; lpips.LPIPS(net='alex')\""
            ) from error
        return cls(model.to(chosen).eval().requires_grad_(False), chosen)

    @torch.inference_mode()
    def __call__(self, first: Pixels, second: Pixels) -> float:
        """The distance of two images of one size.

        Args:
            first: uint8 [H, W, 3]; enlarged when a side is shorter than 64 pixels.
            second: The same.

        Raises:
            ValueError: The sizes differ.
        """
        if first.shape != second.shape:
            raise ValueError(
                f"LPIPS compares images of one size; got {first.shape} and {second.shape}."
            )
        images = (self._prepared(first), self._prepared(second))
        return float(self._model(*images))

    def _prepared(self, pixels: Pixels) -> torch.Tensor:
        levels = torch.from_numpy(pixels.astype(np.float32)).to(self._device)
        image = (levels / 127.5 - 1).permute(2, 0, 1)[None]
        height, width = image.shape[2:]
        if min(height, width) >= _MIN_SIDE:
            return image
        size = (max(height, _MIN_SIDE), max(width, _MIN_SIDE))
        return F.interpolate(image, size, mode="bilinear", align_corners=False)


class LpipsChange:
    """LPIPS of the box around a part, before and after.

    Args:
        distance: LPIPS.
        threshold: A part that changed less is rejected.

    Source: arXiv 2509.21989, the automated dataset (pairs with LPIPS > 0.15 are kept).
    """

    name = "lpips"

    def __init__(self, distance: LpipsDistance, threshold: float = THRESHOLD) -> None:
        self._distance, self.threshold = distance, threshold

    @classmethod
    def from_pretrained(
        cls, *, threshold: float = THRESHOLD, device: str | torch.device = "auto"
    ) -> LpipsChange:
        """Load LPIPS.

        Raises:
            ImportError: lpips or torchvision is not installed; names the extra.
            ModelError: Its weights are missing.
        """
        return cls(LpipsDistance.from_pretrained(device=device), threshold)

    def __call__(self, before: Pixels, after: Pixels, part: Mask) -> float:
        """The change of a part.

        Args:
            before: uint8 [H, W, 3].
            after: uint8 [H, W, 3].
            part: bool [H, W].

        Raises:
            ValueError: An empty part, or sizes that do not fit.
        """
        if not before.shape == after.shape == (*part.shape, 3):
            raise ValueError(
                "a change wants two images [H, W, 3] and a part [H, W] of one size; got "
                f"{before.shape}, {after.shape} and {part.shape}."
            )
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        if not len(rows):
            raise ValueError("a change wants a part with at least one pixel; got an empty one.")
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        return self._distance(before[box], after[box])
