"""Step 7: gain and descriptor error of each lever on the SD 2.1 shape.

A lever is one change to the network in bfloat16, channels-last and eager. Its error is the cosine
of descriptors of random images with those of the float32 network; with random weights it shows
rounding, not the effect on scores.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.timing import measure
from benchmarks.sd_shape import FULL, LATENT_SCALE, TINY, network_of, parts
from vsm_fast.runtimes.torch_runtime import quantize_linear

BATCH = 8
Prepare = Callable[[nn.Module], Any]


def _as_it_is(model: nn.Module) -> nn.Module:
    return model


def _contiguous(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _xformers(model: Any) -> nn.Module:
    model.backbone.unet.enable_xformers_memory_efficient_attention()
    return model  # type: ignore[no-any-return]


def _tiny_vae(model: Any) -> nn.Module:
    from diffusers import AutoencoderTiny

    weight = next(model.parameters())
    model.backbone.vae = AutoencoderTiny(latent_channels=4).eval().to(weight.device, weight.dtype)
    model.backbone.latent_scale = LATENT_SCALE
    return model  # type: ignore[no-any-return]


def _quantized(precision: str) -> Prepare:
    def prepare(model: nn.Module) -> nn.Module:
        quantize_linear(model, precision)
        return model

    return prepare


def _compiled(mode: str | None, then: Prepare = _as_it_is) -> Prepare:
    return lambda model: torch.compile(then(model), mode=mode, dynamic=False)


def _attention(*backends: SDPBackend) -> AbstractContextManager[Any]:
    return sdpa_kernel(list(backends)) if backends else nullcontext()


# Name, precision, change to the network, attention.
LEVERS: tuple[tuple[str, torch.dtype, Prepare, tuple[SDPBackend, ...]], ...] = (
    ("default", torch.bfloat16, _as_it_is, ()),
    ("float16", torch.float16, _as_it_is, ()),
    ("float32", torch.float32, _as_it_is, ()),
    ("contiguous memory", torch.bfloat16, _contiguous, ()),
    ("attention: flash", torch.bfloat16, _as_it_is, (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)),
    ("attention: cuDNN", torch.bfloat16, _as_it_is, (SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)),
    (
        "attention: memory-efficient",
        torch.bfloat16,
        _as_it_is,
        (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
    ),
    ("attention: xformers", torch.bfloat16, _xformers, ()),
    ("tiny VAE (random weights: no distance)", torch.bfloat16, _tiny_vae, ()),
    ("int8", torch.bfloat16, _quantized("int8"), ()),
    ("float8", torch.bfloat16, _quantized("float8"), ()),
    ("torch.compile", torch.bfloat16, _compiled(None), ()),
    ("torch.compile, max-autotune", torch.bfloat16, _compiled("max-autotune"), ()),
    ("float8, torch.compile", torch.bfloat16, _compiled(None, _quantized("float8")), ()),
)
_QUICK = ("default", "float32", "contiguous memory", "tiny VAE (random weights: no distance)")


def run(device: torch.device, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield rows of (lever, images per second, least and mean cosine)."""
    side = 64 if quick else 768
    folded = network_of(parts(TINY if quick else FULL))
    folded.backbone.fold(side)  # type: ignore[operator]
    folded.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(2 if quick else BATCH, 3, side, side, device=device) * 2 - 1
    with torch.inference_mode():
        wanted = folded(images)
    for name, dtype, prepare, backends in LEVERS:
        if not quick or name in _QUICK:
            yield {"lever": name} | _row(folded, dtype, prepare, backends, images, wanted)


def _row(
    folded: nn.Module,
    dtype: torch.dtype,
    prepare: Prepare,
    backends: tuple[SDPBackend, ...],
    images: Tensor,
    wanted: tuple[Tensor, Tensor],
) -> dict[str, Any]:
    try:
        model = prepare(copy.deepcopy(folded).to(dtype))
        with torch.inference_mode(), _attention(*backends):
            found = model(images)
            timing = measure(lambda: model(images), images.device, milliseconds=600)
    except Exception as error:  # of any class: the other levers still run
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    cosines = torch.cat(
        [(a.float() * b).sum(1).flatten() for a, b in zip(found, wanted, strict=True)]
    )
    return {
        "images_per_s": len(images) / timing.p50 * 1e6,
        "least_cosine": float(cosines.min()),
        "mean_cosine": float(cosines.mean()),
        "peak_mib": timing.peak_mib,
    }
