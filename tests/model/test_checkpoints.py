"""Model folders: round trip, integrity checks, and refused content."""

from __future__ import annotations

import dataclasses
import json

import huggingface_hub.constants
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    aggregation_pair,
    condition_unet,
    config_of,
    context,
    edit_config,
    images,
    pixel_unet,
    pooled,
    published_names,
    rehash,
    small_vae,
    transformer,
    write_folder,
)

from vsm_fast.errors import ModelError
from vsm_fast.model.load import build_network, load_model, read_config, verified_config
from vsm_fast.model.location import find_model
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.model.save import save_model
from vsm_fast.model.unet import UNetFeatures

one_thread = tiny_models.one_thread
WEIGHTS = "diffusion_pytorch_model.safetensors"
CHANNELS = (24, 8)  # of us2 and us5 of the pixel UNet


@pytest.fixture
def folder(tmp_path):
    """A model folder of a pixel UNet."""
    write_folder(tmp_path / "model", config_of(), pixel_unet(), *aggregation_pair(CHANNELS))
    return tmp_path / "model"


def edit_weights(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


@torch.no_grad()
def test_a_pixel_model_from_diffusers_files(folder):
    config, network = load_model(folder)
    backbone = UNetFeatures(pixel_unet(), ("us2", "us5"), 50, pixel_unshuffle=2)
    wanted = DescriptorNetwork(backbone, *aggregation_pair(CHANNELS))(images(2))
    assert config.name == "small"
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    for found, plain in zip(network(images(2)), wanted, strict=True):
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)
    assert not torch.allclose(*network(images()))


@torch.no_grad()
def test_a_latent_model_with_vae_and_condition(tmp_path):
    config = config_of(("us3", "us6"), pixel_unshuffle=1, timestep=261.5)
    pair, condition = aggregation_pair((16, 16)), {"encoder_hidden_states": context()}
    write_folder(tmp_path, config, condition_unet(), *pair, small_vae(), condition)
    _, network = load_model(tmp_path)
    backbone = UNetFeatures(
        condition_unet(), ("us3", "us6"), 261.5, vae=small_vae(), latent_scale=0.18215,
        conditioning=condition,
    )  # fmt: skip
    wanted = DescriptorNetwork(backbone, *pair)(images(2))
    for found, plain in zip(network(images(2)), wanted, strict=True):
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)


@torch.no_grad()
def test_weights_survive_saving(folder, tmp_path):
    pair = aggregation_pair(CHANNELS)
    written = save_model(tmp_path / "copy", config_of(), pixel_unet(), *pair, torch.float32)
    read, network = load_model(tmp_path / "copy")
    assert read == written
    for found, plain in zip(network(images()), load_model(folder)[1](images()), strict=True):
        assert torch.equal(found, plain)
    saved, published = load_file(tmp_path / "copy/aggregation.safetensors"), published_names(*pair)
    assert saved.keys() == published.keys()
    assert all(torch.equal(saved[name], published[name]) for name in published)


@torch.no_grad()
def test_half_precision_on_disk_is_read_as_float32(tmp_path):
    vae, condition = small_vae(), {"encoder_hidden_states": context()}
    config = config_of(("us3",), pixel_unshuffle=1)
    pair = aggregation_pair((16,))
    save_model(
        tmp_path / "m", config, condition_unet(), *pair, vae=vae, conditioning=condition
    )  # fmt: skip
    for path in (tmp_path / "m").rglob("*.safetensors"):
        assert {value.dtype for value in load_file(path).values()} == {torch.float16}
    built = build_network(read_config(tmp_path / "m"), tmp_path / "m")
    assert {value.dtype for value in built.state_dict().values()} == {torch.float32}
    _, network = load_model(tmp_path / "m")
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    weight = network.backbone.unet.conv_in.weight
    assert torch.equal(weight, condition_unet().conv_in.weight.half().float())
    assert network.backbone.context is None  # folded into the weights
    assert built.backbone.context.dtype == torch.float32


@torch.no_grad()
def test_the_precision_asked_for_is_that_of_the_network(folder):
    _, network = load_model(folder, dtype=torch.bfloat16)
    assert {value.dtype for value in network.parameters()} == {torch.bfloat16}
    exact = load_model(folder)[1](images())
    for found, wanted in zip(network(images()), exact, strict=True):
        assert found.dtype == torch.float32
        assert (found * wanted).sum(1).min() > 0.95


@pytest.mark.parametrize("name", [f"unet/{WEIGHTS}", "aggregation.safetensors"])
def test_one_changed_bit_is_found(folder, name):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    expected = json.loads((folder / "config.json").read_text())["files"][name]
    with pytest.raises(ModelError, match=rf"{name} .* sha256 is [0-9a-f]{{64}}.*says {expected}"):
        load_model(folder)


@pytest.mark.parametrize("name", [f"unet/{WEIGHTS}", "aggregation.safetensors"])
def test_a_damaged_file_with_a_matching_hash_is_found(folder, name):
    path = folder / name
    whole = path.read_bytes()
    pickles = b"\xff" * 64, b"PK\x03\x04" + b"a" * 60, b"\x80\x02}q\x00."
    for content in (b"", whole[:5], whole[:100], whole[:-4], *pickles):
        path.write_bytes(content)
        rehash(folder, config_of())
        with pytest.raises(ModelError, match=f"{name} cannot be read as safetensors"):
            load_model(folder)


def test_missing_files_are_named(folder):
    (folder / "unet" / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=f"unet/{WEIGHTS} is missing"):
        load_model(folder)
    rehash(folder, config_of())
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_model(folder)


@pytest.mark.parametrize(
    "name", ["aggregation.safetensors", f"unet/{WEIGHTS}", "unet/config.json", "vae/config.json"]
)
def test_files_without_a_hash_are_refused(folder, name):
    (folder / "vae").mkdir()
    (folder / "vae/config.json").write_text("{}")
    rehash(folder, config_of())
    edit_config(folder, lambda content: content["files"].pop(name))
    for load in (load_model, verified_config):
        with pytest.raises(ModelError, match=rf"no sha256 for \['{name}'\]"):
            load(folder)


def test_an_edited_setting_of_the_network_is_found(folder):
    path = folder / "unet/config.json"
    path.write_text(path.read_text().replace('"norm_eps": 1e-05', '"norm_eps": 1e-06'))
    with pytest.raises(ModelError, match=r"unet/config\.json was altered"):
        load_model(folder)


@pytest.mark.parametrize("name", [f"unet/{WEIGHTS}", "aggregation.safetensors"])
def test_quantised_weights_are_refused(folder, name):
    edit_weights(
        folder / name, lambda weights: weights.update({key: weights[key].char() for key in weights})
    )
    rehash(folder, config_of())
    with pytest.raises(ModelError, match=r"in int8; weights must be floating-point"):
        load_model(folder)


def test_images_of_a_size_that_the_network_cannot_take_are_refused(tmp_path):
    config = config_of(resolution=16, pixel_unshuffle=8)
    write_folder(tmp_path / "a", config, pixel_unet(in_channels=192), *aggregation_pair(CHANNELS))
    with pytest.raises(ModelError, match=r"resolution must be at least the 32 pixels .*; got 16"):
        load_model(tmp_path / "a")
    config = config_of(("block1",), 4096, pixel_unshuffle=1)
    inputs = {"encoder_hidden_states": context(), "pooled_projections": pooled()}
    save_model(
        tmp_path / "b", config, transformer(), *aggregation_pair((16,)), vae=small_vae(),
        conditioning=inputs,
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"b/config\.json describes no network for images of 4096"):
        load_model(tmp_path / "b")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/hosts", "unet/../../x", "", "a\\b"])
def test_files_outside_the_folder_are_refused(folder, name):
    (folder.parent / "x.safetensors").write_bytes(b"")
    edit_config(folder, lambda content: content["files"].update({name: "0" * 64}))
    with pytest.raises(ModelError, match="outside the folder"):
        load_model(folder)


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.bin", "aggregation.PT", "a.ckpt"])
def test_pickled_weights_are_refused(folder, name):
    (folder / name).write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ModelError, match=rf"pickled weights \({name}\).*safetensors"):
        load_model(folder)


@pytest.mark.parametrize("name", [f"unet/{WEIGHTS}", "aggregation.safetensors"])
def test_keys_are_checked_strictly(folder, name):
    def change(weights):
        for key in sorted(weights)[:9]:
            weights[f"other.{key}"] = weights.pop(key)

    edit_weights(folder / name, change)
    rehash(folder, config_of())
    with pytest.raises(
        ModelError, match=r"9 unknown keys \(other\..*, \.\.\.\); 9 missing keys \("
    ):
        load_model(folder)


def test_weights_of_other_levels_do_not_fit(folder):
    rehash(folder, config_of(("us6", "us5")))
    with pytest.raises(ModelError, match=r"\[8, 24, 1, 1\] instead of \[8, 8, 1, 1\]"):
        load_model(folder)


@torch.no_grad()
def test_attention_weights_under_their_old_names(tmp_path):
    config = config_of(("us3",), pixel_unshuffle=1)
    condition = {"encoder_hidden_states": context()}
    parts = (condition_unet(), *aggregation_pair((16,)), small_vae(), condition)
    write_folder(tmp_path, config, *parts)
    wanted = load_model(tmp_path)[1](images())
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(weights):
        for key in list(weights):
            for new, former in old.items():
                if f".attentions.0.{new}." in key:
                    weights[key.replace(new, former)] = weights.pop(key)

    edit_weights(tmp_path / "vae" / WEIGHTS, rename)
    assert any(".query." in key for key in load_file(tmp_path / "vae" / WEIGHTS))
    rehash(tmp_path, config)
    for found, plain in zip(load_model(tmp_path)[1](images()), wanted, strict=True):
        assert torch.equal(found, plain)


@pytest.mark.parametrize("content", ['{"_class_name": "AutoencoderKL"}', "[]", "{", "{}"])
def test_a_unet_of_another_class_is_refused(folder, content):
    (folder / "unet/config.json").write_text(content)
    rehash(folder, config_of())
    with pytest.raises(ModelError, match=r"unet/config.json (must be of UNet2DModel|cannot be)"):
        load_model(folder)


def test_saving_replaces_a_model_and_nothing_else(folder, tmp_path):
    changed = dataclasses.replace(config_of(), name="new")
    save_model(folder, changed, pixel_unet(), *aggregation_pair(CHANNELS))
    assert load_model(folder)[0].name == "new"
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.jpg").write_bytes(b"1")
    with pytest.raises(ModelError, match=r"contains no config\.json"):
        save_model(other, changed, pixel_unet(), *aggregation_pair(CHANNELS))
    assert (other / "a.jpg").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"model", "photos"}


def test_a_failed_save_leaves_the_old_model_and_no_rest(folder, tmp_path):
    before = (folder / "config.json").read_bytes()
    semantic, visual = aggregation_pair(CHANNELS)
    with torch.no_grad():
        visual.mixing_weights[0] = 1e6  # beyond float16
    with pytest.raises(ModelError, match=r"not finite as torch.float16: .*mixing_weights_visual"):
        save_model(folder, config_of(), pixel_unet(), semantic, visual)
    assert (folder / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_cut_unet_or_vae_cannot_be_saved(tmp_path):
    pair, vae, unet = aggregation_pair(CHANNELS), small_vae(), pixel_unet(in_channels=4)
    UNetFeatures(unet, ["us2"], 0, vae=vae)
    with pytest.raises(ModelError, match="UNet2DModel has lost its conv_out"):
        save_model(tmp_path / "m", config_of(), unet, *pair)
    with pytest.raises(ModelError, match="AutoencoderKL has lost its decoder"):
        save_model(tmp_path / "m", config_of(), pixel_unet(), *pair, vae=vae)


def test_the_embedded_model_is_found_inside_the_package():
    found = find_model("tiny")
    assert found.parts[-3:] == ("vsm_fast", "models", "tiny")


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "a/b/c", "/a/b", "a /b", "", "-a/b", "é/b"])
def test_names_that_are_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="not a folder, and not a Hub repository"):
        find_model(name or "missing")


def test_a_hub_repository_from_the_cache_without_network(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--org--small"
    snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.rglob("*.*"))):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / str(number))
        link.symlink_to(blobs / str(number))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    assert load_model("org/small")[0].name == "small"
    assert load_model("org/small", revision=commit, local_files_only=True)[0].name == "small"
    absent = "'org/absent' is not in the local cache.*hf download org/absent"
    for options, ending in (({}, "$"), ({"revision": "v2"}, " --revision v2$"),
                            ({"local_files_only": True}, "$")):  # fmt: skip
        with pytest.raises(ModelError, match=absent + ending):
            load_model("org/absent", **options)
