"""Conversion of released files: equivalence with the originals, and errors."""

from __future__ import annotations

import dataclasses
import json
import shutil

import huggingface_hub.constants
import pytest
import released_models
import tiny_models
import torch
from released_models import (
    RELEASED,
    UNTRAINED,
    prompt,
    put_in_cache,
    released_backbone,
    save_base,
)
from safetensors.torch import load_file, save_file
from tiny_models import images, plain_levels

from vsm_fast.errors import ModelError
from vsm_fast.files import sha256_of
from vsm_fast.model.convert import LocalFiles, convert
from vsm_fast.model.load import build_backbone, build_network, load_model, read_config
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.model.presets import TextEncoder

one_thread = tiny_models.one_thread
SDXL = {
    "cross_attention_dim": 24, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 10 + 6 * 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    released_models.save_released(folder)
    return folder


@pytest.fixture
def files(saved, tmp_path):
    """The test's own copy of all released files."""
    shutil.copytree(saved, tmp_path / "released")
    return released_models.released_files(tmp_path / "released")


def converted(files, out, preset=RELEASED, **options):
    options = {"dtype": torch.float32, "local_files_only": True, **options}
    return convert(preset, out, LocalFiles(**vars(files)), **options)


def edit(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


@torch.no_grad()
def test_descriptors_are_those_of_the_parts_put_together(files, tmp_path):
    said = []
    written = converted(files, tmp_path / "out", tell=said.append)
    config, network = load_model(tmp_path / "out")
    assert config == written
    assert (config.backbone.levels, config.backbone.timestep) == (("us3", "us6"), 260.25)
    assert config.aggregation == dataclasses.replace(tiny_models.AGGREGATION, mask_reduction="any")
    wanted = DescriptorNetwork(released_backbone(), *released_models.networks())(images(2))
    for found, plain in zip(network(images(2)), wanted, strict=True):
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)
    exact = build_network(config, tmp_path / "out")
    assert torch.equal(exact.backbone.context, prompt())
    assert "settings of the experiment that were not used: model.something_new" in said
    assert "learned time step: 260.25" in said
    assert any(
        line.endswith("not used: adapters, mapping, unet_feature_extractor_base") for line in said
    )


@torch.no_grad()
def test_half_precision_is_for_the_backbone_only(files, tmp_path):
    converted(files, tmp_path / "out", dtype=torch.float16)
    kinds = {
        path.relative_to(tmp_path / "out").parts[0]: {v.dtype for v in load_file(path).values()}
        for path in (tmp_path / "out").rglob("*.safetensors")
    }
    assert kinds == {
        "unet": {torch.float16}, "vae": {torch.float16},
        "aggregation.safetensors": {torch.float32}, "conditioning.safetensors": {torch.float32},
    }  # fmt: skip
    _, network = load_model(tmp_path / "out")
    wanted = DescriptorNetwork(released_backbone(), *released_models.networks())(images())
    for found, plain in zip(network(images()), wanted, strict=True):
        assert (found * plain).sum(1).min() > 0.99


def test_every_file_has_its_hash_and_its_origin(files, tmp_path):
    out = tmp_path / "out"
    config = converted(files, out)
    on_disk = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert set(config.files) == on_disk - {"config.json", "sources.json"}
    assert all(sha256_of(out / name) == value for name, value in config.files.items())
    lock = json.loads((out / "sources.json").read_text())
    assert lock["preset"] == "small-cleandift"
    hashes = {entry["file"]: entry["sha256"] for entry in lock["files"]}
    given = {files.cleandift, files.aggregation, files.experiment, files.base / "unet/config.json"}
    assert {path.as_posix() for path in given} <= set(hashes)
    assert all(hashes[path.as_posix()] == sha256_of(path) for path in given)
    assert "cleandift.safetensors (local)" in config.base_revision


@torch.no_grad()
def test_a_copy_of_the_backbone_beside_the_networks(files, tmp_path):
    converted(files, tmp_path / "apart")
    copy = {f"cleandift_model.{name}": value for name, value in load_file(files.cleandift).items()}
    edit(files.aggregation, lambda weights: weights.update(copy))
    files.cleandift.unlink()
    files.cleandift = None
    said = []
    converted(files, tmp_path / "together", tell=said.append)
    apart, together = (read_config(tmp_path / name).files for name in ("apart", "together"))
    assert apart == together
    assert "the backbone is the copy of it in networks.safetensors" in said


@torch.no_grad()
def test_a_backbone_without_networks_is_for_training(files, tmp_path):
    out = tmp_path / "out"
    config = convert(UNTRAINED, out, LocalFiles(base=files.base), dtype=torch.float32)
    assert read_config(out) == config
    assert config.backbone == UNTRAINED.backbone
    found = build_backbone(config, out).eval()(images())
    wanted = released_models.UNetFeatures(
        tiny_models.condition_unet(), ("us2", "us5"), 50, vae=tiny_models.small_vae(),
        latent_scale=0.18215, conditioning={"encoder_hidden_states": prompt()},
    )(images())  # fmt: skip
    for level, plain in zip(found, wanted, strict=True):
        torch.testing.assert_close(level, plain, rtol=0, atol=1e-5)
    with pytest.raises(ModelError, match=r"without aggregation networks.*vsm-fast train"):
        load_model(out)
    kept = converted(files, tmp_path / "other", networks=False)
    assert (kept.backbone.levels, kept.backbone.timestep) == (("us2", "us5"), 260.25)
    assert not (tmp_path / "other/aggregation.safetensors").exists()


def test_weights_under_their_names_of_2022(files, tmp_path):
    converted(files, tmp_path / "new")

    def rename(weights):
        for name in [n for n in weights if n.startswith("ae.ae.") and ".to_q." in n]:
            weights[name.replace(".to_q.", ".query.")] = weights.pop(name)

    edit(files.cleandift, rename)
    assert any(".query." in name for name in load_file(files.cleandift))
    converted(files, tmp_path / "old")
    assert read_config(tmp_path / "new").files == read_config(tmp_path / "old").files


UNET, VAE = "unet_feature_extractor_cleandift.", "ae.ae."


def drop(prefix, count=9):
    def change(weights):
        for name in sorted(n for n in weights if n.startswith(prefix))[:count]:
            del weights[name]

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("cleandift", drop(UNET), r"\(unet\) does not fit.*0 unknown keys; 9 missing keys \(conv_"),
        ("cleandift", drop(VAE, 2), r"\(vae\) does not fit.*2 missing keys \(decoder"),
        (
            "cleandift",
            lambda weights: weights.update({f"{UNET}lora.{i}": torch.zeros(1) for i in range(8)}),
            r"8 unknown keys \(lora\.0, .*, \.\.\.\); 0 missing keys",
        ),
        (
            "cleandift",
            lambda weights: weights.update({f"{UNET}conv_in.weight": torch.zeros(1)}),
            r"conv_in.weight is \[1\] instead of \[8, 4, 3, 3\]",
        ),
        ("cleandift", drop(UNET, 10**4), rf"no full CleanDIFT checkpoint: it has no {UNET}\*; \d"),
        ("cleandift", drop("timestep"), "no full CleanDIFT checkpoint: it has no timestep;"),
        (
            "cleandift",
            lambda weights: weights.update(timestep=torch.zeros(2)),
            "timestep must be one finite number",
        ),
        (
            "aggregation",
            drop("bottleneck_layers_visual.", 3),
            r"3 missing keys \(bottleneck_layers_visual.0.0.conv1.norm.bias",
        ),
        (
            "aggregation",
            lambda weights: weights.update(logit_scale=torch.zeros(1)),
            r"1 unknown keys \(logit_scale\)",
        ),
        ("aggregation", drop("", 10**4), "holds no aggregation networks.*0 found keys"),
        (
            "aggregation",
            lambda weights: weights.update(mixing_weights_semantic=torch.zeros(3)),
            "has networks of 3 levels; .* names 2: us3, us6",
        ),
    ],
)
def test_names_and_shapes_are_checked_before_anything_is_written(
    files, tmp_path, name, change, message
):
    edit(getattr(files, name), change)
    with pytest.raises(ModelError, match=message):
        converted(files, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_the_unet_alone_is_told_from_the_full_checkpoint(files, tmp_path):
    released_models.other_unet().save_pretrained(tmp_path / "alone")
    files.cleandift = tmp_path / "alone/diffusion_pytorch_model.safetensors"
    with pytest.raises(ModelError, match=r"a UNet alone: use cleandift_sd21_full\.safetensors"):
        converted(files, tmp_path / "out")


@pytest.mark.parametrize("name", ["cleandift", "aggregation"])
def test_pickled_checkpoints_are_refused_under_any_name(files, tmp_path, name):
    pickled = tmp_path / "weights.ckpt"
    pickled.write_bytes(b"\x80\x02}q\x00.")
    getattr(files, name).write_bytes(pickled.read_bytes())
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        converted(files, tmp_path / "out")
    setattr(files, name, pickled)
    with pytest.raises(ModelError, match=r"is a pickled checkpoint.*only safetensors"):
        converted(files, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[us3, us6]", "us3"), "feat_type must be a list of levels.*got 'us3'"),
        (("[us3, us6]", "[]"), "feat_type must be a list of levels"),
        (("[us3, us6]", "[us3, us99]"), "has levels us1 to us12"),
        (("[us3, us6]", "[us3, up6]"), "levels are named us1"),
        (("num_blocks: 1", "num_blocks: 2"), "num_blocks=2 are not supported"),
        (("num_norm_groups: 4", "num_norm_groups: many"), "num_norm_groups must be a positive"),
        (("num_norm_groups: 4", "num_norm_groups: 5"), "multiple of 5 groups"),
        (("projection_dim: 16", "projection_dim: 32"), r"12 missing keys .*shortcut"),
        (("model:", "modell:"), "model must be a table of settings; got NoneType"),
        (("model:", "model: ["), "cannot be read as YAML"),
        (("train:", "x: !!python/object/apply:os.getcwd []\ntrain:"), "cannot be read as YAML"),
    ],
)
def test_experiments_that_are_not_understood(files, tmp_path, change, message):
    files.experiment.write_text(released_models.EXPERIMENT.replace(*change))
    with pytest.raises(ModelError, match=message):
        converted(files, tmp_path / "out")


def test_what_an_experiment_leaves_out_comes_from_the_weights(files, tmp_path):
    files.experiment.write_text("model: {feat_type: [us3, us6], resnet: {num_norm_groups: 4}}")
    found = converted(files, tmp_path / "out").aggregation
    assert (found.bottleneck_channels, found.descriptor_channels) == (8, 16)
    kept = found.grid, found.first_level_weight, found.mask_reduction
    assert kept == ((48, 48), "one", "any")


def test_padding_is_that_of_the_map_of_special_tokens(files, tmp_path):
    converted(files, tmp_path / "out")
    found = load_file(tmp_path / "out/conditioning.safetensors")["encoder_hidden_states"]
    assert torch.equal(found, prompt())
    assert not torch.allclose(found, prompt(padding="<|endoftext|>"))


def test_missing_files_of_the_base_are_named(files, tmp_path):
    shutil.rmtree(files.base / "tokenizer")
    with pytest.raises(
        ModelError, match=r"lacks tokenizer/vocab\.json, tok.*hf download org/sd tok"
    ):
        converted(files, tmp_path / "out")
    files.base = tmp_path / "nowhere"
    with pytest.raises(ModelError, match=r"nowhere lacks unet/config\.json"):
        converted(files, tmp_path / "out")


def test_a_missing_local_file_is_named_with_its_origin(files, tmp_path):
    files.cleandift.unlink()
    with pytest.raises(ModelError, match=r"is no file.*hf download org/cleandift full\.safe.*0123"):
        converted(files, tmp_path / "out")


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    """A Hub cache with all files of the preset, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    base = {name: files.base / name for name in RELEASED.base.files}
    put_in_cache(tmp_path / "hub", "org/sd", released_models.COMMIT, base)
    full = {"full.safetensors": files.cleandift}
    put_in_cache(tmp_path / "hub", "org/cleandift", released_models.COMMIT, full)
    published = {"weights.safetensors": files.aggregation, "experiment.yaml": files.experiment}
    put_in_cache(tmp_path / "hub", "org/vsm", "a" * 40, published)
    return tmp_path / "hub"


def test_everything_from_the_hubs_cache(files, hub, tmp_path):
    local = converted(files, tmp_path / "local")
    config = convert(RELEASED, tmp_path / "out", dtype=torch.float32)
    assert config.files == local.files
    commit = released_models.COMMIT
    assert config.base_revision == (f"org/vsm@{'a' * 40}, org/sd@{commit}, org/cleandift@{commit}")
    lock = json.loads((tmp_path / "out/sources.json").read_text())["files"]
    weights = next(entry for entry in lock if entry["file"] == "weights.safetensors")
    assert weights == {
        "file": "weights.safetensors", "sha256": sha256_of(files.aggregation),
        "repository": "org/vsm", "revision": None, "commit": "a" * 40,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("repository", "name", "command"),
    [
        ("org/vsm", "weights.safetensors", "hf download org/vsm weights.safetensors"),
        (
            "org/cleandift",
            "full.safetensors",
            f"hf download org/cleandift full.safetensors --revision {released_models.COMMIT}",
        ),
        ("org/sd", "tokenizer/vocab.json", "hf download org/sd unet/config.json vae/config.json"),
    ],
)
def test_what_is_not_in_the_cache_is_named(hub, tmp_path, repository, name, command):
    next(hub.glob(f"models--{repository.replace('/', '--')}/snapshots/*/{name}")).unlink()
    with pytest.raises(ModelError) as raised:
        convert(RELEASED, tmp_path / "out")
    assert f"{name} of {repository}" in str(raised.value)
    assert f"run: {command}" in str(raised.value)


def test_a_moved_branch_does_not_change_a_model_silently(files, hub, tmp_path):
    out = tmp_path / "out"
    before = convert(RELEASED, out)
    assert convert(RELEASED, out) == before  # again from the same files
    edit(files.aggregation, lambda weights: weights["mixing_weights_visual"].add_(1))
    published = {"weights.safetensors": files.aggregation, "experiment.yaml": files.experiment}
    put_in_cache(hub, "org/vsm", "b" * 40, published)
    with pytest.raises(ModelError, match=r"weights\.safetensors of org/vsm \(main branch\)") as e:
        convert(RELEASED, out)
    assert f"commit {'a' * 40} then, {'b' * 40} now" in str(e.value)
    assert read_config(out) == before
    assert convert(RELEASED, tmp_path / "new").files != before.files


def test_other_folders_are_left_alone(files, tmp_path):
    out = tmp_path / "out"
    converted(files, out)
    other = dataclasses.replace(RELEASED, name="other")
    with pytest.raises(ModelError, match="holds the preset 'small-cleandift', not 'other'"):
        converted(files, out, other)
    (out / "sources.json").write_text("{")
    with pytest.raises(ModelError, match=r"sources\.json cannot be read"):
        converted(files, out)
    (out / "sources.json").unlink()
    with pytest.raises(ModelError, match="was not made by vsm-fast convert"):
        converted(files, out)
    load_model(out)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_conversion_leaves_what_was_there(files, tmp_path, monkeypatch, error):
    before = converted(files, tmp_path / "out")

    def interrupt(*_):
        raise error

    monkeypatch.setattr("vsm_fast.model.convert.write_lock", interrupt)
    for name in ("out", "new"):
        with pytest.raises(error):
            converted(files, tmp_path / name)
    assert load_model(tmp_path / "out")[0] == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", "released"}


def test_a_base_of_another_width_does_not_fit(files, tmp_path):
    shutil.rmtree(files.base)
    save_base(files.base, unet=tiny_models.condition_unet(cross_attention_dim=16))
    with pytest.raises(ModelError, match=r"\(unet\) does not fit the model:.*instead of \["):
        converted(files, tmp_path / "out")
    content = json.loads((files.base / "unet/config.json").read_text())
    content["_class_name"] = "UNet3DConditionModel"
    (files.base / "unet/config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="must be of UNet2DConditionModel; got 'UNet3D"):
        converted(files, tmp_path / "out")


def test_a_text_encoder_of_another_width_does_not_fit(files, tmp_path):
    content = json.loads((files.base / "unet/config.json").read_text())
    content["cross_attention_dim"] = 16
    unet = tiny_models.condition_unet(cross_attention_dim=16)
    weights = {f"{UNET}{name}": value for name, value in unet.state_dict().items()}
    edit(files.cleandift, lambda w: (drop(UNET, 10**4)(w), w.update(weights)))
    (files.base / "unet/config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"encoder_hidden_states must be \[1, tokens, 16\]"):
        converted(files, tmp_path / "out")


@torch.no_grad()
def test_two_text_encoders_and_what_sdxl_adds(tmp_path):
    unet = tiny_models.condition_unet(**SDXL)
    first, second = (
        released_models.text_encoder(name, seed)
        for name, seed in (("CLIPTextModel", 3), ("CLIPTextModelWithProjection", 4))
    )
    base = save_base(tmp_path / "base", unet=unet, text_encoder=first, text_encoder_2=second)
    released_models.save_tokenizer(base / "tokenizer_2")
    encoders = (
        TextEncoder(output="penultimate"),
        TextEncoder("text_encoder_2", "tokenizer_2", second.__class__.__name__, "penultimate"),
    )
    preset = dataclasses.replace(UNTRAINED, text_encoders=encoders)
    config = convert(preset, tmp_path / "out", LocalFiles(base=base), dtype=torch.float32)
    tokens = torch.tensor([[3, 4, 0, 0, 0, 0, 0]])
    described = [model(tokens, output_hidden_states=True) for model in (first, second)]
    states = torch.cat([found.hidden_states[-2] for found in described], dim=-1)
    sizes = torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]])
    added = {"text_embeds": described[1].text_embeds, "time_ids": sizes}
    latent = tiny_models.small_vae().encode(images()).latent_dist.mode() * 0.18215
    wanted = plain_levels(unet, latent, 50.0, states, added_cond_kwargs=added)
    found = build_backbone(config, tmp_path / "out")(images())
    for name, level in zip(("us2", "us5"), found, strict=True):
        torch.testing.assert_close(level, wanted[name], rtol=0, atol=1e-4)


def test_an_unknown_preset():
    with pytest.raises(ModelError, match="no preset 'sd3'; there are cleandift-sd21, sd21"):
        convert("sd3")
