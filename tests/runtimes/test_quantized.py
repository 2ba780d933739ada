"""Linear layers in 8 bits."""

import sys

import pytest
import tiny_models
import torch
from tiny_models import aggregation_pair, condition_unet, config_of, context, images, small_vae

from vsm_fast import ModelError, VSMScorer
from vsm_fast.cli.main import ExitCode, main
from vsm_fast.model.save import save_model
from vsm_fast.runtimes.choose import load_runtime

one_thread = tiny_models.one_thread


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with attention, wide enough that 8 bits are no disaster."""
    unet = condition_unet(
        block_out_channels=(32, 32, 64, 64), attention_head_dim=(2, 2, 4, 4), norm_num_groups=8
    )
    config = config_of(("us3", "us6"), 32, pixel_unshuffle=1)
    path = tmp_path_factory.mktemp("model") / "model"
    save_model(
        path, config, unet, *aggregation_pair((64, 64)), torch.float32, vae=small_vae(),
        conditioning={"encoder_hidden_states": context()},
    )  # fmt: skip
    return path


class _StandIn:
    """In the place of torchao: rounds the weights of linear layers to 8 bits a row."""

    class Int8DynamicActivationInt8WeightConfig:
        pass

    class Float8DynamicActivationFloat8WeightConfig:
        pass

    @staticmethod
    def quantize_(network, config):
        assert isinstance(config, _StandIn.Int8DynamicActivationInt8WeightConfig)
        for module in network.modules():
            if isinstance(module, torch.nn.Linear):
                step = module.weight.abs().amax(1, keepdim=True) / 127
                module.weight.copy_((module.weight / step).round() * step)


@pytest.mark.parametrize("library", ["stand-in", "torchao"])
def test_int8_is_near_and_not_the_same(folder, library, monkeypatch):
    if library == "torchao":
        pytest.importorskip("torchao", reason="not among the tests' packages, see setup.py")
    else:
        monkeypatch.setitem(sys.modules, "torchao.quantization", _StandIn)
    plain, quantized = (
        load_runtime(folder, device="cpu", dtype=dtype) for dtype in ("float32", "int8")
    )
    assert (quantized.runtime.precision, quantized.runtime.name) == ("int8", "torch")
    assert plain.in_float32 is None
    assert quantized.in_float32().precision == "float32"
    for wanted, found in zip(plain.runtime(images(2)), quantized.runtime(images(2)), strict=True):
        cosine = (wanted * found).sum(1)
        assert 0.98 < cosine.min() < 1 - 1e-6


def test_a_network_without_linear_layers_is_not_quantised():
    with pytest.raises(ModelError, match="linear layers, and this network has none"):
        VSMScorer.from_pretrained("tiny", device="cpu", dtype="int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may have it")
def test_float8_needs_a_gpu_that_has_it(folder, capsys):
    with pytest.raises(ModelError, match=r"compute capability 8\.9"):
        VSMScorer.from_pretrained(folder, device="cpu", dtype="float8")
    arguments = ["score", "--refs", "examples/refs", "--gens", "examples/gens"]
    assert main([*arguments, "--model", str(folder), "--dtype", "float8"]) == ExitCode.MODEL
    assert "Use 'int8' or 'auto'" in capsys.readouterr().err


def test_without_torchao_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r"pip install 'vsm_fast\[quantize\]'"):
        VSMScorer.from_pretrained(folder, device="cpu", dtype="int8")
