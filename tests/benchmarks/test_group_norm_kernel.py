"""GroupNorm with its activation against torch in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

pytest.importorskip("triton")
from benchmarks import group_norm_kernel
from benchmarks.group_norm_kernel import GroupNormTiles as Tiles
from benchmarks.group_norm_kernel import group_norm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The interpreter cuts bfloat16 off instead of rounding it (Triton 3.9).
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if DEVICE.type == "cuda" else [])]
ACTIVATIONS = {"none": lambda y: y, "relu": functional.relu, "silu": functional.silu}
FLOOR = {torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 1e-3}
# (images, channels, rows, columns, groups): odd sizes, one cell, many parts, groups that cross
# tiles, one group, one channel per group, none at all.
SHAPES = [
    (3, 96, 5, 7, 32),
    (1, 48, 1, 1, 4),
    (1, 32, 40, 41, 8),
    (2, 40, 9, 3, 2),
    (1, 24, 6, 6, 1),
    (2, 17, 4, 5, 17),
    (0, 32, 4, 4, 8),
    (2, 32, 0, 4, 8),
]


def sample(shape, dtype=torch.float32, offset=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images, channels, rows, columns, groups = shape
    x = torch.randn(images, channels, rows, columns, generator=generator) + offset
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, channels, generator=generator).to(dtype)
    return x, groups, weight, bias


def on_device(x, groups, weight, bias, *rest, **options):
    return group_norm(
        x.to(DEVICE), groups, weight.to(DEVICE), bias.to(DEVICE), *rest, **options
    ).cpu()


def check(shape, dtype, activation, tiles, offset=0.0):
    x, groups, weight, bias = sample(shape, dtype, offset)
    act = ACTIVATIONS[activation]
    oracle = act(functional.group_norm(x.double(), groups, weight.double(), bias.double()))
    eager = act(functional.group_norm(x, groups, weight, bias))
    found = on_device(x, groups, weight, bias, activation=activation, tiles=tiles)
    assert found.dtype == dtype
    assert found.shape == x.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    if found.numel():
        error, eager_error = ((y.double() - oracle).abs().max() for y in (found, eager))
        assert error <= 2 * eager_error + FLOOR[dtype]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_errors_are_at_most_twice_those_of_torch(dtype, activation):
    for shape in SHAPES:
        if 0 not in shape:
            check(shape, dtype, activation, Tiles(cells=16, channels=32))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("tiles", [Tiles(), Tiles(1, 128), Tiles(128, 16, warps=8)])
@pytest.mark.parametrize("processors", [1, 40])
def test_tiles_and_parts_change_nothing(tiles, processors, monkeypatch):
    monkeypatch.setattr(group_norm_kernel, "processors", lambda _: processors)
    for shape in SHAPES:
        if shape[2] * shape[3] < 1000 or tiles.cells > 1:
            check(shape, torch.float32, "silu", tiles)


@pytest.mark.parametrize("offset", [100.0, 3000.0])
def test_a_large_mean_does_not_cancel(offset):
    check((2, 32, 20, 20, 8), torch.float32, "none", Tiles(16, 32), offset)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # inf - inf, interpreted
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_values_stay_visible_in_their_group_only(activation, bad):
    x, groups, weight, bias = sample((2, 32, 6, 6, 8))
    clean = on_device(x, groups, weight, bias, activation=activation)
    x[1, 5, 2, 3] = bad
    found = on_device(x, groups, weight, bias, activation=activation)
    spoilt = torch.zeros(2, 32, dtype=torch.bool)
    spoilt[1, 4:8] = True
    assert found[spoilt].isnan().all()
    assert torch.equal(found[~spoilt], clean[~spoilt])


def test_an_image_does_not_depend_on_its_neighbours(monkeypatch):
    x, groups, weight, bias = sample((3, 32, 20, 20, 8))
    monkeypatch.setattr(group_norm_kernel, "processors", lambda _: 40)
    together = on_device(x, groups, weight, bias)
    alone = torch.cat([on_device(image[None], groups, weight, bias) for image in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("change", ["memory", "dimensions", "groups", "weight"])
def test_invalid_arguments_are_refused(change):
    x, groups, weight, bias = sample((2, 32, 6, 6, 8))
    x = {"memory": x.contiguous(), "dimensions": x[0]}.get(change, x)
    weight = weight[1:] if change == "weight" else weight
    with pytest.raises(ValueError, match="group_norm needs"):
        on_device(x, 5 if change == "groups" else groups, weight, bias)


def test_tiles_are_powers_of_two():
    with pytest.raises(ValueError, match="cells must be a power of two"):
        Tiles(cells=48)
