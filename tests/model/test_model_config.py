"""Configurations: errors name the field."""

from __future__ import annotations

import dataclasses

import pytest
import tiny_models
from tiny_models import aggregation_pair, config_of, edit_config, pixel_unet, write_folder

from vsm_fast.errors import ModelError
from vsm_fast.model.config import AggregationConfig, ModelConfig, Thresholds, weights_fingerprint
from vsm_fast.model.load import load_model

one_thread = tiny_models.one_thread


@pytest.fixture
def folder(tmp_path):
    """A model folder of a pixel UNet."""
    write_folder(tmp_path / "model", config_of(), pixel_unet(), *aggregation_pair((24, 8)))
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("backbone", "levels", "us3", "levels must be a list of strings"),
        ("backbone", "levels", [], "at least one"),
        ("backbone", "levels", ["us9"], "us1 to us6"),
        ("backbone", "resolution", "32", "a whole number"),
        ("backbone", "resolution", 33, "pixel_unshuffle must be a divisor of resolution 33"),
        ("backbone", "resolution", 4, r"resolution must be in \[8, 4096\]; got 4"),
        ("backbone", "resolution", 10**9, "resolution must be in"),
        ("backbone", "timestep", float("nan"), "timestep must be in"),
        ("backbone", "timestep", 1e308, r"timestep must be in \[0, 10000\]; got 1e\+308"),
        ("backbone", "latent_scale", 1e308, "latent_scale must be in"),
        ("backbone", "latent_shift", float("inf"), "latent_shift must be in"),
        ("backbone", "framing", "face", "framing must be one of"),
        ("backbone", "interpolation", "area", "interpolation must be one of"),
        ("backbone", "background", "blue", "background must be one of"),
        ("backbone", "colour", 1, r"unknown fields \['colour'\]"),
        ("aggregation", "grid", [6], "grid must be a list of two"),
        ("aggregation", "grid", [6, 0], "two positive sizes"),
        ("aggregation", "grid", [4000, 4000], "at most 65536 cells"),
        ("aggregation", "groups", 0, "groups must be a positive number"),
        ("aggregation", "groups", 5, "a multiple of 5 groups"),
        ("aggregation", "first_level_weight", "two", "first_level_weight must be one of"),
        ("aggregation", "mask_reduction", "area", "mask_reduction must be one of"),
        ("thresholds", "visual", 1.5, "cosine similarity"),
        ("thresholds", "visual", True, "a number"),
        (None, "format", "vsm_fast/2", "format 'vsm_fast/1'; got 'vsm_fast/2'"),
        (None, "files", ["a"], "files must be an object"),
        (None, "backbone", 3, "backbone must be an object"),
    ],
)
def test_wrong_configurations(folder, section, field, value, message):
    def change(content):
        (content if section is None else content[section])[field] = value

    edit_config(folder, change)
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_a_missing_field_and_text_that_is_no_json(folder):
    edit_config(folder, lambda content: content["backbone"].pop("timestep"))
    with pytest.raises(ModelError, match=r"missing fields \['timestep'\]"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json is not JSON"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="is not a model folder"):
        load_model(folder)


def test_a_configuration_survives_json():
    config = dataclasses.replace(
        config_of(), thresholds=Thresholds(0.5, 0.4),
        aggregation=AggregationConfig(grid=(3, 5), mask_reduction="any"),
        base_revision="0123", files={"a": "b"},
    )  # fmt: skip
    assert ModelConfig.from_json(config.to_json()) == config


def test_the_fingerprint_depends_on_the_weights_only():
    config = dataclasses.replace(config_of(), files={"a": "1", "b": "2"})
    same = dataclasses.replace(config, name="other", files={"b": "2", "a": "1"})
    swapped = dataclasses.replace(config, files={"a": "2", "b": "1"})
    assert len(weights_fingerprint(config)) == 64
    assert weights_fingerprint(config) == weights_fingerprint(same)
    assert weights_fingerprint(config) != weights_fingerprint(swapped)
