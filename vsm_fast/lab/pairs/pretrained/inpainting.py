"""Alteration of a part by an inpainting model of diffusers.

The model sees the surroundings of the part, enlarged to its training resolution, as with
diffusers' ``padding_mask_crop``. Its output is reduced again, and only the pixels of the part are
taken from it.
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
from vsm_fast.lab.pairs.stages import Alteration, AlterationRequest
from vsm_fast.model.devices import choose_device, choose_dtype
from vsm_fast.model.pretrained import ModelSource, load_pipeline, weights_name

# Our wording: the paper gives none. "repaint" names the subject only.
PROMPTS = {
    "repaint": "a photo of a {subject}",
    "repaint texture": "a photo of a {subject} with a different surface pattern and texture",
    "repaint colour": "a photo of a {subject} in different colours",
    "repaint shape": "a photo of a {subject} with differently shaped details",
}
_MIN_CELLS = 8  # minimum side of the model's image, in latent cells
_SEEDS = 2**63


@dataclass(frozen=True)
class InpaintingSettings:
    """Sampling settings; the defaults are the paper's for SDXL.

    Attributes:
        strength: Share of the diffusion that is run, in (0, 1]; below 1 a trace of the original
            image remains in the noise.
        guidance: Weight of the prompt.
        steps: Denoising steps of a full run.
        padding: Visible pixels around the part.
        resolution: Longer side of the model's image in pixels; None = its training resolution.

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
class InpaintingModel:
    """A named model: diffusers pipeline class, Hub repository, settings."""

    pipeline: str
    repository: str
    settings: InpaintingSettings = InpaintingSettings()


INPAINTING_MODELS = {
    "sdxl-inpainting": InpaintingModel(
        "StableDiffusionXLInpaintPipeline", "diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
    ),
    "sd2-inpainting": InpaintingModel(
        "StableDiffusionInpaintPipeline", "sd2-community/stable-diffusion-2-inpainting"
    ),
    # FLUX.1 Fill is distilled: its guidance is another quantity, and its steps and strength are
    # the pipeline's defaults.
    "flux-fill": InpaintingModel(
        "FluxFillPipeline",
        "black-forest-labs/FLUX.1-Fill-dev",
        InpaintingSettings(strength=1.0, guidance=30.0, steps=50),
    ),
}


class Inpainter:
    """Alterer that repaints a part of a subject.

    Args:
        name: Name of the alterer in a dataset.
        pipeline: An inpainting pipeline of diffusers, on its device.
        settings: Sampling settings.
        weights: Name of the weights, for the record.
    """

    kinds = tuple(PROMPTS)

    def __init__(
        self, name: str, pipeline: Any, settings: InpaintingSettings, weights: str = ""
    ) -> None:
        self.name, self.weights = name, weights
        self._pipeline, self._settings = pipeline, settings
        pipeline.set_progress_bar_config(disable=True)  # the caller shows progress per pair

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
            name: ``"sdxl-inpainting"``, ``"sd2-inpainting"`` or ``"flux-fill"``. The weights of
                "flux-fill" have FLUX.1 [dev]'s non-commercial licence, to be accepted on the Hub
                before download; nothing selects them by default.
            source: Other weights for the same pipeline: Hub repository or folder.
            settings: None = those of ``INPAINTING_MODELS[name]``.
            variant: Variant of the weight files, such as ``"fp16"``.
            device: ``"auto"`` (CUDA if available), or a torch device.
            dtype: ``"auto"`` (float32 on a CPU, bfloat16 on CUDA), or a name such as
                ``"float16"``.
            offload: Keep only the active component of the pipeline on the GPU: slower, for GPUs
                without memory for all of them.

        Raises:
            ImportError: If transformers, or accelerate with ``offload``, is not installed.
            ModelError: If the weights are missing or incomplete.
            ValueError: If the name is unknown, or ``offload`` is set without a GPU.
        """
        if name not in INPAINTING_MODELS:
            raise ValueError(f"inpainting models are {', '.join(INPAINTING_MODELS)}; got {name!r}.")
        model, chosen = INPAINTING_MODELS[name], choose_device(device)
        if offload and chosen.type == "cpu":
            raise ValueError("offload moves components between GPU and main memory: no GPU here.")
        where = ModelSource.of(model.repository if source is None else source)
        # SDXL's watermark, added if its package is installed, would mark the altered parts.
        extra = {"add_watermarker": False} if "XL" in model.pipeline else {}
        pipeline = load_pipeline(
            model.pipeline,
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
        return cls(name, pipeline, settings or model.settings, weights_name(where, pipeline))

    def __call__(self, request: AlterationRequest) -> Alteration:
        """Repaint the part.

        Args:
            request: ``kind`` is one of :attr:`kinds`; None draws one. ``donor`` is not used.

        Returns:
            Pixels that differ only inside the part. ``details["inpainting"]`` records the model,
            prompt, seed, settings, visible region (left, top, right, bottom), and ``flagged``:
            True if the model's safety checker refused the image, which leaves the pixels
            unchanged.

        Raises:
            ValueError: If the kind is unknown, the part is empty, or the sizes differ.
            ModelError: If the model's output is not finite.
        """
        from diffusers.image_processor import VaeImageProcessor

        if request.pixels.shape != (*request.part.shape, 3):
            raise ValueError(
                "inpainting needs pixels [H, W, 3] and a part [H, W] of one size; got "
                f"{request.pixels.shape} and {request.part.shape}."
            )
        if not request.part.any():
            raise ValueError("inpainting needs a part with at least one pixel; got an empty part.")
        kind = request.kind
        if kind is None:
            kind = self.kinds[int(request.rng.integers(len(self.kinds)))]
        if kind not in PROMPTS:
            raise ValueError(f"{self.name} supports the kinds {', '.join(PROMPTS)}; got {kind!r}.")
        prompt = PROMPTS[kind].format(subject=spoken_name(request.subject))
        seed, settings = int(request.rng.integers(_SEEDS)), self._settings
        # The part with its padding, as square as the image allows.
        mask = Image.fromarray(request.part).convert("L")
        region = left, top, right, bottom = VaeImageProcessor.get_crop_region(
            mask, width=1, height=1, pad=settings.padding
        )
        size = (right - left, bottom - top)
        width, height = self._working_size(size)
        output = self._pipeline(
            prompt=prompt,
            image=Image.fromarray(request.pixels).crop(region).resize((width, height)),
            mask_image=mask.crop(region),
            width=width,
            height=height,
            strength=settings.strength,
            guidance_scale=settings.guidance,
            num_inference_steps=settings.steps,
            # A CPU generator gives the same noise on every device.
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
        )
        picture = output.images[0].float().cpu()
        if not torch.isfinite(picture).all():
            raise ModelError(
                f"{self.name} ({self.weights}) returned NaN or Inf. Load it with dtype='float32' "
                "or 'bfloat16'."
            )
        flagged = any(getattr(output, "nsfw_content_detected", None) or ())
        pixels = request.pixels.copy()
        if not flagged:
            levels = picture.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
            painted = np.asarray(Image.fromarray(levels.numpy()).resize(size))
            part = request.part[top:bottom, left:right]
            pixels[top:bottom, left:right][part] = painted[part]
        record = {
            "model": self.weights,
            "prompt": prompt,
            "seed": seed,
            "region": list(region),
            "flagged": flagged,
            **asdict(settings),
        }
        # One key: the provenance of a pair has its own seed and model.
        return Alteration(pixels, request.part.copy(), kind, {"inpainting": record})

    def _working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) of the model's image in pixels: whole cells, the same shape."""
        pipeline, resolution = self._pipeline, self._settings.resolution
        if resolution is None:
            latents = (
                pipeline.unet.config.sample_size
                if hasattr(pipeline, "unet")
                else pipeline.default_sample_size
            )
            resolution = latents * pipeline.vae_scale_factor
        cell = pipeline.image_processor.config.vae_scale_factor
        scale = resolution / max(size)
        width, height = (max(round(side * scale / cell), _MIN_CELLS) * cell for side in size)
        return width, height
