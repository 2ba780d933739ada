"""Features of diffusers UNets: one forward pass on the clean image, read at the up blocks.

Levels are named ``us1``, ``us2``, …: the output of the K-th up-block layer, counted over all up
blocks; for the last layer of a block that has an up-sampler, the output after it. What comes
after the last level in use (later layers, output convolution) is neither kept nor computed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsm_fast.errors import ModelError


def level_index(name: str) -> int:
    """Zero-based up-block layer of a level name: ``"us3"`` -> 2.

    Raises:
        ModelError: The name is not ``us`` and a positive number.
    """
    found = re.fullmatch(r"us([1-9]\d*)", name)
    if not found:
        raise ModelError(f"levels are named us1, us2, ...; got {name!r}.")
    return int(found[1]) - 1


class UNetFeatures(nn.Module):
    """A diffusion UNet, with its VAE if it has one, as a feature extractor.

    Args:
        unet: diffusers ``UNet2DModel`` or ``UNet2DConditionModel``. It is cut after the last
            level: use it for nothing else.
        levels: Level names, each at most once.
        timestep: Constant time step of the forward pass.
        vae: diffusers ``AutoencoderKL``; None for a UNet on pixels.
        latent_scale: Factor on the latent.
        pixel_unshuffle: Space-to-depth factor on the pixels of a UNet without a VAE.
        conditioning: Constant keyword tensors of the UNet, such as ``encoder_hidden_states``
            [1, tokens, channels].
    """

    def __init__(
        self,
        unet: Any,
        levels: Sequence[str],
        timestep: float,
        *,
        vae: Any = None,
        latent_scale: float = 1.0,
        pixel_unshuffle: int = 1,
        conditioning: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self._wanted = [level_index(name) for name in levels]
        layers = sum(len(block.resnets) for block in unet.up_blocks)
        if not self._wanted or len(set(self._wanted)) < len(self._wanted):
            raise ModelError(f"levels must be at least one, each once; got {list(levels)}.")
        if max(self._wanted) >= layers:
            raise ModelError(
                f"this UNet has levels us1 to us{layers}; got {list(levels)}."
            )
        self.latent_scale = latent_scale
        self.pixel_unshuffle = pixel_unshuffle
        self.unet = unet
        self.vae = vae
        if vae is not None:
            vae.decoder = None
            vae.post_quant_conv = None
        _cut(unet, max(self._wanted))
        self.register_buffer("timestep", torch.tensor([float(timestep)]), persistent=False)
        self._conditioning = tuple(conditioning or {})
        for name, value in (conditioning or {}).items():
            self.register_buffer(f"conditioning_{name}", value, persistent=False)

    def latent(self, images: Tensor) -> Tensor:
        """What the UNet sees: float [B, 3, R, R] in [-1, 1] -> float [B, C, h, w].

        The mode of the posterior, not a sample of it: the same image gives the same latent.
        """
        if self.vae is None:
            return F.pixel_unshuffle(images, self.pixel_unshuffle)
        return self.vae.encode(images).latent_dist.mode() * self.latent_scale  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of clean images.

        Args:
            images: float [B, 3, R, R] in [-1, 1].

        Returns:
            One tensor [B, C_l, h_l, w_l] per level, in the order of ``levels``.
        """
        return self.unet_features(self.latent(images))

    def unet_features(self, sample: Tensor) -> tuple[Tensor, ...]:
        """The levels of a latent, float [B, C, h, w]."""
        unet = self.unet
        timestep = self.timestep.expand(len(sample))
        embedding = unet.time_embedding(unet.time_proj(timestep).to(sample.dtype))
        context = None
        if "encoder_hidden_states" in self._conditioning:
            context = self.conditioning_encoder_hidden_states.to(sample.dtype)
            context = context.expand(len(sample), -1, -1)
        sample = unet.conv_in(sample)
        skips = [sample]
        for block in unet.down_blocks:
            sample, added = _call(block, sample, embedding, context)
            skips += added
        if unet.mid_block is not None:
            sample = _call(unet.mid_block, sample, embedding, context)
        collected: dict[int, Tensor] = {}
        layer = 0
        for block in unet.up_blocks:
            attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
            for resnet, attention in zip(block.resnets, attentions, strict=True):
                sample = resnet(torch.cat([sample, skips.pop()], dim=1), embedding)
                if attention is not None:
                    sample = _attend(attention, sample, context)
                last = resnet is block.resnets[-1] and not getattr(block, "was_cut", False)
                if last and block.upsamplers is not None:
                    size = skips[-1].shape[2:] if skips else None
                    for upsampler in block.upsamplers:
                        sample = upsampler(sample, size)
                collected[layer] = sample
                layer += 1
        return tuple(collected[index] for index in self._wanted)


def _call(block: nn.Module, sample: Tensor, embedding: Tensor, context: Tensor | None) -> Any:
    if getattr(block, "has_cross_attention", False):
        return block(sample, embedding, encoder_hidden_states=context)
    return block(sample, embedding)


def _attend(attention: nn.Module, sample: Tensor, context: Tensor | None) -> Tensor:
    if context is None:
        return attention(sample)  # type: ignore[no-any-return]
    return attention(sample, encoder_hidden_states=context, return_dict=False)[0]  # type: ignore[no-any-return]


def _cut(unet: Any, last: int) -> None:
    """Remove everything after up-block layer ``last``."""
    first = 0
    kept = []
    for block in unet.up_blocks:
        wanted = last + 1 - first
        first += len(block.resnets)
        if wanted <= 0:
            continue
        if wanted < len(block.resnets):
            block.resnets = block.resnets[:wanted]
            if getattr(block, "attentions", None):
                block.attentions = block.attentions[:wanted]
            block.upsamplers = None
            block.was_cut = True
        kept.append(block)
    unet.up_blocks = nn.ModuleList(kept)
    unet.conv_norm_out = unet.conv_act = unet.conv_out = None
