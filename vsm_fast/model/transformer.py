"""Features of diffusion transformers: one forward pass on the clean image, read after blocks.

Supports the two-stream transformer of Stable Diffusion 3 and 3.5, which is a fifth of FLUX's size
and works without its largest text encoder. Levels are named ``block1``, ``block2``, …: the image
tokens after the K-th block. Everything after the last level is removed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vsm_fast.errors import ModelError
from vsm_fast.model.folding import ConstantModulation, PositionedPatches, save_memory
from vsm_fast.model.vae import encode, folded_vae, reduction, without_decoder

_CONTEXT, _POOLED = "encoder_hidden_states", "pooled_projections"
# Norms of diffusers whose attribute ``linear`` maps the time embedding to scale and shift.
_MODULATED = ("AdaLayerNormZero", "AdaLayerNormContinuous", "SD35AdaLayerNormZeroX")


class TransformerFeatures(nn.Module):
    """A diffusion transformer with its VAE as a feature extractor.

    Args:
        transformer: diffusers ``SD3Transformer2DModel``. It is cut after the last level: do not
            use it elsewhere.
        levels: Distinct level names.
        timestep: Constant time step of the forward pass, in [0, 1000]; 0 is a clean image.
        vae: diffusers ``AutoencoderKL`` or ``AutoencoderTiny``, which loses its decoder.
        latent_scale: Factor on the VAE's latent, after the shift.
        latent_shift: Subtracted from the VAE's latent.
        conditioning: Constant inputs by name: ``encoder_hidden_states``, float [1, tokens,
            channels], and ``pooled_projections``, float [1, channels].

    Raises:
        ModelError: If the transformer lacks a level, or does not fit the VAE or ``conditioning``.

    Source: Esser et al., "Scaling Rectified Flow Transformers" (arXiv 2403.03206).
    """

    context: Tensor
    pooled: Tensor | None

    def __init__(
        self,
        transformer: Any,
        levels: Sequence[str],
        timestep: float,
        *,
        vae: Any,
        latent_scale: float,
        latent_shift: float,
        conditioning: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self._numbers = _blocks_of(transformer, self.levels)
        constants = conditioning or {}
        _check_fit(transformer, vae, constants)
        self.level_channels = (int(transformer.inner_dim),) * len(self.levels)
        self.timestep = float(timestep)  # not a buffer: a cast of the network must not round it
        self.latent_scale, self.latent_shift = latent_scale, latent_shift
        self.register_buffer("context", constants[_CONTEXT], persistent=False)
        self.register_buffer("pooled", constants[_POOLED], persistent=False)
        blocks = transformer.transformer_blocks[: max(self._numbers) + 1]
        transformer.transformer_blocks = blocks
        transformer.norm_out = transformer.proj_out = None
        self.transformer = transformer
        save_memory(without_decoder(vae))
        self.vae = vae

    def latent(self, images: Tensor) -> Tensor:
        """Encode images, float [B, 3, R, R] in [-1, 1], to latents, float [B, C, h, w]."""
        return encode(self.vae, images, self.latent_scale, self.latent_shift)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract features of clean images.

        Args:
            images: float [B, 3, R, R] in [-1, 1].

        Returns:
            One tensor [B, C, h, w] per level, in the order of ``levels``.
        """
        network = self.transformer
        latent = self.latent(images)
        rows, columns = (side // network.config.patch_size for side in latent.shape[2:])
        tokens = network.pos_embed(latent)
        # Not len(tokens): a Python number makes the batch of an export a constant.
        context = self._embedded_context(tokens.dtype).expand(tokens.shape[0], -1, -1)
        embedding = self._time_embedding(tokens.dtype)
        collected: dict[int, Tensor] = {}
        for number, block in enumerate(network.transformer_blocks):
            context, tokens = block(
                hidden_states=tokens, encoder_hidden_states=context, temb=embedding
            )
            if number in self._numbers:
                collected[number] = tokens.transpose(1, 2).unflatten(2, (rows, columns))
        return tuple(collected[number] for number in self._numbers)

    def _embedded_context(self, dtype: torch.dtype) -> Tensor:
        context = self.context.to(dtype)
        return context if self.pooled is None else self.transformer.context_embedder(context)

    def _time_embedding(self, dtype: torch.dtype) -> Tensor:
        """Embed time step and pooled prompt to float [1, channels]; unused once folded."""
        if self.pooled is None:
            return self.context.new_zeros(1, 1, dtype=dtype)
        timestep = torch.full((1,), self.timestep, dtype=torch.float32, device=self.context.device)
        return self.transformer.time_text_embed(timestep, self.pooled.to(dtype))  # type: ignore[no-any-return]

    @torch.no_grad()
    def fold(self, resolution: int) -> None:
        """Fold all constants, in place; for inference only, and in float32.

        Time step and pooled prompt determine scale and shift of each block, a third of its
        weights; the table of positions is cropped. The prompt's tokens cannot be folded: they
        attend to the image from the first block on.

        Args:
            resolution: Side of the images in pixels.
        """
        if self.pooled is not None:
            embedding = self._time_embedding(torch.float32)
            for block in self.transformer.transformer_blocks:
                for name, module in list(block.named_children()):
                    if type(module).__name__ in _MODULATED:
                        setattr(block, name, ConstantModulation(module, embedding))
            side, rest = divmod(resolution, reduction(self.vae))
            if not rest:
                patches = PositionedPatches(self.transformer.pos_embed, side)
                self.transformer.pos_embed = patches
            self.context = self._embedded_context(torch.float32)
            self.pooled = None
            self.transformer.context_embedder = self.transformer.time_text_embed = None
        self.vae = folded_vae(self.vae, self.latent_scale, self.latent_shift)


def _blocks_of(transformer: Any, levels: tuple[str, ...]) -> list[int]:
    """Return the zero-based blocks of the levels."""
    numbers = []
    for name in levels:
        match = re.fullmatch(r"block([1-9][0-9]*)", name)
        if not match:
            raise ModelError(
                f"levels of a transformer are named block1, block2, ...; got {name!r}."
            )
        numbers.append(int(match[1]) - 1)
    if not numbers or len(set(levels)) < len(levels):
        raise ModelError(f"levels must be at least one, each once; got {list(levels)}.")
    count = len(transformer.transformer_blocks)
    if max(numbers) >= count:
        raise ModelError(f"this transformer has levels block1 to block{count}; got {list(levels)}.")
    return numbers


def _check_fit(transformer: Any, vae: Any, conditioning: Mapping[str, Tensor]) -> None:
    config = transformer.config
    if vae is None or config.in_channels != vae.config.latent_channels:
        actual = "no VAE" if vae is None else f"a VAE with {vae.config.latent_channels}"
        raise ModelError(
            f"the transformer needs a VAE with {config.in_channels} latent channels; got {actual}."
        )
    if set(conditioning) != {_CONTEXT, _POOLED}:
        raise ModelError(
            f"this transformer needs the conditioning tensors {sorted((_CONTEXT, _POOLED))}; "
            f"got {sorted(conditioning)}."
        )
    context, pooled = conditioning[_CONTEXT], conditioning[_POOLED]
    width = config.joint_attention_dim
    if context.ndim != 3 or context.shape[::2] != (1, width):
        raise ModelError(f"{_CONTEXT} must be [1, tokens, {width}]; got {list(context.shape)}.")
    if tuple(pooled.shape) != (1, config.pooled_projection_dim):
        raise ModelError(
            f"{_POOLED} must be [1, {config.pooled_projection_dim}]; got {list(pooled.shape)}."
        )
