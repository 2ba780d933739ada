"""``vsm-fast convert`` and ``vsm-fast models``, with small models under the published names."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
import released_models
import tiny_models
from PIL import Image

import vsm_fast
from vsm_fast.cli import convert as command
from vsm_fast.cli.main import ExitCode, main
from vsm_fast.model import presets

one_thread = tiny_models.one_thread


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Released files, two presets for them, and an empty home."""
    monkeypatch.setenv("VSM_FAST_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    small = {p.name: p for p in (released_models.RELEASED, released_models.UNTRAINED)}
    for module in (presets, command):
        monkeypatch.setattr(module, "PRESETS", small)
    monkeypatch.setattr("vsm_fast.model.location.PRESETS", small)
    released_models.save_released(tmp_path)
    return released_models.released_files(tmp_path)


def convert(files, *arguments):
    return main(
        ["convert", "--preset", "small-cleandift", "--base", str(files.base),
         "--cleandift", str(files.cleandift), "--local-files-only", *arguments]
    )  # fmt: skip


def networks(files):
    return "--aggregation", str(files.aggregation), "--aggregation-config", str(files.experiment)


def test_a_converted_model_scores_by_its_name(files, tmp_path, capsys):
    assert convert(files, *networks(files)) == ExitCode.OK
    said = capsys.readouterr().out
    assert "learned time step: 260.25" in said
    assert f"wrote {tmp_path / 'home/models/small-cleandift'}" in said
    assert "vsm-fast score --model small-cleandift" in said
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save("a.png")
    scores = vsm_fast.score_batch(["a.png"], ["a.png"], model="small-cleandift")
    assert scores.score.tolist() == [1.0]
    assert main(["models", "--json"]) == ExitCode.OK
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed["small-cleandift"]["folder"] == str(tmp_path / "home/models/small-cleandift")
    assert listed["small-sd"]["folder"] is None
    assert listed["tiny"]["parameters"] > 1e6


def test_without_networks_it_is_for_training(files, capsys):
    assert convert(files, "--no-aggregation", "--out", "mine") == ExitCode.OK
    assert "vsm-fast train --backbone mine" in capsys.readouterr().out
    assert main(["doctor", "--model", "mine"]) == ExitCode.FAILED
    assert "a backbone without aggregation networks" in capsys.readouterr().out


def test_files_that_the_preset_does_not_take(files, capsys):
    assert convert(files, "--no-aggregation", *networks(files)) == ExitCode.USAGE
    assert "leave out --aggregation" in capsys.readouterr().err
    arguments = ["convert", "--preset", "small-sd", "--cleandift", str(files.cleandift)]
    assert main(arguments) == ExitCode.USAGE
    assert "small-sd takes no --cleandift" in capsys.readouterr().err


def test_revisions_and_the_tiny_vae(files, capsys, tmp_path):
    assert convert(files, *networks(files), "--revision", "org/other=v1") == ExitCode.MODEL
    assert "takes nothing from org/other" in capsys.readouterr().err
    assert convert(files, "--revision", "v1") == ExitCode.USAGE
    assert "REPOSITORY=REVISION; got 'v1'" in capsys.readouterr().err
    assert convert(files, "--tiny-vae-folder", "x") == ExitCode.USAGE
    assert "give both" in capsys.readouterr().err
    assert convert(files, *networks(files), "--tiny-vae") == ExitCode.MODEL
    assert "no tiny VAE is known for the preset 'small-cleandift'" in capsys.readouterr().err


def test_transformers_is_missing(files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert convert(files, *networks(files)) == ExitCode.USAGE
    errors = capsys.readouterr().err
    assert re.fullmatch(r"vsm-fast: error: [^\n]*pip install '\.\[lab\]'[^\n]*\n", errors)


def test_what_is_missing_is_exit_code_4(files, capsys):
    files.cleandift.unlink()
    assert convert(files, *networks(files)) == ExitCode.MODEL
    assert "hf download org/cleandift full.safetensors" in capsys.readouterr().err
    assert main(["score", "--refs", "a", "--gens", "b", "--model", "small-sd"]) != ExitCode.OK


def test_the_table_of_models(files, capsys):
    assert main(["models"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["name", "pixels", "parameters", "networks"]
    assert [line.split()[0] for line in lines[1:4]] == ["tiny", "small-cleandift", "small-sd"]
    assert any(line.startswith("small-cleandift ") and "0 of 9" in line for line in lines)
    assert "  vsm-fast convert --preset small-sd, then vsm-fast train --backbone small-sd ..." in (
        lines
    )
