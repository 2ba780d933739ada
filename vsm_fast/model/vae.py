"""Latent encoding of images by a diffusion model's VAE.

Two kinds: diffusers' ``AutoencoderKL``, whose posterior mode is used instead of a sample, so that
encoding is deterministic; and ``AutoencoderTiny`` (TAESD), a distilled approximation that costs a
fraction of the arithmetic and returns scaled latents itself.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

VAE_CLASSES = ("AutoencoderKL", "AutoencoderTiny")


def without_decoder(vae: Any) -> Any:
    """Remove a VAE's decoder in place, and return the VAE."""
    vae.decoder = None
    if hasattr(vae, "post_quant_conv"):
        vae.post_quant_conv = None
    return vae


def reduction(vae: Any) -> int:
    """Return the image pixels per latent cell along an axis."""
    convolutions = (m for m in vae.encoder.modules() if isinstance(m, nn.Conv2d))
    return math.prod(convolution.stride[0] for convolution in convolutions)


def encode(vae: Any, images: Tensor, scale: float, shift: float = 0.0) -> Tensor:
    """Encode images to scaled latents.

    Args:
        vae: ``AutoencoderKL``, ``AutoencoderTiny``, or the result of :func:`folded_vae`.
        images: float [B, 3, R, R] in [-1, 1].
        scale: Factor on the latent of an ``AutoencoderKL``, after the shift.
        shift: Subtracted from that latent.

    Returns:
        float [B, C, h, w].
    """
    if isinstance(vae, MeanEncoder):
        return vae(images)  # type: ignore[no-any-return]
    encoded = vae.encode(images)
    if hasattr(encoded, "latents"):  # from an AutoencoderTiny, scaled
        return encoded.latents  # type: ignore[no-any-return]
    return (encoded.latent_dist.mode() - shift) * scale  # type: ignore[no-any-return]


def folded_vae(vae: Any, scale: float, shift: float = 0.0) -> Any:
    """Return a VAE with folded constants, or the VAE itself if there are none to fold."""
    return MeanEncoder(vae, scale, shift) if hasattr(vae, "quant_conv") else vae


class MeanEncoder(nn.Module):
    """The encoder of a VAE up to the scaled mean of its latent.

    Args:
        vae: diffusers ``AutoencoderKL``; its encoder is reused.
        scale: Factor on the latent, after the shift.
        shift: Subtracted from the latent.
    """

    def __init__(self, vae: Any, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        self.encoder = vae.encoder
        last = self.encoder.conv_out
        channels = last.out_channels // 2  # the other half is the log variance
        weight, bias = last.weight.flatten(1), last.bias
        if vae.quant_conv is not None:
            mix = vae.quant_conv.weight.flatten(1)[:channels]
            weight, bias = mix @ weight, mix @ bias + vae.quant_conv.bias[:channels]
        else:
            weight, bias = weight[:channels], bias[:channels]
        mean = nn.Conv2d(last.in_channels, channels, last.kernel_size, padding=last.padding)
        mean.weight.data = scale * weight.reshape(mean.weight.shape)
        mean.bias = nn.Parameter(scale * (bias - shift))
        self.encoder.conv_out = mean.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Encode float [B, 3, R, R] in [-1, 1] to float [B, C, h, w]."""
        return self.encoder(images)  # type: ignore[no-any-return]
