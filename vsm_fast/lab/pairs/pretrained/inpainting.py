"""Alteration of a part by a diffusion model that paints it anew, through diffusers.

The model sees the surroundings of the part, enlarged to the size that it was trained on, as with
diffusers' ``padding_mask_crop``; what it painted is reduced again and only the pixels of the part
are taken from it.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from vsm_fast.errors import ModelError
from vsm_fast.images.grounded_sam import spoken_name
from vsm_fast.lab.pairs.pairs import Mask, Pixels
from vsm_fast.lab.pairs.stages import Alteration, AlterationRequest
from vsm_fast.model.devices import choose_device, choose_dtype
from vsm_fast.model.pretrained import ModelSource, load_pipeline, weights_name

# Our wording: the published settings do not give any. "repaint" names the subject only.
PROMPTS = {
    "repaint": "a photo of a {subject}",
    "repaint texture": "a photo of a {subject} with a different surface pattern and texture",
    "repaint colour": "a photo of a {subject} in different colours",
    "repaint shape": "a photo of a {subject} with differently shaped details",
}
_MIN_CELLS = 8  # least side of the picture that the model sees, in its own cells
_SEEDS = 2**63


@dataclass(frozen=True)
class InpaintingSettings:
    """How to paint. The defaults are the paper's, for SDXL.

    Attributes:
        strength: In (0, 1], how much of the diffusion is run; below 1 a trace of the old picture
            stays in the noise.
        guidance: Weight of the prompt.
        steps: Denoising steps of a full run.
        padding: Pixels of the image around the part that the model sees.
        resolution: Longer side in pixels of the picture that the model works on; None = the one
            it was trained on.

    Source: arXiv 2509.21989, the automated dataset.
    """

    strength: float = 0.98
    guidance: float = 7.5
    steps: int = 30
    padding: int = 32
    resolution: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must lie in (0, 1]; got {self.strength}.")
        if int(self.steps * self.strength) < 1:
            raise ValueError(
                f"{self.steps} steps at strength {self.strength} leave no step to run; raise steps."
            )
        if self.padding < 0:
            raise ValueError(f"padding must be at least 0 pixels; got {self.padding}.")
        if self.resolution is not None and self.resolution < 64:
            raise ValueError(f"resolution must be at least 64 pixels; got {self.resolution}.")


@dataclass(frozen=True)
class Preset:
    """A model that can be named: pipeline class of diffusers, Hub repository, settings."""

    pipeline: str
    repository: str
    settings: InpaintingSettings


# FLUX.1 Fill is distilled: its guidance is another quantity than the others', and its steps and
# strength are those of the pipeline's own defaults.
PRESETS = {
    "sdxl-inpainting": Preset(
        "StableDiffusionXLInpaintPipeline",
        "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        InpaintingSettings(),
    ),
    "sd2-inpainting": Preset(
        "StableDiffusionInpaintPipeline",
        "sd2-community/stable-diffusion-2-inpainting",
        InpaintingSettings(),
    ),
    "flux-fill": Preset(
        "FluxFillPipeline",
        "black-forest-labs/FLUX.1-Fill-dev",
        InpaintingSettings(strength=1.0, guidance=30.0, steps=50),
    ),
}


class Inpainter:
    """Paints a part of a subject anew.

    Args:
        name: What the alterer is called in a dataset.
        pipeline: An inpainting pipeline of diffusers, on its device.
        settings: How to paint.
        weights: Name of the weights, for the record.
    """

    kinds = tuple(PROMPTS)

    def __init__(
        self, name: str, pipeline: Any, settings: InpaintingSettings, weights: str = ""
    ) -> None:
        self.name, self.weights = name, weights
        self._pipeline, self._settings = pipeline, settings
        pipeline.set_progress_bar_config(disable=True)  # the caller shows one per pair

    @classmethod
    def from_pretrained(
        cls,
        name: str = "sdxl-inpainting",
        source: ModelSource | str | os.PathLike[str] | None = None,
        *,
        settings: InpaintingSettings | None = None,
        variant: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        offload: bool = False,
    ) -> Inpainter:
        """Load a model.

        Args:
            name: ``"sdxl-inpainting"``, ``"sd2-inpainting"`` or ``"flux-fill"``. The weights that
                "flux-fill" names are under FLUX.1 [dev]'s non-commercial licence, which you
                accept on the Hub before you can fetch them; nothing here takes them by itself.
            source: Other weights for the same pipeline: Hub repository or folder.
            settings: None = those of ``PRESETS[name]``.
            variant: Which weight files to take, like ``"fp16"``.
            device: ``"auto"`` (CUDA when there is one), or a torch device.
            dtype: ``"auto"`` (float32 on a CPU, bfloat16 on CUDA), or a name like ``"float16"``.
            offload: Keep each model of the pipeline in main memory and only the one at work on
                the GPU: slower, for GPUs that do not hold all of them.

        Raises:
            ImportError: transformers, or accelerate with ``offload``, is not installed.
            ModelError: The weights are missing or incomplete.
            ValueError: An unknown name, or ``offload`` without a GPU.
        """
        if name not in PRESETS:
            raise ValueError(f"inpainting models are {', '.join(PRESETS)}; got {name!r}.")
        preset, chosen = PRESETS[name], choose_device(device)
        if offload and chosen.type == "cpu":
            raise ValueError("offload moves models between a GPU and main memory: no GPU here.")
        where = ModelSource.of(preset.repository if source is None else source)
        # SDXL's watermark would mark the altered parts of a dataset where its package is installed.
        extra = {"add_watermarker": False} if "XL" in preset.pipeline else {}
        pipeline = load_pipeline(
            preset.pipeline,
            where,
            choose_dtype(dtype, chosen),
            purpose=f"the alterer {name}",
            variant=variant,
            **extra,
        )
        if offload:
            pipeline.enable_model_cpu_offload(device=chosen)
        else:
            pipeline.to(chosen)
        return cls(name, pipeline, settings or preset.settings, weights_name(where, pipeline))

    def __call__(self, request: AlterationRequest) -> Alteration:
        """Paint the part anew.

        Args:
            request: ``kind`` is one of :attr:`kinds`; None draws one. ``donor`` is not used.

        Returns:
            Pixels that differ from the request's inside the part only. ``details["inpainting"]``
            has the model, the prompt, the seed, the settings, the region (left, top, right,
            bottom) that the model saw, and ``flagged``: the model's own safety checker refused
            the picture, and the pixels are unchanged.

        Raises:
            ValueError: An unknown kind, an empty part, or sizes that do not fit.
            ModelError: The model's output is not finite.
        """
        _check(request)
        kind = request.kind
        if kind is None:
            kind = self.kinds[int(request.rng.integers(len(self.kinds)))]
        if kind not in PROMPTS:
            raise ValueError(f"{self.name} knows the kinds {', '.join(PROMPTS)}; got {kind!r}.")
        prompt = PROMPTS[kind].format(subject=spoken_name(request.subject))
        seed = int(request.rng.integers(_SEEDS))
        region = _region(request.part, self._settings.padding)
        painted, flagged = self._paint(request, region, prompt, seed)
        pixels = request.pixels.copy()
        if not flagged:
            left, top, right, bottom = region
            part = request.part[top:bottom, left:right]
            pixels[top:bottom, left:right][part] = painted[part]
        record = {
            "model": self.weights,
            "prompt": prompt,
            "seed": seed,
            "region": list(region),
            "flagged": flagged,
            **asdict(self._settings),
        }
        # Under one key: a pair's provenance has a seed and a model of its own.
        return Alteration(pixels, request.part.copy(), kind, {"inpainting": record})

    def _paint(
        self, request: AlterationRequest, region: tuple[int, int, int, int], prompt: str, seed: int
    ) -> tuple[Pixels, bool]:
        """The region painted anew, uint8 at its own size; and whether it was refused."""
        width, height = self._working_size(region)
        output = self._pipeline(
            prompt=prompt,
            image=Image.fromarray(request.pixels).crop(region).resize((width, height)),
            mask_image=Image.fromarray(request.part).convert("L").crop(region),
            width=width,
            height=height,
            strength=self._settings.strength,
            guidance_scale=self._settings.guidance,
            num_inference_steps=self._settings.steps,
            # On the CPU, so that a seed means the same noise on every device.
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
        )
        picture = output.images[0].float().cpu()
        if not torch.isfinite(picture).all():
            raise ModelError(
                f"{self.name} ({self.weights}) gave NaN or Inf; load it with dtype='float32' or "
                "'bfloat16'."
            )
        levels = picture.clamp(0, 1).mul(255).round().to(torch.uint8)
        size = (region[2] - region[0], region[3] - region[1])
        painted = Image.fromarray(levels.permute(1, 2, 0).numpy()).resize(size)
        flagged = any(getattr(output, "nsfw_content_detected", None) or ())
        return np.asarray(painted), flagged

    def _working_size(self, region: tuple[int, int, int, int]) -> tuple[int, int]:
        """(width, height) in pixels that the model works at: the region's shape, in whole cells."""
        pipeline = self._pipeline
        cell = pipeline.image_processor.config.vae_scale_factor
        resolution = self._settings.resolution
        if resolution is None:
            latents = (
                pipeline.unet.config.sample_size
                if hasattr(pipeline, "unet")
                else pipeline.default_sample_size
            )
            resolution = latents * pipeline.vae_scale_factor
        sides = (region[2] - region[0], region[3] - region[1])
        scale = resolution / max(sides)
        width, height = (max(round(side * scale / cell), _MIN_CELLS) * cell for side in sides)
        return width, height


def _region(part: Mask, padding: int) -> tuple[int, int, int, int]:
    """The part with ``padding`` pixels around it, as square as the image allows."""
    from diffusers.image_processor import VaeImageProcessor

    left, top, right, bottom = VaeImageProcessor.get_crop_region(
        Image.fromarray(part).convert("L"), width=1, height=1, pad=padding
    )
    return left, top, right, bottom


def _check(request: AlterationRequest) -> None:
    if request.pixels.shape != (*request.part.shape, 3):
        raise ValueError(
            f"an alteration wants pixels [H, W, 3] and a part [H, W] of one size; got "
            f"{request.pixels.shape} and {request.part.shape}."
        )
    if not request.part.any():
        raise ValueError("an alteration wants a part with at least one pixel; got an empty one.")
