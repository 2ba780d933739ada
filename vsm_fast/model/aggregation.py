"""Aggregation networks: backbone features of several levels to descriptors (arXiv 2509.21989)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsm_fast.errors import ModelError
from vsm_fast.model.config import AggregationConfig

BRANCHES = ("semantic", "visual")


class NormalisedConv(nn.Module):
    """Convolution without bias, then GroupNorm; parameter names as published."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.GroupNorm(groups, outputs)

    def project(self, x: Tensor) -> Tensor:
        """Apply the convolution alone."""
        return F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise: float [B, inputs, h, w] to float [B, outputs, h, w]."""
        return self.norm(self.project(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """ResNet bottleneck: 1x1, 3x3, 1x1 convolutions, each with GroupNorm, and a shortcut."""

    def __init__(self, inputs: int, config: AggregationConfig) -> None:
        super().__init__()
        middle, outputs = config.bottleneck_channels, config.descriptor_channels
        self.conv1 = NormalisedConv(inputs, middle, 1, config.groups)
        self.conv2 = NormalisedConv(middle, middle, 3, config.groups)
        self.conv3 = NormalisedConv(middle, outputs, 1, config.groups)
        self.shortcut = (
            NormalisedConv(inputs, outputs, 1, config.groups) if inputs != outputs else None
        )

    def forward(self, level: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map one level to descriptor channels on the grid.

        A 1x1 convolution without bias commutes with bilinear resizing, so both 1x1 convolutions
        of the input run on the side of the resize with fewer cells.

        Args:
            level: float [B, inputs, h, w] at the level's own resolution.
            grid: (rows, columns) of the result.

        Returns:
            float [B, outputs, rows, columns].
        """
        level = reduced(level, grid)
        # In place also in training: no gradient needs the output of a GroupNorm or a sum.
        x = F.relu(self.conv1.norm(_resize(self.conv1.project(level), grid)), inplace=True)
        x = self.conv3(F.relu(self.conv2(x), inplace=True))
        if self.shortcut is None:
            x += _resize(level, grid)
        else:
            x += self.shortcut.norm(_resize(self.shortcut.project(level), grid))
        return F.relu(x, inplace=True)


class AggregationNetwork(nn.Module):
    """Mixes the levels of a backbone into unit-length descriptors.

    Args:
        level_channels: Channels of each level.
        config: Widths, groups, grid, and the weight of the first level.
    """

    def __init__(self, level_channels: Sequence[int], config: AggregationConfig) -> None:
        super().__init__()
        self.config = config
        self.bottleneck_layers = nn.ModuleList(
            nn.ModuleList([Bottleneck(channels, config)]) for channels in level_channels
        )
        self.mixing_weights = nn.Parameter(torch.ones(len(level_channels)))

    def mixing(self) -> Tensor:
        """Return the weight of each level, float32 [L].

        The published networks were trained with weight 1 for the first level instead of its
        softmax weight; ``first_level_weight="one"`` keeps that.
        """
        weights = self.mixing_weights.float().softmax(0)
        if self.config.first_level_weight == "one":
            weights = torch.cat([torch.ones_like(weights[:1]), weights[1:]])
        return weights

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Compute descriptors.

        Args:
            levels: One float [B, C_l, h_l, w_l] per level.

        Returns:
            float32 [B, D, h, w], unit length over D in any precision of the network.

        Raises:
            ModelError: If the number of levels differs from the network's.
        """
        if len(levels) != len(self.bottleneck_layers):
            raise ModelError(
                f"the aggregation network has {len(self.bottleneck_layers)} levels; "
                f"got {len(levels)}."
            )
        total: Tensor | None = None
        for layer, level, weight in zip(self.bottleneck_layers, levels, self.mixing(), strict=True):
            features = cast(nn.ModuleList, layer)[0](level, self.config.grid)
            total = weight * features if total is None else total.addcmul_(features, weight)
        assert total is not None
        return F.normalize(total.float(), dim=1)


def reduced(level: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize a level to the grid if it has more cells; otherwise return it unchanged.

    Args:
        level: float [B, C, h, w].
        grid: (rows, columns) of the descriptors.
    """
    if level.shape[2] * level.shape[3] > grid[0] * grid[1]:
        return _resize(level, grid)
    return level


def _resize(x: Tensor, grid: tuple[int, int]) -> Tensor:
    if tuple(x.shape[2:]) == tuple(grid):
        return x
    return F.interpolate(x, size=grid, mode="bilinear", align_corners=False)


def published_name(name: str, branch: str) -> str:
    """Return the published name of a network's tensor.

    ``bottleneck_layers.0.0…`` of ``semantic`` becomes ``bottleneck_layers_semantic.0.0…``.
    """
    first, dot, rest = name.partition(".")
    return f"{first}_{branch}{dot}{rest}"


def published_tensors(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return all tensors of the networks, keyed by branch, under their published names."""
    return {
        published_name(name, branch): tensor
        for branch, network in networks.items()
        for name, tensor in network.state_dict().items()
    }
