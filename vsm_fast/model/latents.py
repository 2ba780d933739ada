"""Images to the latents that a diffusion model sees, by the VAE that belongs to it.

Two kinds: diffusers' ``AutoencoderKL``, of which the mode is taken and not a sample, so that the
same image always gives the same latent; and ``AutoencoderTiny``, distilled from one (TAESD),
which is an approximation of it at a fraction of the arithmetic and gives scaled latents itself.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

VAE_CLASSES = ("AutoencoderKL", "AutoencoderTiny")


def without_decoder(vae: Any) -> Any:
    """A VAE after its decoder was removed, in place."""
    vae.decoder = None
    if hasattr(vae, "post_quant_conv"):
        vae.post_quant_conv = None
    return vae


def reduction(vae: Any) -> int:
    """Pixels of the image beneath one cell of a VAE's latent, along an axis."""
    convolutions = (m for m in vae.encoder.modules() if isinstance(m, nn.Conv2d))
    return math.prod(convolution.stride[0] for convolution in convolutions)


def encode(vae: Any, images: Tensor, scale: float, shift: float = 0.0) -> Tensor:
    """Scaled latents of images.

    Args:
        vae: ``AutoencoderKL``, ``AutoencoderTiny``, or what :func:`folded_vae` made of one.
        images: float [B, 3, R, R] in [-1, 1].
        scale: Factor on the latent of an ``AutoencoderKL``, after the shift.
        shift: What is subtracted from it.

    Returns:
        float [B, C, h, w].
    """
    if isinstance(vae, MeanEncoder):
        return vae(images)  # type: ignore[no-any-return]
    found = vae.encode(images)
    if hasattr(found, "latents"):  # of an AutoencoderTiny, scaled
        return found.latents  # type: ignore[no-any-return]
    return (found.latent_dist.mode() - shift) * scale  # type: ignore[no-any-return]


def folded_vae(vae: Any, scale: float, shift: float = 0.0) -> Any:
    """A VAE with as little as possible left to do, or the same where nothing can be folded."""
    return MeanEncoder(vae, scale, shift) if hasattr(vae, "quant_conv") else vae


class MeanEncoder(nn.Module):
    """The encoder of a VAE up to the scaled mean of its latent.

    Args:
        vae: diffusers ``AutoencoderKL``; its encoder is taken over.
        scale: Factor on the latent, after the shift.
        shift: What is subtracted from the latent.
    """

    def __init__(self, vae: Any, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        self.encoder = vae.encoder
        last = self.encoder.conv_out
        channels = last.out_channels // 2  # the other half is the logarithm of the variance
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
        """Float [B, 3, R, R] in [-1, 1] -> float [B, C, h, w]."""
        return self.encoder(images)  # type: ignore[no-any-return]
