"""The presets fit the published architectures, whose sizes are built here without memory."""

from __future__ import annotations

import re

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from vsm_fast.aggregation import AggregationNetwork
from vsm_fast.backbones.presets import PRESETS, converted_folder
from vsm_fast.backbones.unet import UNetFeatures
from vsm_fast.errors import ModelError
from vsm_fast.model_location import find_model

SD21 = {
    "sample_size": 96, "attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024,
    "use_linear_projection": True,
}  # fmt: skip
UNETS = {
    "cleandift-sd21": SD21,
    "sd21": SD21,
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sdxl": {
        "sample_size": 128, "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048, "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip


def built(name):
    """The preset's UNet and VAE, without values."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[name])
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2,
            up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(128, 256, 512, 512),
        )  # fmt: skip
        constants = {"encoder_hidden_states": torch.empty(1, 77, unet.config.cross_attention_dim)}
        if name == "sdxl":
            constants |= {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
    return unet, vae, constants


@pytest.mark.parametrize("name", PRESETS)
def test_levels_and_parameters_are_those_of_the_architecture(name):
    preset = PRESETS[name]
    unet, vae, constants = built(name)
    assert sum(parameter.numel() for parameter in unet.parameters()) == preset.parameters
    backbone = preset.backbone
    features = UNetFeatures(
        unet, backbone.levels, backbone.timestep, vae=vae, latent_scale=backbone.latent_scale,
        conditioning=constants,
    )  # fmt: skip
    assert features.level_channels == (1280, 640, 640, 320)
    side = backbone.resolution // 8
    levels = features.unet_features(torch.empty(1, 4, side, side, device="meta"))
    sides = [(level.shape[2], level.shape[3]) for level in levels]
    assert sides == [(side // 2, side // 2)] * 2 + [(side, side)] * 2
    with torch.device("meta"):
        AggregationNetwork(features.level_channels, preset.aggregation)


@pytest.mark.parametrize("name", PRESETS)
def test_sources_are_safetensors_and_revisions_commits(name):
    for source in PRESETS[name].sources:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.repository)
        assert source.revision is None or re.fullmatch("[0-9a-f]{40}", source.revision)
        assert len(set(source.files)) == len(source.files)
        assert {file.rpartition(".")[2] for file in source.files} <= {"json", "yaml", "safetensors"}


def test_only_the_papers_preset_has_published_networks():
    assert [name for name, preset in PRESETS.items() if preset.networks] == ["cleandift-sd21"]
    kinds = {name: preset.aggregation.first_level_weight for name, preset in PRESETS.items()}
    assert kinds == {"cleandift-sd21": "one", "sd21": "mixing", "sd15": "mixing", "sdxl": "mixing"}


def test_a_preset_is_found_where_it_was_converted_to(tmp_path, monkeypatch):
    monkeypatch.setenv("VSM_FAST_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"Run: vsm-fast convert --preset cleandift-sd21$"):
        find_model("cleandift-sd21")
    with pytest.raises(ModelError, match="revision 'v1' is for Hub repositories"):
        find_model("cleandift-sd21", revision="v1")
    (tmp_path / "cleandift-sd21").mkdir()  # somebody's folder that is no model
    folder = tmp_path / "home/models/cleandift-sd21"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert find_model("cleandift-sd21") == folder == converted_folder("cleandift-sd21")
    (tmp_path / "cleandift-sd21/config.json").write_text("{}")
    assert find_model("cleandift-sd21").resolve() == tmp_path / "cleandift-sd21"
    monkeypatch.delenv("VSM_FAST_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert converted_folder("sd15") == tmp_path / ".cache/vsm_fast/models/sd15"
