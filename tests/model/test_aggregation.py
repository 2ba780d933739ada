"""Aggregation networks against a plain implementation written from the paper's description."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny_models
import torch
from plain_network import plain_aggregation
from tiny_models import AGGREGATION, aggregation_pair, published_names
from torch.nn import functional

from vsm_fast.errors import ModelError
from vsm_fast.model.aggregation import AggregationNetwork, NormalisedConv, _resize, reduced

one_thread = tiny_models.one_thread
CHANNELS = (24, 16, 12, 8)  # the second equals descriptor_channels: no shortcut convolution
SIZES = ((3, 3), (6, 6), (12, 12), (9, 4))  # below, at and above the grid, and mixed


def levels(count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, channels, *size, generator=generator)
        for channels, size in zip(CHANNELS, SIZES, strict=True)
    ]


@pytest.mark.parametrize("first", ["one", "mixing"])
@torch.no_grad()
def test_it_computes_what_the_description_says(first):
    config = dataclasses.replace(AGGREGATION, first_level_weight=first)
    networks = aggregation_pair(CHANNELS, config)
    weights = {k: v.double().numpy() for k, v in published_names(*networks).items()}
    for branch, network in zip(("semantic", "visual"), networks, strict=True):
        found = network(levels()).numpy()
        for image in range(2):
            maps = [level[image].double().numpy() for level in levels()]
            wanted = plain_aggregation(maps, weights, branch, config)
            np.testing.assert_allclose(found[image], wanted, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_weight_of_the_first_level_matters():
    mixing = dataclasses.replace(AGGREGATION, first_level_weight="mixing")
    one, _ = aggregation_pair(CHANNELS)
    other, _ = aggregation_pair(CHANNELS, mixing)
    assert one.mixing()[0] == 1
    assert torch.equal(one.mixing()[1:], other.mixing()[1:])
    assert float(other.mixing().sum()) == pytest.approx(1)
    assert (one(levels()) - other(levels())).abs().max() > 1e-3


def eager(network, maps):
    """The network in plain torch: every level resized first, nothing in place."""
    total = 0.0
    for (layer,), level, weight in zip(
        network.bottleneck_layers, maps, network.mixing(), strict=True
    ):
        x = functional.interpolate(level, network.config.grid, mode="bilinear")
        y = layer.conv3(layer.conv2(layer.conv1(x).relu()).relu())
        y = (y + (x if layer.shortcut is None else layer.shortcut(x))).relu()
        total = total + weight * y
    return functional.normalize(total.float(), dim=1)


@pytest.mark.parametrize("first", ["one", "mixing"])
def test_gradients_are_those_of_plain_torch(first):
    config = dataclasses.replace(AGGREGATION, first_level_weight=first)
    network, _ = aggregation_pair(CHANNELS, config)
    network.train().requires_grad_(True)
    target = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(3))
    gradients = []
    for compute in (network, lambda maps: eager(network, maps)):
        network.zero_grad()
        maps = [level.requires_grad_() for level in levels()]
        (compute(maps) * target).sum().backward()
        found = {name: weight.grad.clone() for name, weight in network.named_parameters()}
        gradients.append({**found, **{f"level {i}": m.grad for i, m in enumerate(maps)}})
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_low_precision_errs_at_most_twice_as_much_as_plain_torch(dtype):
    network, _ = aggregation_pair(CHANNELS)
    oracle = eager(network, levels())
    low, maps = network.to(dtype), [level.to(dtype) for level in levels()]
    error, eager_error = (
        (found(maps) - oracle).abs().max() for found in (low, lambda maps: eager(low, maps))
    )
    assert error <= 2 * eager_error + 1e-6


@torch.no_grad()
def test_levels_are_not_changed():
    network, _ = aggregation_pair(CHANNELS)
    maps, untouched = levels(), levels()
    network(maps)
    assert all(map(torch.equal, maps, untouched))


def test_weights_have_the_published_names_and_shapes():
    network = AggregationNetwork(CHANNELS, AGGREGATION)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["mixing_weights"] == (4,)
    first = "bottleneck_layers.0.0."
    assert shapes[first + "conv1.weight"] == (8, 24, 1, 1)
    assert shapes[first + "conv2.weight"] == (8, 8, 3, 3)
    assert shapes[first + "conv3.weight"] == (16, 8, 1, 1)
    assert shapes[first + "shortcut.weight"] == (16, 24, 1, 1)
    assert shapes[first + "shortcut.norm.bias"] == (16,)
    assert not any("bias" in name and "norm" not in name for name in shapes)
    assert not any(name.startswith("bottleneck_layers.1.0.shortcut") for name in shapes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_descriptors_have_unit_length_to_float32_precision(dtype):
    network = aggregation_pair(CHANNELS)[0].to(dtype)
    described = network([level.to(dtype) for level in levels()])
    assert described.dtype == torch.float32
    assert described.shape == (2, 16, 6, 6)
    torch.testing.assert_close(described.norm(dim=1), torch.ones(2, 6, 6), rtol=0, atol=1e-6)


@torch.no_grad()
def test_an_image_does_not_depend_on_its_neighbours():
    network, _ = aggregation_pair(CHANNELS)
    alone = network([level[1:] for level in levels()])
    torch.testing.assert_close(network(levels())[1:], alone, rtol=0, atol=1e-6)


def test_a_wrong_number_of_levels_is_refused():
    network, _ = aggregation_pair(CHANNELS)
    with pytest.raises(ModelError, match="has 4 levels; got 3"):
        network(levels()[:3])


def test_every_weight_is_trained():
    network = AggregationNetwork(CHANNELS, dataclasses.replace(AGGREGATION))
    network(levels())[:, :3].sum().backward()
    still = [name for name, weight in network.named_parameters() if not weight.grad.any()]
    assert still == []


@pytest.mark.parametrize("grid", [(2, 9), (9, 2)])
@pytest.mark.parametrize("size", [(2, 9), (9, 2), (3, 6), (1, 18), (2, 10), (19, 1), (1, 17)])
def test_a_level_is_reduced_where_it_has_more_cells_than_the_grid(size, grid):
    level = torch.randn(1, 40, *size, generator=torch.Generator().manual_seed(0))
    found = reduced(level, grid)
    if size[0] * size[1] > 18:
        wanted = functional.interpolate(level, grid, mode="bilinear", align_corners=False)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    else:
        assert found is level


@pytest.mark.parametrize("grid", [(3, 4), [3, 4]])
def test_a_level_on_the_grid_is_not_resized(grid):
    level = torch.ones(1, 2, 3, 4)
    assert _resize(level, grid) is level


def test_large_levels_are_reduced_before_anything_is_computed(monkeypatch):
    seen = []
    project = NormalisedConv.project
    monkeypatch.setattr(
        NormalisedConv, "project", lambda conv, x: seen.append(x.shape[2:]) or project(conv, x)
    )
    network, _ = aggregation_pair(CHANNELS)
    network(levels())
    assert max(rows * columns for rows, columns in seen) == 36


def test_new_weights_are_spread_by_what_a_convolution_gives():
    torch.manual_seed(0)
    weight = NormalisedConv(16, 256, 3, 4).weight
    assert float(weight.detach().std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


def test_mixing_is_float32_in_low_precision():
    network = AggregationNetwork(CHANNELS, AGGREGATION).to(torch.bfloat16)
    assert network.mixing().dtype == torch.float32


@pytest.mark.parametrize("size", [(3, 4), (12, 9)])
@torch.no_grad()
def test_a_shortcut_without_a_convolution_is_resized(size):
    network, _ = aggregation_pair((16,))
    level = torch.randn(2, 16, *size, generator=torch.Generator().manual_seed(4))
    assert network.bottleneck_layers[0][0].shortcut is None
    torch.testing.assert_close(network([level]), eager(network, [level]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@torch.no_grad()
def test_a_convolution_keeps_the_size(kernel):
    assert NormalisedConv(4, 8, kernel, 2)(torch.ones(1, 4, 6, 7)).shape == (1, 8, 6, 7)
