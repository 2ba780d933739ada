"""Residual blocks of diffusers without the memory that inference does not need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """A plain ``ResnetBlock2D``: same parameters, names and values, half the temporaries.

    What diffusers writes to new memory is written in place here, and nothing is divided by an
    output scale of 1. On a CPU new memory costs more than the arithmetic on it: every page of a
    fresh activation is first filled with zeros by the system.

    Args:
        block: diffusers ``ResnetBlock2D`` for which :func:`is_plain` holds. Its modules are
            taken over, not copied.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.out_channels: int = block.out_channels
        self.norm1 = block.norm1
        self.conv1 = block.conv1
        self.time_emb_proj = block.time_emb_proj
        self.norm2 = block.norm2
        self.dropout = block.dropout
        self.conv2 = block.conv2
        self.conv_shortcut = block.conv_shortcut

    def forward(self, input_tensor: Tensor, temb: Tensor | None = None) -> Tensor:
        """The block; arguments are named as diffusers passes them.

        Args:
            input_tensor: float [B, C, h, w], not changed.
            temb: float [1 or B, T], embedding of the time step, not changed; None without one.

        Returns:
            float [B, out_channels, h, w].
        """
        hidden = self.conv1(F.silu(self.norm1(input_tensor), inplace=True))
        if self.time_emb_proj is not None:
            assert temb is not None
            hidden += self.time_emb_proj(F.silu(temb))[:, :, None, None]
        hidden = self.conv2(self.dropout(F.silu(self.norm2(hidden), inplace=True)))
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        hidden += input_tensor
        return hidden  # type: ignore[no-any-return]


def is_plain(module: Any) -> bool:
    """Whether a module is a ``ResnetBlock2D`` that :class:`ResidualBlock` can replace."""
    from diffusers.models.resnet import ResnetBlock2D  # slow to import, and not always needed

    return (
        type(module) is ResnetBlock2D
        and isinstance(module.nonlinearity, nn.SiLU)
        and module.time_embedding_norm == "default"
        and not module.skip_time_act
        and module.upsample is None
        and module.downsample is None
        and module.output_scale_factor == 1
    )


def save_memory(network: nn.Module) -> None:
    """Replace every plain ``ResnetBlock2D`` inside a network, in place."""
    replace_modules(network, is_plain, ResidualBlock)


def replace_modules(
    network: nn.Module, fits: Callable[[nn.Module], bool], made: Callable[[Any], nn.Module]
) -> None:
    """Replace modules inside a network, in place.

    Args:
        network: It is not replaced itself.
        fits: Whether a module is to be replaced.
        made: By what.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if fits(child):
                setattr(parent, name, made(child))
