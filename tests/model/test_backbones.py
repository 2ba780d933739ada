"""UNet features against hooks on the plain diffusers forward pass."""

from __future__ import annotations

import copy

import pytest
import tiny_models
import torch
from diffusers import UNet2DConditionModel
from tiny_models import condition_unet, context, images, pixel_unet, plain_levels, small_vae

from vsm_fast.errors import ModelError
from vsm_fast.model.unet import UNetFeatures, level_index

one_thread = tiny_models.one_thread
PIXEL_LEVELS = [f"us{k}" for k in range(1, 7)]
CONDITION_LEVELS = [f"us{k}" for k in range(1, 13)]


def pixel_features(levels, unet=None, **options):
    options = {"pixel_unshuffle": 2, **options}
    return UNetFeatures(copy.deepcopy(unet or pixel_unet()), levels, 50, **options).eval()


def condition_features(levels, unet=None, timestep=261):
    unet = copy.deepcopy(unet or condition_unet())
    conditioning = {"encoder_hidden_states": context()}
    return UNetFeatures(unet, levels, timestep, vae=small_vae(), conditioning=conditioning).eval()


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for mine, plain in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=0)


@pytest.mark.parametrize("attention", [False, True])
@torch.no_grad()
def test_levels_of_a_pixel_unet_are_those_of_the_plain_forward(attention):
    unet = pixel_unet(attention)
    sample = torch.nn.functional.pixel_unshuffle(images(), 2)
    plain = plain_levels(unet, sample, 50)
    assert_same(pixel_features(PIXEL_LEVELS, unet)(images()), [plain[k] for k in PIXEL_LEVELS])


@torch.no_grad()
def test_levels_of_a_conditional_unet_are_those_of_the_plain_forward():
    unet, sample = condition_unet(), torch.randn(1, 4, 16, 16)
    plain = plain_levels(unet, sample, 261, context())
    features = condition_features(CONDITION_LEVELS, unet)
    assert_same(features.unet_features(sample), [plain[k] for k in CONDITION_LEVELS])


@pytest.mark.parametrize("level", ["us1", "us3", "us7", "us12"])  # within and after a block
@torch.no_grad()
def test_cutting_after_any_level_leaves_it_unchanged(level):
    unet, sample = condition_unet(), torch.randn(1, 4, 16, 16)
    features = condition_features([level], unet)
    assert_same(features.unet_features(sample), [plain_levels(unet, sample, 261, context())[level]])
    layers = [resnet for block in features.unet.up_blocks for resnet in block.resnets]
    assert len(layers) == level_index(level) + 1
    assert features.unet.conv_out is None


def test_a_cut_unet_keeps_the_up_sampler_only_behind_a_whole_block():
    assert condition_features(["us3"]).unet.up_blocks[-1].upsamplers is not None
    assert condition_features(["us2"]).unet.up_blocks[-1].upsamplers is None
    assert len(condition_features(["us2"]).unet.up_blocks[-1].resnets) == 2


@torch.no_grad()
def test_levels_come_in_the_order_asked_for():
    ordered = pixel_features(["us2", "us5"])(images())
    swapped = pixel_features(["us5", "us2"])(images())
    assert_same(swapped, ordered[::-1])
    assert ordered[0].shape != ordered[1].shape


@torch.no_grad()
def test_latents_that_do_not_halve_evenly_follow_the_plain_forward():
    unet, sample = condition_unet(), torch.randn(1, 4, 18, 22)
    plain = plain_levels(unet, sample, 261, context())
    features = condition_features(CONDITION_LEVELS, unet)
    assert_same(features.unet_features(sample), [plain[k] for k in CONDITION_LEVELS])


@torch.no_grad()
def test_a_fractional_time_step_is_used_as_it_is():
    unet, sample = condition_unet(), torch.randn(1, 4, 16, 16)
    near = condition_features(["us4"], unet, 261).unet_features(sample)[0]
    features = condition_features(["us4"], unet, 260.6)
    plain = plain_levels(unet, sample, torch.tensor([260.6]), context())["us4"]
    assert_same(features.unet_features(sample), [plain])
    assert not torch.equal(plain, near)


@torch.no_grad()
def test_the_time_step_survives_a_cast_of_the_network():
    features = condition_features(["us1"]).to(torch.bfloat16)
    seen = []
    features.unet.time_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features(images(size=32).to(torch.bfloat16))
    assert seen[0].dtype == torch.float32
    assert seen[0].tolist() == [261.0]  # bfloat16 has 260 and 262 only


@torch.no_grad()
def test_an_image_does_not_depend_on_its_neighbours():
    for features in (pixel_features(PIXEL_LEVELS), condition_features(CONDITION_LEVELS)):
        together = features(images(5))
        alone = features(images(5)[3:4])
        for batch, single in zip(together, alone, strict=True):
            torch.testing.assert_close(batch[3:4], single, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_latent_is_the_scaled_mode_of_the_posterior():
    vae = small_vae()
    posterior = vae.encode(images(2)).latent_dist
    features = UNetFeatures(
        pixel_unet(in_channels=4), ["us1"], 0, vae=copy.deepcopy(vae), latent_scale=0.18215
    )
    latent = features.latent(images(2))
    torch.testing.assert_close(latent, posterior.mean * 0.18215, rtol=0, atol=0)
    assert (posterior.sample() * 0.18215 - latent).abs().max() > 0.01
    assert features.vae.decoder is None


@torch.no_grad()
def test_pixels_are_rearranged_not_resampled():
    latent = pixel_features(["us1"]).latent(images(2))
    assert latent.shape == (2, 12, 16, 16)
    blocks = images(2).reshape(2, 3, 16, 2, 16, 2).permute(0, 1, 3, 5, 2, 4)
    assert torch.equal(latent, blocks.reshape(2, 12, 16, 16))


def test_level_shapes_of_stable_diffusion_2_1():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=96,
            attention_head_dim=(5, 10, 20, 20),
            cross_attention_dim=1024,
            use_linear_projection=True,
        )
        condition = {"encoder_hidden_states": torch.empty(1, 77, 1024)}
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6, 1) == 865.9
    names = [f"us{k}" for k in range(1, 11)]
    features = UNetFeatures(unet, names, 261, vae=small_vae(), conditioning=condition)
    with torch.no_grad():
        levels = features.unet_features(torch.empty(2, 4, 96, 96, device="meta"))
    shapes = {name: tuple(level.shape[1:]) for name, level in zip(names, levels, strict=True)}
    sizes = {"us1": (1280, 12), "us2": (1280, 12), "us3": (1280, 24), "us4": (1280, 24),
             "us5": (1280, 24), "us6": (1280, 48), "us7": (640, 48), "us8": (640, 48),
             "us9": (640, 96), "us10": (320, 96)}  # fmt: skip
    assert shapes == {name: (channels, size, size) for name, (channels, size) in sizes.items()}
    assert features.level_channels == tuple(channels for channels, _ in sizes.values())


@pytest.mark.parametrize("name", ["us0", "us", "3", "US3", "us03", "us3 ", "us-1", "us²"])
def test_level_names(name):
    with pytest.raises(ModelError, match="us1, us2"):
        level_index(name)


@pytest.mark.parametrize(
    ("levels", "message"),
    [([], "at least one"), (["us1", "us1"], "each once"), (["us7"], "us1 to us6")],
)
def test_impossible_levels(levels, message):
    with pytest.raises(ModelError, match=message):
        pixel_features(levels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"center_input_sample": True}, "center_input_sample"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
        ({"num_class_embeds": 3}, "num_class_embeds"),
        ({"attention": True, "upsample_type": "resnet"}, "ResnetUpsample|ResnetBlock2D"),
        ({"up_block_types": ("UpBlock2D", "ResnetUpsampleBlock2D", "UpBlock2D")}, "ResnetUpsampl"),
        ({"norm_num_groups": 8, "block_out_channels": (32, 32, 32),
          "down_block_types": ("SkipDownBlock2D",) * 3,
          "up_block_types": ("SkipUpBlock2D",) * 3}, "SkipDownBlock2D"),
        ({"in_channels": 4}, "takes 4 channels.*gives 12"),
    ],
)  # fmt: skip
def test_what_the_traversal_would_get_wrong_is_refused(settings, message):
    with pytest.raises(ModelError, match=message):
        pixel_features(["us1"], pixel_unet(**settings))


def test_conditional_settings_that_are_not_reproduced_are_refused():
    for settings in ({"class_embed_type": "timestep"}, {"time_embedding_act_fn": "silu"},
                     {"encoder_hid_dim": 7, "encoder_hid_dim_type": "text_proj"}):  # fmt: skip
        with pytest.raises(ModelError, match=next(iter(settings))):
            condition_features(["us1"], condition_unet(**settings))


@pytest.mark.parametrize(
    ("conditioning", "message"),
    [
        (None, r"needs.*encoder_hidden_states.*got \[\]"),
        ({"encoder_hidden_states": context(), "class_labels": torch.zeros(1)}, "class_labels"),
        ({"encoder_hidden_states": context(width=8)}, r"\[1, tokens, 12\].*\[1, 5, 8\]"),
        ({"encoder_hidden_states": context()[0]}, r"\[5, 12\]"),
    ],
)
def test_a_missing_or_wrong_condition_is_refused(conditioning, message):
    with pytest.raises(ModelError, match=message):
        UNetFeatures(condition_unet(), ["us1"], 0, vae=small_vae(), conditioning=conditioning)


def test_inputs_that_a_unet_has_no_use_for_are_refused():
    condition = {"encoder_hidden_states": context()}
    with pytest.raises(ModelError, match=r"needs the conditioning tensors \[\]"):
        pixel_features(["us1"], conditioning=condition)
    with pytest.raises(ModelError, match="without a VAE"):
        pixel_features(["us1"], vae=small_vae())
    with pytest.raises(ModelError, match="latent gives 4"):
        pixel_features(["us1"], vae=small_vae(), pixel_unshuffle=1)


def test_what_is_added_to_the_time_embedding_must_fit():
    settings = {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 34}
    unet = condition_unet(addition_embed_type="text_time", **settings)
    constants = {"encoder_hidden_states": context()}
    with pytest.raises(ModelError, match=r"states', 'text_embeds', 'time_ids'\]; got"):
        UNetFeatures(unet, ["us1"], 0, vae=small_vae(), conditioning=constants)
    constants |= {"text_embeds": torch.ones(1, 9), "time_ids": torch.ones(1, 6)}
    with pytest.raises(ModelError, match=r"give 33 channels; this UNet adds \[1, 34\]"):
        UNetFeatures(unet, ["us1"], 0, vae=small_vae(), conditioning=constants)
    other = condition_unet(addition_embed_type="text", encoder_hid_dim=12)
    with pytest.raises(ModelError, match="are not supported"):
        UNetFeatures(other, ["us1"], 0, vae=small_vae(), conditioning=constants)
