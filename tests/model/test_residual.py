"""Residual blocks that reuse memory, against diffusers' own."""

from __future__ import annotations

import copy

import pytest
import tiny_models
import torch
from diffusers.models.resnet import ResnetBlock2D
from tiny_models import condition_unet, context, randomised, small_vae

from vsm_fast.model.folding import ResidualBlock, is_plain_block, save_memory
from vsm_fast.model.unet import UNetFeatures

one_thread = tiny_models.one_thread


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
