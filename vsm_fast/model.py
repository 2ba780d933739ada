"""The whole network of a model: one tensor in, two descriptor maps out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vsm_fast.aggregation import AggregationNetwork


class DescriptorNetwork(nn.Module):
    """Backbone and the two aggregation networks.

    Args:
        backbone: float [B, 3, R, R] -> one tensor per level.
        semantic: Levels -> float [B, D, h, w], unit length.
        visual: As ``semantic``.
    """

    def __init__(
        self, backbone: nn.Module, semantic: AggregationNetwork, visual: AggregationNetwork
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.semantic = semantic
        self.visual = visual

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Describe images.

        Args:
            images: float32 [B, 3, R, R] in [-1, 1].

        Returns:
            Semantic and visual descriptors, float32 [B, D, h, w] each, unit length over D.
        """
        weight = self.semantic.mixing_weights
        levels = self.backbone(images.to(weight.dtype))
        semantic, visual = self.semantic(levels), self.visual(levels)
        if weight.dtype is not torch.float32:
            # Unit length to float32 precision, whatever the network computed in.
            semantic = nn.functional.normalize(semantic.float(), dim=1)
            visual = nn.functional.normalize(visual.float(), dim=1)
        return semantic, visual
