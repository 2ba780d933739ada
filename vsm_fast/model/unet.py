"""Features of diffusers UNets: one forward pass on the clean image, read at the up blocks.

Levels are named ``us1``, ``us2``, …: the output of the K-th up-block layer, counted over all up
blocks; for the last layer of a block that has an up-sampler, the output after it. What comes
after the last level in use (later layers, output convolution) is neither kept nor computed.
One more level, ``pixels``, does not come from the UNet: see ``pixel_statistics``.
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
from vsm_fast.model.folding import fold_constants
from vsm_fast.model.latents import encode, without_decoder
from vsm_fast.model.residual import save_memory

_DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D")
_MIDDLE_BLOCKS = ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn")
_UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "CrossAttnUpBlock2D")
_CONTEXT = "encoder_hidden_states"
_ADDED = ("text_embeds", "time_ids")  # what SDXL adds to the time embedding

# Settings that change what a diffusers UNet computes before its up blocks, with the only
# value that the traversal below reproduces. Anything else is refused rather than ignored.
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
    """Zero-based up-block layer of a level name: ``"us3"`` -> 2.

    Raises:
        ModelError: The name is not ``us`` and a positive number.
    """
    found = re.fullmatch(r"us([1-9][0-9]*)", name)
    if not found:
        raise ModelError(f"levels are named us1, us2, ... and pixels; got {name!r}.")
    return int(found[1]) - 1


class UNetFeatures(nn.Module):
    """A diffusion UNet, with its VAE if it has one, as a feature extractor.

    Args:
        unet: diffusers ``UNet2DModel`` or ``UNet2DConditionModel``. It is cut after the last
            level and its residual blocks are replaced: use it for nothing else.
        levels: Level names, each at most once: at least one of the UNet, and ``"pixels"``.
        timestep: Constant time step of the forward pass.
        vae: diffusers ``AutoencoderKL`` or ``AutoencoderTiny``, which loses its decoder; None for
            a UNet on pixels.
        latent_scale: Factor on the VAE's latent.
        pixel_unshuffle: Space-to-depth factor on the pixels of a UNet without a VAE; 1 = none.
        conditioning: Constant inputs of a ``UNet2DConditionModel`` by name:
            ``encoder_hidden_states``, float [1, tokens, channels]; for SDXL also
            ``text_embeds``, float [1, channels], and ``time_ids``, float [1, 6].

    Raises:
        ModelError: The UNet has no such level, uses a block or setting that is not supported,
            or does not fit the VAE, ``pixel_unshuffle`` or ``conditioning``.
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
        self._wanted = _wanted_layers(unet, self.levels)
        resnets = [resnet for block in unet.up_blocks for resnet in block.resnets]
        self.level_channels = tuple(
            pixel_statistics.CHANNELS
            if name == pixel_statistics.LEVEL
            else int(resnets[level_index(name)].out_channels)
            for name in self.levels
        )
        self.statistics = pixel_statistics.PixelStatistics()
        # A float, not a buffer: casting the network to bfloat16 must not turn 261 into 260.
        self.timestep = float(timestep)
        self.latent_scale = latent_scale
        self.pixel_unshuffle = pixel_unshuffle
        context, added = _constants(unet, conditioning or {})
        self.register_buffer("context", context, persistent=False)
        self.register_buffer("added", added, persistent=False)
        _cut(unet, max(self._wanted))
        save_memory(unet)
        self.unet = unet
        if vae is not None:
            save_memory(without_decoder(vae))
        self.vae = vae

    def latent(self, images: Tensor) -> Tensor:
        """What the UNet sees.

        Args:
            images: float [B, 3, R, R] in [-1, 1].

        Returns:
            float [B, C, h, w].
        """
        if self.vae is None:
            return F.pixel_unshuffle(images, self.pixel_unshuffle)
        return encode(self.vae, images, self.latent_scale)

    def time_embedding(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Embedding of the constant time step, and of SDXL's other constants, float [1, T]."""
        # One row for the whole batch: the blocks broadcast it, and an image's features do not
        # depend on how many others are embedded beside it.
        timestep = torch.full((1,), self.timestep, dtype=torch.float32, device=device)
        embedding: Tensor = self.unet.time_embedding(self.unet.time_proj(timestep).to(dtype))
        if self.added is not None:
            embedding = embedding + self.unet.add_embedding(self.added.to(dtype))
        return embedding

    def fold(self, resolution: int) -> None:
        """Fold what is constant, in place; for inference only, and in float32.

        Args:
            resolution: Side of the images in pixels.
        """
        fold_constants(self, resolution)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of clean images.

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
        """The UNet's levels of a latent, float [B, C, h, w], in the order of ``levels``."""
        unet = self.unet
        embedding = None
        if unet.time_embedding is not None:  # else folded into the biases
            embedding = self.time_embedding(sample.dtype, sample.device)
        context = self.context
        if context is not None:
            context = context.to(sample.dtype).expand(sample.shape[0], -1, -1)
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
            for position, resnet in enumerate(block.resnets):
                sample = resnet(torch.cat([sample, skips.pop()], dim=1), embedding)
                sample = _attend(block, position, sample, context)
                if position + 1 == len(block.resnets) and block.upsamplers is not None:
                    size = skips[-1].shape[2:] if skips else None
                    for upsampler in block.upsamplers:
                        sample = upsampler(sample, size)
                if layer in self._wanted:
                    collected[layer] = sample
                layer += 1
        return tuple(collected[layer] for layer in self._wanted)


def _call(
    block: nn.Module, sample: Tensor, embedding: Tensor | None, context: Tensor | None
) -> Any:
    if getattr(block, "has_cross_attention", False):
        return block(sample, embedding, encoder_hidden_states=context)
    return block(sample, embedding)


def _attend(block: Any, position: int, sample: Tensor, context: Tensor | None) -> Tensor:
    """The attention after a layer of an up block, if the block has any."""
    if getattr(block, "attentions", None) is None:
        return sample
    attention = block.attentions[position]
    if getattr(block, "has_cross_attention", False):
        return attention(sample, encoder_hidden_states=context, return_dict=False)[0]  # type: ignore[no-any-return]
    return attention(sample)  # type: ignore[no-any-return]


def _blocks(unet: Any) -> list[Any]:
    middle = [] if unet.mid_block is None else [unet.mid_block]
    return [*unet.down_blocks, *middle, *unet.up_blocks]


def _check_supported(unet: Any) -> None:
    known = {*_DOWN_BLOCKS, *_MIDDLE_BLOCKS, *_UP_BLOCKS}
    unknown = {type(block).__name__ for block in _blocks(unet)} - known
    # AttnUpBlock2D can also have ResNet blocks as up-samplers, which take other arguments.
    upsamplers = [
        upsampler
        for block in unet.up_blocks
        for upsampler in getattr(block, "upsamplers", None) or ()
    ]
    unknown |= {type(upsampler).__name__ for upsampler in upsamplers} - {"Upsample2D"}
    if unknown:
        raise ModelError(
            f"UNet blocks {sorted(unknown)} are not supported; supported are {sorted(known)} "
            "with plain up-samplers."
        )
    for name, plain in _PLAIN_SETTINGS.items():
        value = unet.config.get(name, plain)
        if value != plain:
            raise ModelError(f"UNets with {name}={value!r} are not supported, only {plain!r}.")


def _check_input_channels(unet: Any, vae: Any, pixel_unshuffle: int) -> None:
    if vae is None:
        given, origin = 3 * pixel_unshuffle**2, f"pixels with pixel_unshuffle {pixel_unshuffle}"
    elif pixel_unshuffle != 1:
        raise ModelError(
            f"pixel_unshuffle is for UNets without a VAE; got {pixel_unshuffle} and a VAE."
        )
    else:
        given, origin = vae.config.latent_channels, "the VAE's latent"
    if unet.config.in_channels != given:
        raise ModelError(
            f"the UNet takes {unet.config.in_channels} channels, but {origin} gives {given}."
        )


def _wanted_layers(unet: Any, levels: tuple[str, ...]) -> list[int]:
    wanted = [level_index(name) for name in levels if name != pixel_statistics.LEVEL]
    if not wanted or len(set(levels)) < len(levels):
        raise ModelError(f"levels must be at least one of the UNet, each once; got {list(levels)}.")
    layers = sum(len(block.resnets) for block in unet.up_blocks)
    if max(wanted) >= layers:
        raise ModelError(f"this UNet has levels us1 to us{layers}; got {list(levels)}.")
    return wanted


def _constants(
    unet: Any, conditioning: Mapping[str, Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """The constant context, and what is added to the time embedding.

    They must be given: without a context diffusers would silently attend to the image.
    """
    takes = any(getattr(block, "has_cross_attention", False) for block in _blocks(unet))
    adds = unet.config.get("addition_embed_type")
    if adds not in (None, "text_time"):
        raise ModelError(
            f"UNets with addition_embed_type={adds!r} are not supported, only None and 'text_time'."
        )
    wanted = ({_CONTEXT} if takes else set()) | (set(_ADDED) if adds else set())
    if set(conditioning) != wanted:
        raise ModelError(
            f"this UNet needs the conditioning tensors {sorted(wanted)}; "
            f"got {sorted(conditioning)}."
        )
    context = _context(unet, conditioning[_CONTEXT]) if takes else None
    return context, _added(unet, *(conditioning[name] for name in _ADDED)) if adds else None


def _context(unet: Any, context: Tensor) -> Tensor:
    width = unet.config.cross_attention_dim
    fits = context.ndim == 3 and context.shape[0] == 1
    if not fits or (isinstance(width, int) and context.shape[2] != width):
        raise ModelError(f"{_CONTEXT} must be [1, tokens, {width}]; got {list(context.shape)}.")
    return context


def _added(unet: Any, text: Tensor, sizes: Tensor) -> Tensor:
    """The input of SDXL's second embedding, float [1, P]: pooled prompt, then sizes as waves."""
    waves = unet.add_time_proj(sizes.flatten()).reshape(1, -1)
    wanted = unet.add_embedding.linear_1.in_features
    if text.ndim != 2 or len(text) != 1 or text.shape[1] + waves.shape[1] != wanted:
        raise ModelError(
            f"text_embeds {list(text.shape)} and time_ids {list(sizes.shape)} give "
            f"{text.shape[-1] + waves.shape[1]} channels; this UNet adds [1, {wanted}]."
        )
    return torch.cat([text, waves.to(text)], dim=1)


def _cut(unet: Any, last: int) -> None:
    """Remove everything after up-block layer ``last``."""
    first = 0
    kept = []
    for block in unet.up_blocks:
        wanted = last + 1 - first
        first += len(block.resnets)
        if wanted <= 0:
            break
        if wanted < len(block.resnets):
            block.resnets = block.resnets[:wanted]
            if getattr(block, "attentions", None) is not None:
                block.attentions = block.attentions[:wanted]
            block.upsamplers = None
        kept.append(block)
    unet.up_blocks = nn.ModuleList(kept)
    unet.conv_norm_out = unet.conv_act = unet.conv_out = None
