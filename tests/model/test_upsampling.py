"""One 2x2 convolution instead of doubling and a 3x3 one."""

import copy

import pytest
import tiny_models
import torch
from diffusers.models.upsampling import Upsample2D
from tiny_models import images, pixel_unet

from vsm_fast.errors import ModelError
from vsm_fast.model.unet import UNetFeatures
from vsm_fast.model.folding import SubPixelUpsample, fold_upsamplers, is_plain_upsampler

one_thread = tiny_models.one_thread


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
