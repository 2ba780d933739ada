"""Folded modules and feature extractors against diffusers' own."""

from __future__ import annotations

import copy

import pytest
import tiny_models
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from tiny_models import condition_unet, context, images, pixel_unet, randomised, small_vae

from vsm_fast import ModelError, VSMScorer
from vsm_fast.model.folding import (
    ConstantCrossAttention,
    ResidualBlock,
    SubPixelUpsample,
    fold_upsamplers,
    is_plain_block,
    is_plain_upsampler,
    save_memory,
)
from vsm_fast.model.load import build_network, read_config
from vsm_fast.model.location import find_model
from vsm_fast.model.unet import UNetFeatures
from vsm_fast.model.vae import MeanEncoder

one_thread = tiny_models.one_thread
LEVELS = ("us3", "us8", "us12")


def latent_features(unet=None, vae=None):
    return UNetFeatures(
        unet or condition_unet(), LEVELS, 261.5, vae=vae or small_vae(), latent_scale=0.18215,
        conditioning={"encoder_hidden_states": context()},
    ).eval()  # fmt: skip


def folded(features, resolution=64):
    made = copy.deepcopy(features)
    made.fold(resolution)
    return made


def assert_close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
@torch.no_grad()
def test_a_folded_extractor_with_a_vae_gives_the_same_features(count):
    features, pictures = latent_features(), images(count, 64)
    made = folded(features)
    assert_close([made.latent(pictures)], [features.latent(pictures)])
    assert_close(made(pictures), features(pictures))


@torch.no_grad()
def test_what_sdxl_adds_is_folded_into_the_biases():
    unet = condition_unet(
        addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=10 + 6 * 4,
    )  # fmt: skip
    constants = {
        "encoder_hidden_states": context(), "text_embeds": torch.ones(1, 10),
        "time_ids": torch.full((1, 6), 64.0),
    }  # fmt: skip
    features = UNetFeatures(unet, LEVELS, 50, vae=small_vae(), conditioning=constants).eval()
    made = folded(features)
    assert made.added is made.unet.add_embedding is None
    assert_close(made(images(2, 64)), features(images(2, 64)))
    features.added.zero_()
    assert not torch.allclose(made(images(1, 64))[0], features(images(1, 64))[0], atol=1e-3)


@torch.no_grad()
def test_a_vae_without_a_mixing_convolution():
    vae = small_vae()
    vae.quant_conv = None
    features = latent_features(vae=vae)
    assert_close(folded(features)(images(1, 64)), features(images(1, 64)))


@pytest.mark.parametrize("attention", [False, True])
@torch.no_grad()
def test_a_folded_extractor_on_pixels_gives_the_same_features(attention):
    features = UNetFeatures(pixel_unet(attention), ("us2", "us5"), 50, pixel_unshuffle=2).eval()
    assert_close(folded(features)(images(2)), features(images(2)))


@torch.no_grad()
def test_the_embedded_model_is_folded_and_gives_the_same_descriptors():
    folder = find_model("tiny")
    plain = build_network(read_config(folder), folder).eval()
    network = VSMScorer.from_pretrained("tiny", device="cpu").network
    assert network.backbone.unet.time_embedding is None
    assert_close(network(images(1, 256)), plain(images(1, 256)))


def test_nothing_of_what_was_constant_is_left():
    made = folded(latent_features())
    names = {name.rpartition(".")[2] for name, _ in made.named_modules()}
    assert not {"time_emb_proj", "time_embedding", "quant_conv"} & names
    assert made.unet.time_embedding is None
    assert made.context is None
    assert isinstance(made.vae, MeanEncoder)
    crosses = [m for m in made.modules() if isinstance(m, ConstantCrossAttention)]
    assert crosses
    assert all(cross.key.shape[2] == 5 for cross in crosses)  # tokens of the context
    selves = [module for module in made.modules() if isinstance(module, Attention)]
    assert all(not module.is_cross_attention for module in selves)


@torch.no_grad()
def test_folding_twice_is_folding_once():
    once = folded(latent_features())
    twice = folded(once)
    assert all(torch.equal(a, b) for a, b in zip(once(images()), twice(images()), strict=True))


@torch.no_grad()
def test_the_result_moves_to_another_precision():
    made = folded(latent_features()).to(torch.bfloat16)
    assert {value.dtype for value in made.state_dict().values()} == {torch.bfloat16}
    near = folded(latent_features())(images(1, 64))
    for low, high in zip(made(images(1, 64).bfloat16()), near, strict=True):
        assert (low.float() - high).abs().max() < 0.05 * high.abs().max()


@torch.no_grad()
def test_blocks_of_another_kind_keep_the_time_embedding():
    unet = pixel_unet(resnet_time_scale_shift="scale_shift")
    features = UNetFeatures(unet, ("us2", "us5"), 50, pixel_unshuffle=2).eval()
    made = folded(features)
    assert any(isinstance(module, ResnetBlock2D) for module in made.modules())
    assert made.unet.time_embedding is not None
    assert_close(made(images(2)), features(images(2)))


@torch.no_grad()
def test_attention_of_another_kind_keeps_the_context():
    features = latent_features()
    for module in features.modules():
        if isinstance(module, Attention) and module.is_cross_attention:
            module.set_processor(AttnProcessor())
            break
    made = folded(features)
    assert made.context is not None
    assert_close(made(images(1, 64)), features(images(1, 64)))


@torch.no_grad()
def test_one_image_does_not_depend_on_its_neighbours():
    made = folded(latent_features())
    pictures = images(4, 64)
    assert_close([level[2:3] for level in made(pictures)], made(pictures[2:3]))


def block(inputs=8, outputs=8, temb_channels=12, **settings):
    torch.manual_seed(0)
    made = ResnetBlock2D(
        in_channels=inputs, out_channels=outputs, temb_channels=temb_channels, groups=4, **settings
    )
    return randomised(made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("outputs", [8, 12])  # without and with a convolution in the shortcut
@pytest.mark.parametrize("temb_channels", [12, None])
@torch.no_grad()
def test_values_are_those_of_diffusers_to_the_bit(dtype, memory_format, outputs, temb_channels):
    plain = block(outputs=outputs, temb_channels=temb_channels).to(dtype)
    sample = torch.randn(3, 8, 7, 5).to(dtype).to(memory_format=memory_format)
    temb = None if temb_channels is None else torch.randn(1, 12).to(dtype)
    wanted = plain(sample, temb)
    given = (sample.clone(), None if temb is None else temb.clone())
    found = ResidualBlock(copy.deepcopy(plain))(sample, temb)
    assert torch.equal(found, wanted)
    assert torch.equal(sample, given[0])
    assert temb is None or torch.equal(temb, given[1])


def test_gradients_pass_through():
    plain, sample, temb = block(outputs=12), torch.randn(2, 8, 6, 6), torch.randn(1, 12)
    gradients = []
    for module in (plain, ResidualBlock(copy.deepcopy(plain))):
        inputs = [sample.clone().requires_grad_(), temb.clone().requires_grad_()]
        module(*inputs).square().sum().backward()
        gradients.append([value.grad for value in inputs])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"up": True},
        {"down": True},
        {"output_scale_factor": 2.0},
        {"non_linearity": "gelu"},
        {"time_embedding_norm": "scale_shift"},
        {"skip_time_act": True},
    ],
)
def test_other_blocks_are_left_alone(settings):
    other = torch.nn.Sequential(block(**settings))
    save_memory(other)
    assert type(other[0]) is ResnetBlock2D
    assert is_plain_block(block())


def test_every_block_of_unet_and_vae_is_replaced_and_keeps_its_names():
    unet = condition_unet()
    plain = copy.deepcopy(unet)
    features = UNetFeatures(
        unet, ["us12"], 261, vae=small_vae(), conditioning={"encoder_hidden_states": context()}
    )
    kinds = [type(module) for module in features.modules()]
    assert ResnetBlock2D not in kinds
    assert kinds.count(ResidualBlock) > 20
    kept, names = features.unet.state_dict(), plain.state_dict()
    assert {name.split(".")[0] for name in set(names) - set(kept)} == {"conv_norm_out", "conv_out"}
    assert all(torch.equal(kept[name], names[name]) for name in kept)


@torch.no_grad()
def test_dropout_stays():
    sample, temb = torch.randn(1, 8, 6, 6), torch.randn(1, 12)
    made = ResidualBlock(block(dropout=0.5)).train()
    assert not torch.equal(made(sample, temb), made(sample, temb))


@pytest.mark.parametrize(("bias", "name"), [(True, "conv"), (False, "Conv2d_0")])
@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
@torch.no_grad()
def test_it_is_doubling_and_convolving(bias, name, size):
    torch.manual_seed(0)
    plain = Upsample2D(6, use_conv=True, out_channels=10, name=name, bias=bias)
    maps = torch.randn(3, 6, *size)
    found = SubPixelUpsample(plain)(maps, (2 * size[0], 2 * size[1]))
    torch.testing.assert_close(found, plain(maps), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_maps_that_do_not_double_are_refused():
    made = SubPixelUpsample(Upsample2D(4, use_conv=True))
    with pytest.raises(ModelError, match=r"4 x 4 to become \(7, 8\)"):
        made(torch.zeros(1, 4, 4, 4), (7, 8))


@pytest.mark.parametrize(
    "changes",
    [
        {"use_conv": False},
        {"use_conv_transpose": True},
        {"interpolate": False},
        {"kernel_size": 5, "padding": 2},
        {"norm_type": "ln_norm", "eps": 1e-5, "elementwise_affine": True},
    ],
)
def test_other_upsamplers_are_left_alone(changes):
    other = Upsample2D(4, **{"use_conv": True, **changes})
    assert is_plain_upsampler(Upsample2D(4, use_conv=True))
    assert not is_plain_upsampler(other)
    parent = torch.nn.ModuleList([other])
    fold_upsamplers(parent)
    assert parent[0] is other


@torch.no_grad()
def test_only_networks_whose_maps_all_double_are_folded():
    features = UNetFeatures(pixel_unet(), ("us2", "us5"), 50, pixel_unshuffle=2).eval()
    wanted = features(images(2, 36))  # a map of 9 rows is halved to 5, and doubled to 9 again
    for resolution, count in ((32, 1), (36, 0)):
        made = copy.deepcopy(features)
        made.fold(resolution)
        kinds = [type(module) for module in made.modules()]
        assert kinds.count(SubPixelUpsample) >= count
        assert (SubPixelUpsample in kinds) == bool(count)
    for one, other in zip(made(images(2, 36)), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
