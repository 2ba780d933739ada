"""Folded feature extractors against the ones they were."""

from __future__ import annotations

import copy

import pytest
import tiny_models
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from tiny_models import condition_unet, context, images, pixel_unet, small_vae

from vsm_fast import VSMScorer
from vsm_fast.model.folding import ConstantCrossAttention
from vsm_fast.model.vae import MeanEncoder
from vsm_fast.model.load import build_network, read_config
from vsm_fast.model.location import find_model
from vsm_fast.model.unet import UNetFeatures

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
