"""The one signature behind which a network runs: see :class:`Runtime`."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Runtime(Protocol):
    """A model's network, ready to run.

    Descriptors of an image do not depend on the others in its batch beyond the library's
    numeric contract, so that a runtime may split or pad batches as suits it.
    """

    @property
    def name(self) -> str:
        """What a user asks for it by, like ``"onnxruntime"``."""

    @property
    def precision(self) -> str:
        """In which the network computes, like ``"float32"`` or ``"int8"``."""

    @property
    def device(self) -> torch.device:
        """Where descriptors come out."""

    @property
    def concurrent(self) -> bool:
        """Whether threads gain by calling it at once, as on a CPU; it must then be safe."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Describe images.

        Args:
            images: float32 [B, 3, R, R] in [-1, 1], on the CPU or on ``device``; B ≥ 1.

        Returns:
            Semantic and visual descriptors on ``device``, float32 [B, D, h, w] each, unit length
            over D; NaN or Inf where a precision was too low.

        Raises:
            torch.OutOfMemoryError: The batch does not fit; a smaller one may.
            ModelError: The runtime failed for another reason.
        """
