"""The common interface of all runtimes: see :class:`Runtime`."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Runtime(Protocol):
    """A model's network, ready to run.

    Descriptors of an image do not depend on the rest of its batch beyond the library's numeric
    contract, so a runtime may split or pad batches.
    """

    @property
    def name(self) -> str:
        """Name for users, like ``"onnxruntime"``."""

    @property
    def precision(self) -> str:
        """Precision of the network, like ``"float32"`` or ``"int8"``."""

    @property
    def device(self) -> torch.device:
        """Device of the descriptors."""

    @property
    def concurrent(self) -> bool:
        """Whether concurrent calls are safe and faster, as on a CPU."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract descriptors.

        Args:
            images: float32 [B, 3, R, R] in [-1, 1], on the CPU or on ``device``; B ≥ 1.

        Returns:
            Semantic and visual descriptors on ``device``, float32 [B, D, h, w] each, unit length
            over D; NaN or Inf where the precision was too low.

        Raises:
            torch.OutOfMemoryError: If the batch does not fit; a smaller one may.
            ModelError: If the runtime failed for another reason.
        """
