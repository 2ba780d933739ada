"""Equivalent modules with less work, for frozen feature extractors of diffusers.

Residual blocks reuse memory. Time step and prompt are constant, so their results fold into the
weights: each residual block's projection of the time embedding into a bias, each cross-attention's
keys and values of the prompt into buffers. The image size is constant too: where all maps double
exactly, up-sampling and its convolution become one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsm_fast.errors import ModelError


class ResidualBlock(nn.Module):
    """A plain ``ResnetBlock2D``: same parameters, names and values, half the temporaries.

    Operations run in place, without a division by an output scale of 1. On a CPU new memory costs
    more than the arithmetic on it, as the system zeroes every fresh page.

    Args:
        block: diffusers ``ResnetBlock2D`` accepted by :func:`is_plain_block`. Its modules are
            reused, not copied.
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
        """Run the block; arguments are named as in diffusers.

        Args:
            input_tensor: float [B, C, h, w], not modified.
            temb: float [1 or B, T], embedding of the time step, not modified; None without one.

        Returns:
            float [B, out_channels, h, w].
        """
        hidden: Tensor = self.conv1(F.silu(self.norm1(input_tensor), inplace=True))
        if self.time_emb_proj is not None:
            assert temb is not None
            hidden += self.time_emb_proj(F.silu(temb))[:, :, None, None]
        hidden = self.conv2(self.dropout(F.silu(self.norm2(hidden), inplace=True)))
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        hidden += input_tensor
        return hidden


def is_plain_block(module: Any) -> bool:
    """Return whether a module is a ``ResnetBlock2D`` that :class:`ResidualBlock` can replace."""
    from diffusers.models.resnet import ResnetBlock2D  # slow to import

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
    _replace(network, is_plain_block, ResidualBlock)


def _replace(
    network: nn.Module, fits: Callable[[nn.Module], bool], create: Callable[[Any], nn.Module]
) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if fits(child):
                setattr(parent, name, create(child))


class SubPixelUpsample(nn.Module):
    """Nearest-neighbour doubling and a 3x3 convolution, as one 2x2 convolution before doubling.

    Among doubled pixels a 3x3 window covers 2x2 different ones; its overlapping weights depend on
    the parity of row and column. So each of the four kinds of pixels has a 2x2 kernel of summed
    weights: 16 products instead of 36.

    Args:
        upsampler: diffusers ``Upsample2D`` accepted by :func:`is_plain_upsampler`; frozen, float32.
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
        """Double a map; arguments are named as in diffusers.

        Args:
            hidden_states: float [B, C, h, w].
            output_size: (2 h, 2 w), or None.

        Returns:
            float [B, outputs, 2 h, 2 w].

        Raises:
            ModelError: If another size is requested.
        """
        batch, _, height, width = hidden_states.shape
        size = (2 * height, 2 * width)
        if output_size is not None and tuple(output_size) != size:
            raise ModelError(
                f"this network was folded for maps that double; got {height} x {width} to become "
                f"{tuple(output_size)}. Images must have the model's resolution."
            )
        kernels = self.conv(hidden_states).unflatten(1, (4, -1))
        parts = {
            (row, column): kernels[:, 2 * row + column, :, row : row + height,
                                   column : column + width]
            for row in (0, 1)
            for column in (0, 1)
        }  # fmt: skip
        if torch.compiler.is_exporting():  # in ONNX strided writes become slow scatters
            return F.pixel_shuffle(torch.stack([*parts.values()], dim=2).flatten(1, 2), 2)
        doubled = torch.empty(
            (batch, kernels.shape[2], *size),
            dtype=kernels.dtype,
            device=kernels.device,
            memory_format=torch.channels_last,
        )
        for (row, column), part in parts.items():
            doubled[:, :, row::2, column::2] = part
        return doubled


def _summed(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Sum three weights along an axis to two, for even and for odd positions."""
    first, middle, last = weight.unbind(axis)
    return torch.stack([first, middle + last], axis), torch.stack([first + middle, last], axis)


def _convolution(upsampler: Any) -> Any:
    return upsampler.conv if upsampler.name == "conv" else upsampler.Conv2d_0


def is_plain_upsampler(module: Any) -> bool:
    """Return whether a module is an ``Upsample2D`` that :class:`SubPixelUpsample` can replace."""
    from diffusers.models.upsampling import Upsample2D  # slow to import

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
    _replace(unet, is_plain_upsampler, SubPixelUpsample)


class ConstantCrossAttention(nn.Module):
    """A plain cross-attention of diffusers to a constant context.

    Args:
        attention: diffusers ``Attention`` accepted by :func:`is_plain_cross`. Its query and output
            projections are reused.
        context: float [1, tokens, channels].
    """

    key: Tensor
    value: Tensor

    def __init__(self, attention: Any, context: Tensor) -> None:
        super().__init__()
        self.heads: int = attention.heads
        self.to_q = attention.to_q
        self.to_out = attention.to_out[0]  # the rest is dropout
        for name, projection in (("key", attention.to_k), ("value", attention.to_v)):
            rows = projection(context).unflatten(2, (self.heads, -1)).transpose(1, 2)
            self.register_buffer(name, rows.contiguous())

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """Attend to the context: float [B, points, channels] to the same shape."""
        batch, points, _channels = hidden_states.shape
        # All images attend to the same tokens: to the kernel they are one long image.
        query = self.to_q(hidden_states).reshape(1, batch * points, self.heads, -1).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, self.key, self.value)
        merged = attended.transpose(1, 2).reshape(batch, points, -1)
        return self.to_out(merged)  # type: ignore[no-any-return]


def is_plain_cross(attention: Any) -> bool:
    """Return whether :class:`ConstantCrossAttention` can replace a module of diffusers."""
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    return (
        type(attention) is Attention
        and isinstance(attention.processor, AttnProcessor2_0)
        and attention.is_cross_attention
        and not attention.norm_cross
        and not attention.residual_connection
        and attention.rescale_output_factor == 1
        and all(
            getattr(attention, name) is None
            for name in ("spatial_norm", "group_norm", "norm_q", "norm_k")
        )
    )


class ConstantModulation(nn.Module):
    """A norm of diffusers with scale and shift from a constant embedding.

    Args:
        norm: diffusers ``AdaLayerNormZero``, ``SD35AdaLayerNormZeroX`` or
            ``AdaLayerNormContinuous``. Its plain norm is reused.
        embedding: float [1, channels], of time step and prompt.
    """

    def __init__(self, norm: Any, embedding: Tensor) -> None:
        super().__init__()
        self.norm = norm.norm
        modulation = norm.linear(norm.silu(embedding))
        self.parts = modulation.shape[1] // norm.linear.in_features
        for number, part in enumerate(modulation.chunk(self.parts, dim=1)):
            # Separate tensors: exported graphs would split one at every call.
            self.register_buffer(f"part{number}", part.contiguous())

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        """Return the result of the norm in diffusers.

        Args:
            hidden_states: float [B, points, channels].

        Returns:
            float [B, points, channels]; unless the norm is ``AdaLayerNormContinuous``, a tuple
            that starts with it.
        """
        parts = [self.get_buffer(f"part{number}") for number in range(self.parts)]
        normed = self.norm(hidden_states)

        def modulated(scale: Tensor, shift: Tensor) -> Tensor:
            return normed * (1 + scale[:, None]) + shift[:, None]  # type: ignore[no-any-return]

        if len(parts) == 2:
            return modulated(*parts)
        shift, scale, *gates = parts
        first = modulated(scale, shift)
        if len(parts) == 6:
            return first, *gates
        *gates, shift, scale, last_gate = gates
        return first, *gates, modulated(scale, shift), last_gate


class PositionedPatches(nn.Module):
    """Patch embedding of latents of one size, with constant positions.

    Args:
        patches: diffusers ``PatchEmbed`` of Stable Diffusion 3, which crops a table of positions.
            Its convolution is reused.
        side: Side of the latents.
    """

    positions: Tensor

    def __init__(self, patches: Any, side: int) -> None:
        super().__init__()
        self.proj = patches.proj
        self.register_buffer("positions", patches.cropped_pos_embed(side, side).clone())

    def forward(self, latent: Tensor) -> Tensor:
        """Embed float [B, C, side, side] to float [B, points, channels]."""
        return self.proj(latent).flatten(2).transpose(1, 2) + self.positions  # type: ignore[no-any-return]


def fold_time(unet: nn.Module, embedding: Tensor) -> bool:
    """Fold a time embedding, float [1, T], into the biases of each :class:`ResidualBlock`.

    Returns:
        Whether no module needs the embedding any more.
    """
    for block in unet.modules():
        if isinstance(block, ResidualBlock) and block.time_emb_proj is not None:
            shift = block.time_emb_proj(F.silu(embedding))[0]
            block.conv1.bias = nn.Parameter(block.conv1.bias + shift, requires_grad=False)
            block.time_emb_proj = None
    return all(getattr(module, "time_emb_proj", None) is None for module in unet.modules())


def fold_context(unet: nn.Module, context: Tensor) -> bool:
    """Replace every plain cross-attention by one to a context, float [1, tokens, channels].

    Returns:
        Whether no module needs the context any more.
    """
    from diffusers.models.attention import BasicTransformerBlock

    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    for block in blocks:
        if is_plain_cross(block.attn2) and not block.only_cross_attention:
            block.attn2 = ConstantCrossAttention(block.attn2, context)
    attentions = [block.attn2 for block in blocks if block.attn2 is not None]
    return all(isinstance(attention, ConstantCrossAttention) for attention in attentions)
