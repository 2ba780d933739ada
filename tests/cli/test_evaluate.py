"""``vsm-fast evaluate`` as a user meets it."""

from __future__ import annotations

import json
import sys

import pyarrow.parquet as pq
import pytest
import tiny_models
from made_pairs import made_pair, small_model

from vsm_fast.cli.evaluate import Evaluate
from vsm_fast.cli.main import ExitCode, main
from vsm_fast.lab.pairs.pair_shards import write_pair_shard

one_thread = tiny_models.one_thread


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs of two subjects in two shards, and a model."""
    root = tmp_path_factory.mktemp("evaluate")
    small_model(root / "model")
    (root / "pairs").mkdir()
    write_pair_shard([made_pair(i) for i in range(7)], root / "pairs" / "0.parquet")
    write_pair_shard([made_pair(i) for i in range(7, 12)], root / "pairs" / "1.parquet")
    return root


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)

    def command(*arguments: str) -> int:
        settings = ("--model", "model", "--semantic-threshold", "-1", "--resamples", "20")
        return main(["evaluate", "--pairs", "pairs", "--out", str(tmp_path), *settings, *arguments])

    return command


def test_table_and_files(run, tmp_path, capsys) -> None:
    assert run() == ExitCode.OK
    output = capsys.readouterr()
    assert (tmp_path / "table.md").read_text() in output.out
    assert "lab-histogram" in output.out
    assert output.err == ""
    settings = json.loads((tmp_path / "evaluation.json").read_text())["settings"]
    assert settings["source"] == {"pairs": "pairs", "subjects": None, "limit": None}
    assert settings["visual_thresholds"] == [0.6, 0.5, 0.7]
    table = pq.read_table(tmp_path / "pairs.parquet")
    assert table["id"].to_pylist() == [f"pair-{i}" for i in range(12)]


def test_filters_and_json(run, tmp_path, capsys) -> None:
    arguments = ("--subjects", "cup", "--limit", "5", "--baselines", "psnr,ssim", "--json")
    assert run(*arguments, "--thresholds") == 0
    content = json.loads(capsys.readouterr().out)
    assert content == json.loads((tmp_path / "evaluation.json").read_text())
    assert content["counts"]["subject"] == {"cup": 5}
    assert content["metrics"] == ["vsm@0.6", "psnr", "ssim"]


def test_splits(run, tmp_path, folder, capsys) -> None:
    (folder / "split.json").write_text('{"test": ["cup"], "train": ["shoe"]}')
    assert run("--split", "split.json", "--split-name", "train", "--baselines", "none", "-q") == 0
    counts = json.loads((tmp_path / "evaluation.json").read_text())["counts"]
    assert set(counts["subject"]) == {"shoe"}
    assert capsys.readouterr().out == ""
    (folder / "split.txt").write_text("cup\nshoe\n")
    (folder / "list.json").write_text('["shoe"]')
    for split, subjects in (
        ("split.json", ["cup"]),
        ("split.txt", ["cup", "shoe"]),
        ("list.json", ["shoe"]),
    ):
        command = Evaluate(pairs=folder / "pairs", out=tmp_path, split=folder / split)
        assert command._subjects() == subjects


def test_ratings(run, tmp_path, folder) -> None:
    (folder / "ratings.json").write_text(json.dumps({f"pair-{i}": [i, 0] for i in range(12)}))
    for options, rating in (((), 2), (("--rating-lists", "cp-pf"), 4)):
        assert run("--ratings", "ratings.json", *options, "--baselines", "none", "-q") == 0
        assert pq.read_table(tmp_path / "pairs.parquet")["human"].to_pylist()[4] == rating


def test_undefined_scores_give_exit_code_3(run, capsys) -> None:
    assert run("--semantic-threshold", "1", "--baselines", "none") == ExitCode.UNSCORED
    assert "Pairs without a VSM score: 12 (no_semantic_match)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pairs", "nowhere"], "nowhere holds no controlled pairs"),
        (["--subjects", "mug"], "no pair of mug in pairs; it has pairs of cup, shoe."),
        (["--split", "nowhere.json"], "--split nowhere.json cannot be read"),
        (["--split", "odd.json"], "has the lists train, but no 'test'"),
        (["--split", "odd.json", "--split-name", "train"], "must hold lists of subjects"),
        (["--split", "odd.json", "--subjects", "cup"], "leave --subjects out"),
        (["--baselines", "fid"], "got fid"),
        (["--out", "odd.json"], "--out must be a folder"),
        (["--ratings", "pairs"], "pairs holds no ratings"),
        (["--ratings", "odd.json"], "train is"),
        (["--device", "toaster"], "--device toaster"),
    ],
)
def test_wrong_usage_is_one_sentence(run, folder, capsys, arguments, message) -> None:
    (folder / "odd.json").write_text('{"train": "cup"}')
    assert run(*arguments) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_a_missing_model_is_exit_code_4(run, capsys) -> None:
    assert run("--model", "nowhere/at/all") == ExitCode.MODEL
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["matplotlib.figure", "scipy.stats", "skimage.metrics"])
def test_a_missing_package_names_the_extra(run, tmp_path, capsys, monkeypatch, package) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert run() == ExitCode.USAGE
    error = capsys.readouterr().err
    assert f"needs {package.partition('.')[0]}" in error
    assert "pip install '.[lab]'" in error
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_writes_nothing(run, tmp_path, capsys, monkeypatch) -> None:
    def interrupt(*_: object, **__: object):
        yield made_pair(0)
        raise KeyboardInterrupt

    monkeypatch.setattr("vsm_fast.lab.pairs.pair_shards.read_pairs", interrupt)
    assert run() == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "vsm-fast: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_shard_stops_before_anything_is_written(run, folder, tmp_path, capsys) -> None:
    broken = folder / "broken"
    broken.mkdir(exist_ok=True)
    write_pair_shard([made_pair(0)], broken / "0.parquet")
    (broken / "1.parquet").write_bytes(b"PAR1 not really")
    assert run("--pairs", "broken") == ExitCode.USAGE
    assert "1.parquet cannot be read" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
