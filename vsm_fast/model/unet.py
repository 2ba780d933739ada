"""Features of diffusers UNets: one forward pass on the clean image, read at the up blocks.

Levels are named ``us1``, ``us2``, …: the output of the K-th up-block layer, counted over all up
blocks; for the last layer of a block with an up-sampler, the output after it. Everything after the
last level is removed. One more level, ``pixels``, does not come from the UNet: see
``pixel_statistics``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsm_fast.errors import ModelError
from vsm_fast.model import pixel_statistics
from vsm_fast.model.folding import fold_context, fold_time, fold_upsamplers, save_memory
from vsm_fast.model.vae import encode, folded_vae, reduction, without_decoder

_BLOCKS = (
    "DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D",
    "UNetMidBlock2D", "UNetMidBlock2DCrossAttn",
    "UpBlock2D", "AttnUpBlock2D", "CrossAttnUpBlock2D",
)  # fmt: skip
_CONTEXT = "encoder_hidden_states"
_ADDED = ("text_embeds", "time_ids")  # SDXL adds these to the time embedding

# Settings that change the computation before the up blocks, with the only value that the
# traversal below reproduces. Other values are refused rather than ignored.
_PLAIN_SETTINGS = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "class_embed_type": None,
    "num_class_embeds": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
}


def level_index(name: str) -> int:
    """Return the zero-based up-block layer of a level name: 2 for ``"us3"``.

    Raises:
        ModelError: If the name is not ``us`` and a positive number.
    """
    match = re.fullmatch(r"us([1-9][0-9]*)", name)
    if not match:
        raise ModelError(f"levels are named us1, us2, ... and pixels; got {name!r}.")
    return int(match[1]) - 1


class UNetFeatures(nn.Module):
    """A diffusion UNet as a feature extractor, with its VAE if it has one.

    Args:
        unet: diffusers ``UNet2DModel`` or ``UNet2DConditionModel``. It is cut after the last
            level, and its residual blocks are replaced: do not use it elsewhere.
        levels: Distinct level names: at least one of the UNet, and optionally ``"pixels"``.
        timestep: Constant time step of the forward pass.
        vae: diffusers ``AutoencoderKL`` or ``AutoencoderTiny``, which loses its decoder; None for
            a UNet on pixels.
        latent_scale: Factor on the VAE's latent.
        pixel_unshuffle: Space-to-depth factor on the pixels of a UNet without a VAE; 1 = none.
        conditioning: Constant inputs of a ``UNet2DConditionModel`` by name:
            ``encoder_hidden_states``, float [1, tokens, channels]; for SDXL also
            ``text_embeds``, float [1, channels], and ``time_ids``, float [1, 6].

    Raises:
        ModelError: If the UNet lacks a level, uses an unsupported block or setting, or does not
            fit the VAE, ``pixel_unshuffle`` or ``conditioning``.
    """

    context: Tensor | None
    added: Tensor | None

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
        _check_supported(unet)
        _check_input_channels(unet, vae, pixel_unshuffle)
        self.levels = tuple(levels)
        self._layers = _layers_of(unet, self.levels)
        resnets = [resnet for block in unet.up_blocks for resnet in block.resnets]
        self.level_channels = tuple(
            pixel_statistics.CHANNELS
            if name == pixel_statistics.LEVEL
            else int(resnets[level_index(name)].out_channels)
            for name in self.levels
        )
        self.statistics = pixel_statistics.PixelStatistics()
        # A float, not a buffer: a cast of the network to bfloat16 must not turn 261 into 260.
        self.timestep = float(timestep)
        self.latent_scale = latent_scale
        self.pixel_unshuffle = pixel_unshuffle
        context, added = _constants(unet, conditioning or {})
        self.register_buffer("context", context, persistent=False)
        self.register_buffer("added", added, persistent=False)
        _cut(unet, max(self._layers))
        save_memory(unet)
        self.unet = unet
        if vae is not None:
            save_memory(without_decoder(vae))
        self.vae = vae

    def latent(self, images: Tensor) -> Tensor:
        """Encode images, float [B, 3, R, R] in [-1, 1], to the UNet's input [B, C, h, w]."""
        if self.vae is None:
            return F.pixel_unshuffle(images, self.pixel_unshuffle)
        return encode(self.vae, images, self.latent_scale)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract features of clean images.

        Args:
            images: float [B, 3, R, R] in [-1, 1].

        Returns:
            One tensor [B, C_l, h_l, w_l] per level, in the order of ``levels``.
        """
        of_unet = iter(self.unet_features(self.latent(images)))
        return tuple(
            self.statistics(images) if name == pixel_statistics.LEVEL else next(of_unet)
            for name in self.levels
        )

    def unet_features(self, sample: Tensor) -> tuple[Tensor, ...]:
        """Return the UNet's levels of a latent, float [B, C, h, w], in the order of ``levels``."""
        unet = self.unet
        embedding = None
        if unet.time_embedding is not None:  # otherwise folded into the biases
            embedding = self._time_embedding(sample.dtype, sample.device)
        context = self.context
        if context is not None:
            context = context.to(sample.dtype).expand(sample.shape[0], -1, -1)
        sample = unet.conv_in(sample)
        skips = [sample]
        for block in unet.down_blocks:
            sample, more = _call(block, sample, embedding, context)
            skips += more
        if unet.mid_block is not None:
            sample = _call(unet.mid_block, sample, embedding, context)
        collected: dict[int, Tensor] = {}
        layer = 0
        for block in unet.up_blocks:
            attentions = getattr(block, "attentions", None)
            for position, resnet in enumerate(block.resnets):
                sample = resnet(torch.cat([sample, skips.pop()], dim=1), embedding)
                if attentions is not None and getattr(block, "has_cross_attention", False):
                    sample = attentions[position](
                        sample, encoder_hidden_states=context, return_dict=False
                    )[0]
                elif attentions is not None:
                    sample = attentions[position](sample)
                if position + 1 == len(block.resnets) and block.upsamplers is not None:
                    size = skips[-1].shape[2:] if skips else None
                    for upsampler in block.upsamplers:
                        sample = upsampler(sample, size)
                if layer in self._layers:
                    collected[layer] = sample
                layer += 1
        return tuple(collected[layer] for layer in self._layers)

    def _time_embedding(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Embed the constant time step, and SDXL's other constants, to float [1, T]."""
        # One row for the whole batch, broadcast by the blocks: an image's features do not depend
        # on the batch size.
        timestep = torch.full((1,), self.timestep, dtype=torch.float32, device=device)
        embedding: Tensor = self.unet.time_embedding(self.unet.time_proj(timestep).to(dtype))
        if self.added is not None:
            embedding = embedding + self.unet.add_embedding(self.added.to(dtype))
        return embedding

    @torch.no_grad()
    def fold(self, resolution: int) -> None:
        """Fold all constants, in place; for inference only, and in float32.

        Modules of an unknown kind stay as they are, with the constants that they need. Folding
        again changes nothing.

        Args:
            resolution: Side of the images in pixels.

        Raises:
            ModelError: If images are smaller than one cell of the UNet's smallest map.
        """
        unet = self.unet
        cell = self.pixel_unshuffle if self.vae is None else reduction(self.vae)
        cell *= 2 ** sum(block.downsamplers is not None for block in unet.down_blocks)
        if resolution < cell:
            raise ModelError(
                f"resolution must be at least the {cell} pixels that one cell of the UNet's "
                f"smallest map covers; got {resolution}."
            )
        if resolution % cell == 0:
            fold_upsamplers(unet)
        if unet.time_embedding is not None:
            embedding = self._time_embedding(torch.float32, unet.conv_in.weight.device)
            if fold_time(unet, embedding):
                unet.time_embedding = unet.add_embedding = None
                self.added = None
        if self.context is not None and fold_context(unet, self.context):
            self.context = None
        self.vae = folded_vae(self.vae, self.latent_scale)


def _call(
    block: nn.Module, sample: Tensor, embedding: Tensor | None, context: Tensor | None
) -> Any:
    if getattr(block, "has_cross_attention", False):
        return block(sample, embedding, encoder_hidden_states=context)
    return block(sample, embedding)


def _blocks(unet: Any) -> list[Any]:
    middle = [] if unet.mid_block is None else [unet.mid_block]
    return [*unet.down_blocks, *middle, *unet.up_blocks]


def _check_supported(unet: Any) -> None:
    unknown = {type(block).__name__ for block in _blocks(unet)} - {*_BLOCKS}
    # AttnUpBlock2D can also have ResNet blocks as up-samplers, which take other arguments.
    for block in unet.up_blocks:
        upsamplers = getattr(block, "upsamplers", None) or ()
        unknown |= {type(upsampler).__name__ for upsampler in upsamplers} - {"Upsample2D"}
    if unknown:
        raise ModelError(
            f"UNet blocks {sorted(unknown)} are not supported; supported are {sorted(_BLOCKS)} "
            "with plain up-samplers."
        )
    for name, plain in _PLAIN_SETTINGS.items():
        value = unet.config.get(name, plain)
        if value != plain:
            raise ModelError(f"UNets with {name}={value!r} are not supported, only {plain!r}.")


def _check_input_channels(unet: Any, vae: Any, pixel_unshuffle: int) -> None:
    if vae is not None and pixel_unshuffle != 1:
        raise ModelError(
            f"pixel_unshuffle is for UNets without a VAE; got {pixel_unshuffle} and a VAE."
        )
    if vae is None:
        channels, origin = 3 * pixel_unshuffle**2, f"pixels with pixel_unshuffle {pixel_unshuffle}"
    else:
        channels, origin = vae.config.latent_channels, "the VAE's latent"
    if unet.config.in_channels != channels:
        raise ModelError(
            f"the UNet takes {unet.config.in_channels} channels, but {origin} gives {channels}."
        )


def _layers_of(unet: Any, levels: tuple[str, ...]) -> list[int]:
    """Return the up-block layers of the levels."""
    layers = [level_index(name) for name in levels if name != pixel_statistics.LEVEL]
    if not layers or len(set(levels)) < len(levels):
        raise ModelError(f"levels must be at least one of the UNet, each once; got {list(levels)}.")
    count = sum(len(block.resnets) for block in unet.up_blocks)
    if max(layers) >= count:
        raise ModelError(f"this UNet has levels us1 to us{count}; got {list(levels)}.")
    return layers


def _constants(
    unet: Any, conditioning: Mapping[str, Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the constant context, and the constant part of the time embedding.

    Both are required: without a context diffusers would silently attend to the image.
    """
    takes_context = any(getattr(block, "has_cross_attention", False) for block in _blocks(unet))
    kind = unet.config.get("addition_embed_type")
    if kind not in (None, "text_time"):
        raise ModelError(
            f"UNets with addition_embed_type={kind!r} are not supported, only None and 'text_time'."
        )
    required = ({_CONTEXT} if takes_context else set()) | (set(_ADDED) if kind else set())
    if set(conditioning) != required:
        raise ModelError(
            f"this UNet needs the conditioning tensors {sorted(required)}; "
            f"got {sorted(conditioning)}."
        )
    context = added = None
    if takes_context:
        context = conditioning[_CONTEXT]
        width = unet.config.cross_attention_dim
        fits = context.ndim == 3 and context.shape[0] == 1
        if not fits or (isinstance(width, int) and context.shape[2] != width):
            raise ModelError(f"{_CONTEXT} must be [1, tokens, {width}]; got {list(context.shape)}.")
    if kind:  # SDXL: the pooled prompt, then the sizes as waves
        text, sizes = (conditioning[name] for name in _ADDED)
        waves = unet.add_time_proj(sizes.flatten()).reshape(1, -1)
        width = unet.add_embedding.linear_1.in_features
        if text.ndim != 2 or len(text) != 1 or text.shape[1] + waves.shape[1] != width:
            raise ModelError(
                f"text_embeds {list(text.shape)} and time_ids {list(sizes.shape)} give "
                f"{text.shape[-1] + waves.shape[1]} channels; this UNet adds [1, {width}]."
            )
        added = torch.cat([text, waves.to(text)], dim=1)
    return context, added


def _cut(unet: Any, last: int) -> None:
    """Remove everything after up-block layer ``last``."""
    remaining = last + 1
    blocks = []
    for block in unet.up_blocks:
        if remaining <= 0:
            break
        count = len(block.resnets)
        if remaining < count:
            block.resnets = block.resnets[:remaining]
            if getattr(block, "attentions", None) is not None:
                block.attentions = block.attentions[:remaining]
            block.upsamplers = None
        remaining -= count
        blocks.append(block)
    unet.up_blocks = nn.ModuleList(blocks)
    unet.conv_norm_out = unet.conv_act = unet.conv_out = None
