"""Configurations of diffusers, bounded by their weights."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny_models
import torch
from torch import nn
from torch.nn.modules import module

from vsm_fast import ModelError
from vsm_fast.model import load
from vsm_fast.model.load import bounded_model, build_network, read_config, skeleton
from vsm_fast.model.weights import shapes_of

one_thread = tiny_models.one_thread
MANY = 500  # slow enough to show when nothing stops it
ABSURD = {
    "pixel_unet": ("layers_per_block", MANY),
    "condition_unet": ("transformer_layers_per_block", MANY),
    "transformer": ("num_layers", MANY),
    "small_vae": ("layers_per_block", MANY),
    "tiny_vae": ("num_encoder_blocks", [1, MANY, 1]),
}


def bounded(model, **changes):
    """The model of a configuration that is changed, while its file of weights is not."""
    settings = {**json.loads(model.to_json_string()), **changes}
    return bounded_model(
        settings, shapes_of(model.state_dict()), Path("a/config.json"), Path("a/w.safetensors")
    )


@pytest.mark.parametrize("name", ABSURD)
def test_no_more_layers_than_there_are_weights_for(name):
    model = getattr(tiny_models, name)()
    assert shapes_of(bounded(model).state_dict()) == shapes_of(model.state_dict())
    field, value = ABSURD[name]
    made = []
    tensors = len(model.state_dict())
    hook = module.register_module_parameter_registration_hook(lambda *_: made.append(1))
    with pytest.raises(ModelError, match=f"a/config.json requests more than {2 * tensors} weights"):
        bounded(model, **{field: value})
    hook.remove()
    assert len(made) == 2 * tensors + 1
    assert not module._global_parameter_registration_hooks


def test_what_is_missing_is_named_when_it_is_little():
    with pytest.raises(ModelError, match=r"a/w\.safetensors does not fit .* missing keys \(down_"):
        bounded(tiny_models.pixel_unet(), layers_per_block=2)


def test_tables_that_are_in_no_file_are_bounded_too():
    model = tiny_models.transformer(pos_embed_max_size=None)
    assert bounded(model).pos_embed.pos_embed.device.type == "cpu"
    with pytest.raises(ModelError, match=r"tables of 1,440,000 numbers beside [\d,]+ weights"):
        bounded(model, sample_size=600)


def test_sizes_that_no_machine_holds(tmp_path):
    with pytest.raises(ModelError, match=r"a/config\.json describes no UNet2DModel \(RuntimeError"):
        bounded(tiny_models.pixel_unet(), block_out_channels=[2**40, 2**41, 2**42])
    tiny_models.write_folder(
        tmp_path, tiny_models.config_of(), tiny_models.pixel_unet(),
        *tiny_models.aggregation_pair((24, 8)),
    )  # fmt: skip
    record = json.loads((tmp_path / "config.json").read_text())
    for channels, message in ((2**36, "does not fit"), (2**70, "no aggregation network")):
        record["aggregation"]["descriptor_channels"] = channels
        (tmp_path / "config.json").write_text(json.dumps(record))
        with pytest.raises(ModelError, match=message):
            build_network(read_config(tmp_path), tmp_path)


def test_modules_of_other_threads_are_not_counted(monkeypatch):
    def build(_):
        with ThreadPoolExecutor(1) as pool:  # a program that loads two models at once
            pool.submit(lambda: [nn.Linear(1, 1) for _ in range(9)]).result()
        return nn.Linear(2**30, 2**30)

    monkeypatch.setattr(load, "_build", build)
    settings = {"_class_name": "UNet2DModel"}
    assert skeleton(settings, 1, "here").weight.device == torch.device("meta")
