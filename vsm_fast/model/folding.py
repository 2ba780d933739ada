"""Constants of a frozen feature extractor, computed once and folded into its weights.

Time step and prompt never change, so that what the network makes of them does not either: each
residual block's projection of the time embedding becomes part of a bias, each cross-attention
keeps the keys and values of the prompt instead of the matrices that make them, and the VAE
gives the scaled mean of its latent, without the variance that nobody reads. The size of the
images is constant too: where all maps double exactly, up-sampling and the convolution after it
become one (see ``upsampling``).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsm_fast.errors import ModelError
from vsm_fast.model.latents import folded_vae
from vsm_fast.model.latents import reduction as vae_reduction
from vsm_fast.model.residual import ResidualBlock
from vsm_fast.model.upsampling import fold_upsamplers


class ConstantCrossAttention(nn.Module):
    """A plain cross-attention of diffusers to a constant context.

    Args:
        attention: diffusers ``Attention`` for which :func:`is_plain_cross` holds. Its query and
            output projections are taken over.
        context: float [1, tokens, channels].
    """

    key: Tensor
    value: Tensor

    def __init__(self, attention: Any, context: Tensor) -> None:
        super().__init__()
        self.heads: int = attention.heads
        self.to_q = attention.to_q
        self.to_out = attention.to_out[0]  # what follows it is dropout
        for name, projection in (("key", attention.to_k), ("value", attention.to_v)):
            rows = projection(context).unflatten(2, (self.heads, -1)).transpose(1, 2)
            self.register_buffer(name, rows.contiguous())

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """Attend to the context; the argument is named as diffusers passes it.

        Args:
            hidden_states: float [B, points, channels].

        Returns:
            float [B, points, channels].
        """
        batch, points, _channels = hidden_states.shape
        # All images attend to the same tokens: to the kernel they are one long image.
        query = self.to_q(hidden_states).reshape(1, batch * points, self.heads, -1).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, self.key, self.value)
        merged = attended.transpose(1, 2).reshape(batch, points, -1)
        return self.to_out(merged)  # type: ignore[no-any-return]


class ConstantModulation(nn.Module):
    """A norm of diffusers that scales and shifts by what it makes of a constant embedding.

    Args:
        norm: diffusers ``AdaLayerNormZero``, ``SD35AdaLayerNormZeroX`` or
            ``AdaLayerNormContinuous``. Its plain norm is taken over.
        embedding: float [1, channels], of time step and prompt.
    """

    def __init__(self, norm: Any, embedding: Tensor) -> None:
        super().__init__()
        self.norm = norm.norm
        modulation = norm.linear(norm.silu(embedding))
        self.parts = modulation.shape[1] // norm.linear.in_features
        for number, part in enumerate(modulation.chunk(self.parts, dim=1)):
            # A tensor each: exported graphs would have to take one apart at every call.
            self.register_buffer(f"part{number}", part.contiguous())

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        """What the norm in diffusers gives.

        Args:
            hidden_states: float [B, points, channels].

        Returns:
            float [B, points, channels]; unless the norm is ``AdaLayerNormContinuous``, a tuple
            that begins with it.
        """
        parts = [self.get_buffer(f"part{number}") for number in range(self.parts)]
        normed = self.norm(hidden_states)
        if len(parts) == 2:
            scale, shift = parts
            return _modulated(normed, scale, shift)
        shift, scale, *gates = parts
        first = _modulated(normed, scale, shift)
        if len(parts) == 6:
            return first, *gates
        *gates, shift, scale, last_gate = gates
        return first, *gates, _modulated(normed, scale, shift), last_gate


class PositionedPatches(nn.Module):
    """Patches of latents of one size, with their constant positions.

    Args:
        patches: diffusers ``PatchEmbed`` as Stable Diffusion 3 has it, which cuts the middle out
            of a table of positions. Its convolution is taken over.
        side: Of the latents.
    """

    positions: Tensor

    def __init__(self, patches: Any, side: int) -> None:
        super().__init__()
        self.proj = patches.proj
        self.register_buffer("positions", patches.cropped_pos_embed(side, side).clone())

    def forward(self, latent: Tensor) -> Tensor:
        """Float [B, C, side, side] -> float [B, points, channels]."""
        return self.proj(latent).flatten(2).transpose(1, 2) + self.positions  # type: ignore[no-any-return]


def _modulated(normed: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return normed * (1 + scale[:, None]) + shift[:, None]


def fold_time(unet: nn.Module, embedding: Tensor) -> bool:
    """Fold the time embedding into the biases of residual blocks.

    Args:
        unet: Frozen, with its plain blocks replaced by :class:`ResidualBlock`.
        embedding: float [1, T].

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
    """Give every plain cross-attention the keys and values of a constant context.

    Args:
        unet: Frozen.
        context: float [1, tokens, channels].

    Returns:
        Whether no module needs the context any more.
    """
    from diffusers.models.attention import BasicTransformerBlock

    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    for block in blocks:
        if is_plain_cross(block.attn2) and not block.only_cross_attention:
            block.attn2 = ConstantCrossAttention(block.attn2, context)
    kept = [block.attn2 for block in blocks if block.attn2 is not None]
    return all(isinstance(attention, ConstantCrossAttention) for attention in kept)


def is_plain_cross(attention: Any) -> bool:
    """Whether :class:`ConstantCrossAttention` computes what a module of diffusers does."""
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


@torch.no_grad()
def fold_constants(features: Any, resolution: int) -> None:
    """Fold all constants of a feature extractor, in place; for inference only.

    What a module computes in another way than the plain one is left as it is, and keeps the
    constants that it needs.

    Args:
        features: A frozen ``UNetFeatures`` in float32; folding it again changes nothing.
        resolution: Side of the images in pixels.

    Raises:
        ModelError: Images are smaller than one cell of the UNet's smallest map.
    """
    reduction = _reduction(features)
    if resolution < reduction:
        raise ModelError(
            f"resolution must be at least the {reduction} pixels that one cell of the UNet's "
            f"smallest map covers; got {resolution}."
        )
    if resolution % reduction == 0:
        fold_upsamplers(features.unet)
    if features.unet.time_embedding is not None:
        embedding = features.time_embedding(torch.float32, features.unet.conv_in.weight.device)
        if fold_time(features.unet, embedding):
            features.unet.time_embedding = features.unet.add_embedding = None
            features.added = None
    if features.context is not None and fold_context(features.unet, features.context):
        features.context = None
    features.vae = folded_vae(features.vae, features.latent_scale)


def _reduction(features: Any) -> int:
    """Pixels of the image beneath one cell of the UNet's smallest map, along an axis."""
    sample = features.pixel_unshuffle
    if features.vae is not None:
        sample *= vae_reduction(features.vae)
    halvings = sum(block.downsamplers is not None for block in features.unet.down_blocks)
    return int(sample * 2**halvings)
