"""Networks run by torch, eager and compiled."""

import shutil

import pytest
import torch
from subject_views import scorer_of

from vsm_fast.runtimes.torch_runtime import CompiledRuntime, TorchRuntime


def _images(count):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 24, 24, generator=generator) * 2 - 1


def test_a_runtime_says_what_it_is():
    runtime = TorchRuntime(scorer_of().network)
    assert (runtime.name, runtime.precision, runtime.device.type) == ("torch", "float32", "cpu")


@torch.inference_mode()  # as the describer does: other tensors would be compiled for again
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_equals_eager_and_pads_the_last_batch():
    network = scorer_of().network
    eager, compiled = TorchRuntime(network), CompiledRuntime(network)
    first = compiled(_images(4))
    kept = [branch.clone() for branch in first]
    compiles = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for count in (3, 1):
        for ours, wanted in zip(compiled(_images(count)), eager(_images(count)), strict=True):
            assert ours.shape == wanted.shape
            torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiles
    for branch, before in zip(first, kept, strict=True):
        assert torch.equal(branch, before), "a later batch wrote over an earlier one's result"
