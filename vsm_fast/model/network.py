"""The complete network of a model: images in, two descriptor maps out."""

from __future__ import annotations

from torch import Tensor, nn

from vsm_fast.model.aggregation import AggregationNetwork


class DescriptorNetwork(nn.Module):
    """Backbone and both aggregation networks.

    Args:
        backbone: float [B, 3, R, R] to one tensor per level.
        semantic: Levels to float [B, D, h, w], unit length.
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
        """Extract descriptors.

        Args:
            images: float32 [B, 3, R, R] in [-1, 1].

        Returns:
            Semantic and visual descriptors, float32 [B, D, h, w] each, unit length over D.
        """
        levels = self.backbone(images.to(self.semantic.mixing_weights.dtype))
        return self.semantic(levels), self.visual(levels)
