"""What a model folder holds, and under which names.

``config.json``, ``aggregation.safetensors``, ``unet/`` or ``transformer/`` and perhaps ``vae/`` in
diffusers' format, and perhaps ``conditioning.safetensors`` with constant inputs.
"""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.json"
AGGREGATION = "aggregation.safetensors"
CONDITIONING = "conditioning.safetensors"
WEIGHTS = "diffusion_pytorch_model.safetensors"  # in each sub-folder, beside its config.json
# Classes of diffusers that a denoiser may have, by its sub-folder, and what each loses when it is
# cut for its features.
DENOISERS = {
    "unet": ("UNet2DModel", "UNet2DConditionModel"),
    "transformer": ("SD3Transformer2DModel",),
}
BRANCHES = ("semantic", "visual")
LAST_LAYERS = {"unet": "conv_out", "transformer": "proj_out", "vae": "decoder"}


def deciding_files(folder: Path) -> list[str]:
    """Files that decide what a model computes, by their path in its folder.

    ``config.json`` of the folder itself records the sha256 of each of them.
    """
    return [
        path.relative_to(folder).as_posix()
        for pattern in ("*/config.json", "**/*.safetensors")
        for path in sorted(folder.glob(pattern))
    ]


def published_key(key: str, branch: str) -> str:
    """Name in the file: ``bottleneck_layers.0.0…`` -> ``bottleneck_layers_semantic.0.0…``."""
    first, dot, rest = key.partition(".")
    return f"{first}_{branch}{dot}{rest}"
