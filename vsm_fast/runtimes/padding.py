"""Batches of a few sizes, for runtimes that prepare themselves for each size."""

from __future__ import annotations

import torch
from torch import Tensor


class BatchSizes:
    """The sizes that a runtime has prepared.

    A batch smaller than a prepared one is padded to it rather than prepared for: in a long run
    all batches but the last have one size, and preparing takes seconds to minutes.
    """

    def __init__(self) -> None:
        self._prepared: set[int] = set()

    def padded(self, images: Tensor) -> Tensor:
        """A batch in the smallest prepared size that holds it, else as it is.

        Args:
            images: float [B, ...], B ≥ 1.

        Returns:
            float [B', ...], B' ≥ B; the added rows repeat the last one.
        """
        size = min((n for n in self._prepared if n >= len(images)), default=len(images))
        self._prepared.add(size)
        missing = size - len(images)
        if not missing:
            return images
        return torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])
