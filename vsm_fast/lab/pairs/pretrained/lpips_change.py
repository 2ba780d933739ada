"""LPIPS change of a part.

LPIPS is the only model not read from safetensors: the ``lpips`` package ships its own small
weights, and torchvision downloads AlexNet's, both as torch files.
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

_MIN_SIDE = 64  # pixels; AlexNet's last features are 3 x 3 there and vanish below 31


class LpipsDistance:
    """LPIPS distance of two images: 0 for equal images, about 1 for very different ones.

    Args:
        model: An ``lpips.LPIPS``: two float tensors [1, 3, H, W] in [-1, 1] -> one number.
        device: Its device.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model, self._device = model, device

    @classmethod
    def from_pretrained(cls, *, device: str | torch.device = "auto") -> LpipsDistance:
        """Load LPIPS 0.1 on AlexNet, the version its authors recommend as a metric.

        Raises:
            ImportError: If lpips or torchvision is not installed; the message names the extra.
            ModelError: If AlexNet's weights are neither cached nor downloadable.
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
        """Return the distance of images uint8 [H, W, 3]; sides below 64 pixels are enlarged.

        Raises:
            ValueError: If the sizes differ.
        """
        if first.shape != second.shape:
            raise ValueError(
                f"LPIPS compares images of one size; got {first.shape} and {second.shape}."
            )
        levels = torch.from_numpy(np.stack([first, second]).astype(np.float32)).to(self._device)
        images = (levels / 127.5 - 1).permute(0, 3, 1, 2)
        size = [max(side, _MIN_SIDE) for side in first.shape[:2]]
        if size != list(first.shape[:2]):
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        return float(self._model(images[:1], images[1:]))


class LpipsChange:
    """LPIPS of the bounding box of a part, before against after.

    Source: arXiv 2509.21989, the automated dataset (keeps pairs with LPIPS > 0.15).
    """

    name = "lpips"
    threshold = 0.15

    def __init__(self, distance: LpipsDistance) -> None:
        self._distance = distance

    def __call__(self, before: Pixels, after: Pixels, part: Mask) -> float:
        """Return the change inside ``part`` (bool [H, W]) of images uint8 [H, W, 3].

        Raises:
            ValueError: If the part is empty or the sizes differ.
        """
        if not before.shape == after.shape == (*part.shape, 3):
            raise ValueError(
                "LPIPS needs two images [H, W, 3] and a part [H, W] of one size; got "
                f"{before.shape}, {after.shape} and {part.shape}."
            )
        rows, columns = np.nonzero(part)
        if not len(rows):
            raise ValueError("LPIPS needs a part with at least one pixel; got an empty part.")
        box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        return self._distance(before[box], after[box])
