"""Presets against the published architectures, built without memory."""

from __future__ import annotations

import re

import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode

from vsm_fast.errors import ModelError
from vsm_fast.model.aggregation import AggregationNetwork
from vsm_fast.model.load import backbone_of
from vsm_fast.model.location import find_model
from vsm_fast.model.presets import PRESETS, converted_folder
from vsm_fast.model.unet import UNetFeatures

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


@pytest.mark.parametrize("name", UNETS)
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


def test_every_preset_is_of_an_architecture_that_is_built_here():
    assert set(PRESETS) == {*UNETS, "sd35-medium"}


def test_levels_and_parameters_of_the_transformer():
    preset = PRESETS["sd35-medium"]
    with FakeTensorMode():
        transformer = SD3Transformer2DModel(
            num_layers=24, num_attention_heads=24, attention_head_dim=64, joint_attention_dim=4096,
            caption_projection_dim=1536, pooled_projection_dim=2048, pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
        )  # fmt: skip
        parameters = sum(parameter.numel() for parameter in transformer.parameters())
        assert parameters == preset.parameters
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2, latent_channels=16,
            up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(128, 256, 512, 512),
            use_quant_conv=False, use_post_quant_conv=False,
        )  # fmt: skip
        constants = {
            "encoder_hidden_states": torch.empty(1, 333, 4096),
            "pooled_projections": torch.empty(1, 2048),
        }
        features = backbone_of(preset.backbone, {"transformer": transformer, "vae": vae}, constants)
        with torch.inference_mode():
            levels = features(torch.empty(1, 3, 1024, 1024))
    assert [tuple(level.shape) for level in levels] == [(1, 1536, 64, 64)] * 3
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
    assert {preset.aggregation.mask_reduction for preset in PRESETS.values()} == {"any"}
    kinds = {name: preset.aggregation.first_level_weight for name, preset in PRESETS.items()}
    assert kinds == {
        "cleandift-sd21": "one",
        "sd21": "mixing",
        "sd15": "mixing",
        "sdxl": "mixing",
        "sd35-medium": "mixing",
    }


def test_a_preset_is_found_where_it_was_converted_to(tmp_path, monkeypatch):
    monkeypatch.setenv("VSM_FAST_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"Run: vsm-fast convert --preset cleandift-sd21$"):
        find_model("cleandift-sd21")
    with pytest.raises(ModelError, match=r"convert --preset cleandift-sd21 --tiny-vae$"):
        find_model("cleandift-sd21-tiny-vae")
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
