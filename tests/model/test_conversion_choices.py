"""Conversion options: a transformer, a tiny VAE, revisions."""

from __future__ import annotations

import dataclasses
import json

import huggingface_hub.constants
import pytest
import released_models
import tiny_models
import torch
from released_models import RELEASED, UNTRAINED, put_in_cache, save_base
from safetensors.torch import load_file
from tiny_models import images
from training_runs import write_pairs

from vsm_fast import VSMScorer
from vsm_fast.errors import ModelError
from vsm_fast.lab.training.contrastive import ContrastiveTraining
from vsm_fast.lab.training.features import FeatureSettings
from vsm_fast.lab.training.train_job import TrainSettings, run_training
from vsm_fast.model.config import BackboneConfig
from vsm_fast.model.convert import LocalFiles, convert
from vsm_fast.model.load import build_backbone, read_config
from vsm_fast.model.presets import HubFiles, TextEncoder, with_revisions
from vsm_fast.model.transformer import TransformerFeatures

one_thread = tiny_models.one_thread
ENCODERS = tuple(
    TextEncoder(f"text_encoder{n}", f"tokenizer{n}", "CLIPTextModelWithProjection", "penultimate")
    for n in ("", "_2")
)
FILES = tuple(
    f"{part}/{name}"
    for part in ("transformer", "vae")
    for name in ("config.json", "diffusion_pytorch_model.safetensors")
) + tuple(name for encoder in ENCODERS for name in encoder.files)
TRANSFORMER = dataclasses.replace(
    UNTRAINED,
    name="small-sd3",
    base=HubFiles("org/sd3", FILES),
    text_encoders=ENCODERS,
    backbone=BackboneConfig(
        levels=("block1", "block3"), resolution=32, timestep=100, latent_scale=1.5, latent_shift=0.1
    ),
    denoiser="transformer",
)
TINY = HubFiles("org/taesd", ("config.json", "diffusion_pytorch_model.safetensors"))


def small_transformer(**settings):
    settings = {"joint_attention_dim": 30, "pooled_projection_dim": 20, **settings}
    return tiny_models.transformer(**settings)


def save_sd3(folder, model=None):
    """A base model in the layout of Stable Diffusion 3's repositories; returns its encoders."""
    first, second = (
        released_models.text_encoder("CLIPTextModelWithProjection", seed) for seed in (3, 4)
    )
    parts = {
        "transformer": model or small_transformer(), "vae": tiny_models.small_vae(),
        "text_encoder": first, "text_encoder_2": second,
    }  # fmt: skip
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    for name in ("tokenizer", "tokenizer_2"):
        released_models.save_tokenizer(folder / name)
    return first, second


@torch.no_grad()
def test_a_transformer_with_the_prompt_of_two_encoders(tmp_path):
    encoders = save_sd3(tmp_path / "base")
    local = LocalFiles(base=tmp_path / "base")
    config = convert(TRANSFORMER, tmp_path / "out", local, dtype=torch.float32)
    tokens = torch.tensor([[3, 4, 0, 0, 0, 0, 0]])
    described = [model(tokens, output_hidden_states=True) for model in encoders]
    prompt = torch.zeros(1, 7 + 256, 30)
    prompt[:, :7, :24] = torch.cat([found.hidden_states[-2] for found in described], dim=-1)
    constants = load_file(tmp_path / "out/conditioning.safetensors")
    torch.testing.assert_close(constants["encoder_hidden_states"], prompt)
    pooled = torch.cat([found.text_embeds for found in described], dim=-1)
    torch.testing.assert_close(constants["pooled_projections"], pooled)
    wanted = TransformerFeatures(
        small_transformer(), ("block1", "block3"), 100, vae=tiny_models.small_vae(),
        latent_scale=1.5, latent_shift=0.1, conditioning=constants,
    )  # fmt: skip
    found = build_backbone(config, tmp_path / "out")(images())
    for one, other in zip(found, wanted(images()), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_networks_are_trained_on_a_transformer(tmp_path):
    save_sd3(tmp_path / "base")
    convert(TRANSFORMER, tmp_path / "backbone", LocalFiles(base=tmp_path / "base"))
    write_pairs(tmp_path / "train", 3)
    write_pairs(tmp_path / "held-back", 3, seed=50, kinds=("none", "none", "other subject"))
    settings = TrainSettings(
        str(tmp_path / "train"), str(tmp_path / "held-back"), str(tmp_path / "backbone"),
        features=FeatureSettings(variants=1),
        training=ContrastiveTraining(epochs=1, batch=2, precision="fp32"),
    )  # fmt: skip
    model = run_training(settings, tmp_path / "run", device="cpu").model
    backbone, files = (read_config(folder).files for folder in (tmp_path / "backbone", model))
    assert backbone.items() <= files.items()
    with pytest.raises(ModelError, match="was not made by vsm-fast convert"):
        convert(TRANSFORMER, model, LocalFiles(base=tmp_path / "base"))
    picture = (images(1, 40)[0] + 1) / 2
    assert VSMScorer.from_pretrained(model, device="cpu").score([picture], [picture]).score == 1


@pytest.mark.parametrize("settings", [{"joint_attention_dim": 20}, {"pooled_projection_dim": 19}])
def test_encoders_that_do_not_fit_the_transformer(tmp_path, settings):
    save_sd3(tmp_path / "base", small_transformer(**settings))
    with pytest.raises(ModelError, match=r"24 channels|must be \[1, 19\]"):
        convert(TRANSFORMER, tmp_path / "out", LocalFiles(base=tmp_path / "base"))
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_a_tiny_vae_makes_a_model_with_a_name_of_its_own(tmp_path):
    base = save_base(tmp_path / "base")
    tiny_models.tiny_vae().save_pretrained(tmp_path / "taesd")
    preset = dataclasses.replace(UNTRAINED, tiny_vae=TINY)
    local = LocalFiles(base=base, tiny_vae=tmp_path / "taesd")
    config = convert(preset, tmp_path / "out", local, tiny_vae=True, dtype=torch.float32)
    assert config.name == "small-sd-tiny-vae"
    latent = build_backbone(config, tmp_path / "out").latent(images())
    wanted = tiny_models.tiny_vae().eval().encode(images()).latents
    torch.testing.assert_close(latent, wanted)
    with pytest.raises(ModelError, match="holds the preset 'small-sd-tiny-vae', not 'small-sd'"):
        convert(preset, tmp_path / "out", local)
    with pytest.raises(ModelError, match="no tiny VAE is known for the preset 'small-sd'"):
        convert(UNTRAINED, tmp_path / "other", local, tiny_vae=True)
    (tmp_path / "taesd/config.json").unlink()
    with pytest.raises(ModelError, match=r"lacks config.json.*hf download org/taesd config.json"):
        convert(preset, tmp_path / "third", local, tiny_vae=True)


def test_a_revision_that_was_asked_for_is_taken_and_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    base = save_base(tmp_path / "base")
    files = {name: base / name for name in UNTRAINED.base.files}
    put_in_cache(tmp_path / "hub", "org/sd", "c" * 40, files)
    with pytest.raises(ModelError, match=f"--revision {released_models.COMMIT}"):
        convert(UNTRAINED, tmp_path / "out")  # the preset's commit is not in the cache
    for revision in ("c" * 40, "main"):
        out = tmp_path / revision[:4]
        config = convert(UNTRAINED, out, revisions={"org/sd": revision})
        assert config.base_revision == f"org/sd@{'c' * 40}"
        lock = json.loads((out / "sources.json").read_text())["files"]
        assert {entry["revision"] for entry in lock} == {revision}
        assert load_files(out) == load_files(tmp_path / "cccc")


def load_files(folder):
    return read_config(folder).files


def test_revisions_are_for_the_presets_own_repositories():
    preset = with_revisions(RELEASED, {"org/vsm": "v2"})
    assert preset.networks.revision == preset.experiment.revision == "v2"
    assert preset.base == RELEASED.base
    with pytest.raises(
        ModelError, match=r"takes nothing from org/xl; .* org/cleandift, org/sd, org/vsm"
    ):
        with_revisions(RELEASED, {"org/xl": "v2"})
