"""Up-sampling of diffusers UNets with less than half of the arithmetic."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsm_fast.errors import ModelError
from vsm_fast.model.residual import replace_modules


class SubPixelUpsample(nn.Module):
    """Doubling by nearest neighbours and a 3x3 convolution, as one 2x2 convolution before it.

    Among doubled pixels a 3x3 window covers 2x2 different ones: which of its weights fall on the
    same one depends on whether the row and the column are even. So each of the four kinds of
    pixels has a 2x2 kernel of summed weights, 16 products instead of 36.

    Args:
        upsampler: diffusers ``Upsample2D`` for which :func:`is_plain` holds; frozen, float32.
    """

    def __init__(self, upsampler: Any) -> None:
        super().__init__()
        plain = _convolution(upsampler)
        by_row = _summed(plain.weight.detach(), 2)  # even rows, odd rows
        kernels = [kernel for rows in by_row for kernel in _summed(rows, 3)]
        self.conv = nn.Conv2d(plain.in_channels, 4 * plain.out_channels, 2, padding=1)
        self.conv.weight = nn.Parameter(torch.cat(kernels), requires_grad=False)
        bias = torch.zeros(plain.out_channels) if plain.bias is None else plain.bias.detach()
        self.conv.bias = nn.Parameter(bias.repeat(4), requires_grad=False)

    def forward(self, hidden_states: Tensor, output_size: Any = None) -> Tensor:
        """Double a map; arguments are named as diffusers passes them.

        Args:
            hidden_states: float [B, C, h, w].
            output_size: (2 h, 2 w), or None.

        Returns:
            float [B, outputs, 2 h, 2 w].

        Raises:
            ModelError: Another size was asked for.
        """
        batch, _, height, width = hidden_states.shape
        wanted = (2 * height, 2 * width)
        if output_size is not None and tuple(output_size) != wanted:
            raise ModelError(
                f"this network was folded for maps that double; got {height} x {width} to become "
                f"{tuple(output_size)}. Images must have the model's resolution."
            )
        found = self.conv(hidden_states).unflatten(1, (4, -1))
        if torch.compiler.is_exporting():  # ONNX writes into parts of a tensor by scattering
            kinds = [
                found[:, 2 * row + column, :, row : row + height, column : column + width]
                for row in (0, 1)
                for column in (0, 1)
            ]
            return F.pixel_shuffle(torch.stack(kinds, dim=2).flatten(1, 2), 2)
        channels = found.shape[2]
        doubled = torch.empty(
            (batch, channels, *wanted),
            dtype=found.dtype,
            device=found.device,
            memory_format=torch.channels_last,
        )
        for row in (0, 1):
            for column in (0, 1):
                part = found[:, 2 * row + column, :, row : row + height, column : column + width]
                doubled[:, :, row::2, column::2] = part
        return doubled


def _summed(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Three weights along an axis, as two for even positions and two for odd ones."""
    first, middle, last = weight.unbind(axis)
    return torch.stack([first, middle + last], axis), torch.stack([first + middle, last], axis)


def _convolution(upsampler: Any) -> Any:
    return upsampler.conv if upsampler.name == "conv" else upsampler.Conv2d_0


def is_plain(module: Any) -> bool:
    """Whether a module is an ``Upsample2D`` that :class:`SubPixelUpsample` can replace."""
    from diffusers.models.upsampling import Upsample2D  # slow to import, and not always needed

    if (
        type(module) is not Upsample2D
        or not module.use_conv
        or module.use_conv_transpose
        or not module.interpolate
        or module.norm is not None
    ):
        return False
    convolution = _convolution(module)
    return type(convolution) is nn.Conv2d and (
        convolution.kernel_size == (3, 3)
        and convolution.padding == (1, 1)
        and convolution.stride == (1, 1)
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
    )


def fold_upsamplers(unet: nn.Module) -> None:
    """Replace every plain ``Upsample2D`` inside a frozen network, in place."""
    replace_modules(unet, is_plain, SubPixelUpsample)
