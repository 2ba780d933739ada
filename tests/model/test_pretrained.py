"""Loading of pretrained models: complete, from safetensors only, with actionable errors."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny_models
import torch
from pretrained_models import save_dino, save_sd2_inpainting
from safetensors.torch import load_file, save_file

from vsm_fast.errors import ModelError
from vsm_fast.model.pretrained import (
    ModelSource,
    find_folder,
    load_image_processor,
    load_pipeline,
    load_tokenizer,
    load_transformer,
    weights_name,
)

one_thread = tiny_models.one_thread
CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved_dino(tmp_path_factory):
    return save_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture
def dino(saved_dino, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(saved_dino, tmp_path / "dino")


@pytest.fixture(scope="module")
def saved_pipeline(tmp_path_factory):
    return save_sd2_inpainting(tmp_path_factory.mktemp("sd2"))


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Function: (repository, folder) -> puts the folder into an empty Hub cache, at COMMIT."""
    cache = tmp_path / "hub"
    cache.mkdir()
    for module in ("constants", "_snapshot_download", "file_download"):
        name = f"huggingface_hub.{module}.HF_HUB_CACHE"
        monkeypatch.setattr(name, str(cache), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def put(repository, folder):
        home = cache / f"models--{repository.replace('/', '--')}"
        shutil.copytree(folder, home / "snapshots" / COMMIT)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(COMMIT)

    return put


def remove_weight(path, ending):
    """Remove the weight whose name ends so."""
    weights = load_file(path)
    del weights[next(key for key in weights if key.endswith(ending))]
    save_file(weights, path, {"format": "pt"})


def load_dino(source):
    where = ModelSource.of(source)
    return load_transformer("ViTModel", where, CPU, purpose="DINO", add_pooling_layer=False)


@torch.no_grad()
def test_a_model_comes_back_as_it_was_saved(saved_dino):
    from transformers import ViTModel

    model = load_dino(saved_dino)
    wanted = ViTModel.from_pretrained(saved_dino, add_pooling_layer=False).eval()
    pixels = torch.rand(1, 3, 32, 32)
    assert torch.equal(model(pixels).last_hidden_state, wanted(pixels).last_hidden_state)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_weights_in_half_precision_are_read_as_float32(dino):
    path = dino / "model.safetensors"
    halved = {key: value.half() for key, value in load_file(path).items()}
    save_file(halved, path, {"format": "pt"})
    assert {value.dtype for value in load_dino(dino).parameters()} == {torch.float32}


def test_a_missing_weight_is_an_error_and_not_a_random_one(dino):
    remove_weight(dino / "model.safetensors", "layernorm.weight")
    with pytest.raises(ModelError, match=r"1 weights are missing.*layernorm\.weight"):
        load_dino(dino)


def test_a_weight_of_another_shape_is_an_error(dino):
    path = dino / "model.safetensors"
    weights = load_file(path)
    name = next(key for key in weights if key.endswith("layernorm.weight"))
    weights[name] = torch.zeros(3)
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"DINO: .*dino"):
        load_dino(dino)


@pytest.mark.parametrize("damage", ["cut off", "no config", "bad config"])
def test_a_damaged_folder_is_an_error_of_one_sentence(dino, damage):
    if damage == "cut off":
        path = dino / "model.safetensors"
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "no config":
        (dino / "config.json").unlink()
    else:
        (dino / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"DINO: .*cannot be loaded") as raised:
        load_dino(dino)
    assert "\n" not in str(raised.value)


def test_pickled_weights_are_not_read(dino):
    weights = load_file(dino / "model.safetensors")
    torch.save(weights, dino / "pytorch_model.bin")
    (dino / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors weights.*refs/pr"):
        load_dino(dino)


def test_a_name_that_is_neither_folder_nor_repository(tmp_path):
    with pytest.raises(ModelError, match="neither a folder nor a Hub repository"):
        load_dino(tmp_path / "nothing")


@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_model_that_is_not_here_names_the_command_that_fetches_it(hub_cache, revision):
    source = ModelSource("owner/model", revision, local_files_only=True)
    with pytest.raises(ModelError, match=r"DINO: owner/model.*hf download owner/model") as raised:
        load_dino(source)
    assert "--include '*.safetensors'" in str(raised.value)
    assert ("--revision v1" in str(raised.value)) == (revision == "v1")


def test_hf_hub_offline_is_heard(hub_cache, monkeypatch):
    def refuse(*_arguments, **_settings):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(ModelError, match="hf download owner/model"):
        load_dino("owner/model")
    with pytest.raises(ModelError, match="hf download owner/model"):
        load_pipeline(
            "StableDiffusionInpaintPipeline", ModelSource("owner/model"), torch.float32, purpose="x"
        )


def test_a_gated_model_says_where_its_licence_is(hub_cache, monkeypatch):
    import httpx2
    from huggingface_hub.errors import GatedRepoError

    def gated(*_arguments, **_settings):
        response = httpx2.Response(403, request=httpx2.Request("GET", "https://huggingface.co"))
        raise GatedRepoError("gated", response=response)

    monkeypatch.setattr("huggingface_hub.snapshot_download", gated)
    with pytest.raises(ModelError, match=r"https://huggingface.co/owner/model, run hf auth login"):
        load_dino("owner/model")


def test_a_model_in_the_cache_is_used_without_network(saved_dino, hub_cache):
    hub_cache("owner/dino", saved_dino)
    assert find_folder(ModelSource("owner/dino"), "DINO").name == COMMIT
    assert find_folder(ModelSource("owner/dino", COMMIT), "DINO").name == COMMIT
    assert load_dino("owner/dino").config.hidden_size == 16
    with pytest.raises(ModelError, match="--revision other"):
        load_dino(ModelSource("owner/dino", "other"))


def test_a_half_fetched_model_names_the_command_too(saved_pipeline, hub_cache, tmp_path):
    half = shutil.copytree(saved_pipeline, tmp_path / "half")
    (half / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    hub_cache("owner/sd2", half)
    name, source = "StableDiffusionInpaintPipeline", ModelSource("owner/sd2")
    with pytest.raises(ModelError, match=r"hf download owner/sd2 --include 'model_index\.json'"):
        load_pipeline(name, source, torch.float32, purpose="x")


def test_code_in_a_folder_is_not_run(dino):
    path = dino / "preprocessor_config.json"
    content = json.loads(path.read_text())
    content["auto_map"] = {"AutoImageProcessor": "evil.Evil"}
    path.write_text(json.dumps(content))
    (dino / "evil.py").write_text("raise SystemExit('code was run')\n")
    processor = load_image_processor(ModelSource.of(dino), purpose="DINO")
    assert type(processor).__name__ == "ViTImageProcessorPil"


def test_a_pipeline_in_the_cache_is_used_without_network(saved_pipeline, hub_cache):
    from vsm_fast.lab.pairs.pretrained.inpainting import Inpainter

    hub_cache("owner/sd2", saved_pipeline)
    source = ModelSource("owner/sd2")
    name = "StableDiffusionInpaintPipeline"
    pipeline = load_pipeline(name, source, torch.float32, purpose="x")
    assert type(pipeline).__name__ == name
    assert weights_name(source, pipeline) == f"owner/sd2@{COMMIT}"
    assert Inpainter.from_pretrained("sd2-inpainting", source).name == "sd2-inpainting"


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("owner/name", "owner/name", None),
        ("owner/name@v1", "owner/name", "v1"),
        ("owner/name@refs/pr/5", "owner/name", "refs/pr/5"),
        ("folder", "folder", None),
        ("at@home", "at@home", None),  # a folder of this name is there
        ("nowhere", "nowhere", None),  # refused when it is loaded
    ],
)
def test_a_source_is_written_with_its_revision(text, name, revision, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "at@home"):
        (tmp_path / folder).mkdir()
    assert ModelSource.parse(text) == ModelSource(name, revision)


@pytest.mark.parametrize("text", ["", "owner/name@", "@v1", "folder@v1"])
def test_a_source_that_is_no_source_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"owner/name|has no revisions"):
        ModelSource.parse(text)


def test_the_record_names_the_commit(saved_dino, hub_cache):
    hub_cache("owner/dino", saved_dino)
    source = ModelSource("owner/dino")
    assert weights_name(source, load_dino(source)) == f"owner/dino@{COMMIT}"
    local = ModelSource.of(saved_dino)
    assert weights_name(local, load_dino(local)) == str(saved_dino)


PIPELINE_DAMAGE = ("no weight", "no text weight", "no unet", "no index", "pickled", "other class")


@pytest.mark.parametrize("damage", PIPELINE_DAMAGE)
def test_a_damaged_pipeline_is_an_error(saved_pipeline, tmp_path, damage):
    folder = shutil.copytree(saved_pipeline, tmp_path / "sd2")
    unet, name = folder / "unet", "StableDiffusionInpaintPipeline"
    path = unet / "diffusion_pytorch_model.safetensors"
    if damage == "no weight":
        remove_weight(path, "conv_in.weight")
    elif damage == "no text weight":
        remove_weight(folder / "text_encoder" / "model.safetensors", "final_layer_norm.weight")
    elif damage == "no unet":
        shutil.rmtree(unet)
    elif damage == "no index":
        (folder / "model_index.json").unlink()
    elif damage == "pickled":
        torch.save(load_file(path), unet / "diffusion_pytorch_model.bin")
        path.unlink()
    else:
        name = "FluxFillPipeline"
    with pytest.raises(ModelError, match=r"the alterer: .*sd2 (cannot be loaded|is no complete)"):
        load_pipeline(name, ModelSource.of(folder), torch.float32, purpose="the alterer")


def test_a_missing_package_names_the_extra(saved_dino, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"DINO needs transformers.*pip install '\.\[lab\]'"):
        load_dino(saved_dino)
    with pytest.raises(ImportError, match=r"pip install"):
        load_tokenizer(ModelSource.of(saved_dino), purpose="DINO")
