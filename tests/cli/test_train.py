from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tiny_models
from training_runs import write_backbone, write_pairs

from vsm_fast.cli.main import ExitCode, main
from vsm_fast.cli.train import FeatureOptions, TrainingOptions
from vsm_fast.lab.training.contrastive import ContrastiveTraining
from vsm_fast.lab.training.features import FeatureSettings

one_thread = tiny_models.one_thread


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    write_backbone(tmp_path / "backbone")
    write_pairs(tmp_path / "train", 4)
    write_pairs(tmp_path / "held-back", 4, seed=50, kinds=("none", "other subject"))
    return [
        "train", "--pairs", str(tmp_path / "train"), "--validation", str(tmp_path / "held-back"),
        "--backbone", str(tmp_path / "backbone"), "--out", str(tmp_path / "run"),
        "--device", "cpu",
    ]  # fmt: skip


def _config(run: Path) -> dict[str, dict[str, object]]:
    content: dict[str, dict[str, object]] = json.loads((run / "config.json").read_text())
    return content


def test_train_makes_a_model_that_score_reads(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--epochs", "2", "--variants", "1", "--no-flips", "--precision", "fp32"]
    assert main([*command, *options]) == ExitCode.OK
    out = capsys.readouterr().out
    assert out.count("validation Pearson") == 2
    assert f"vsm-fast score --model {tmp_path / 'run' / 'model'}" in out
    config = _config(tmp_path / "run")
    assert config["features"]["variants"] == 1
    assert config["features"]["flips"] is False
    assert config["training"]["epochs"] == 2
    photo = "examples/refs/robot_toy/reference.jpg"
    photo = next(str(path) for path in Path("examples/refs").rglob("*.jpg")) or photo
    score = ["score", "--refs", photo, "--gens", photo, "--model", str(tmp_path / "run" / "model")]
    assert main([*score, "--out", str(tmp_path / "s.csv"), "-q", "--device", "cpu"]) in (
        ExitCode.OK, ExitCode.UNSCORED,
    )  # fmt: skip

    # The same command again finds everything done.
    assert main([*command, *options]) == ExitCode.OK
    assert "validation Pearson" not in capsys.readouterr().out
    # Another one is refused, with the difference.
    assert main([*command, *options, "--visual-weight", "1"]) == ExitCode.USAGE
    assert "training.visual_weight: 10.0 there, 1.0 here" in capsys.readouterr().err


def test_options_go_before_the_file_and_the_file_before_the_preset(
    command: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"visual_weight": 5, "epochs": 7, "seed": 3}')
    options = ["--preset", "tiny", "--config", str(file), "--epochs", "1", "-q"]
    assert main([*command, *options]) == ExitCode.OK
    config = _config(tmp_path / "run")
    assert config["training"]["epochs"] == 1
    assert config["training"]["visual_weight"] == 5
    assert config["training"]["margin_weight"] == 100.0
    assert config["training"]["seed"] == config["features"]["seed"] == 3
    assert config["features"]["variants"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read as JSON"), ("[]", "must be an object"),
     ('{"alpha": 1}', "'alpha'"), ('{"epochs": "3"}', "epochs must be a int; got '3'"),
     ('{"flips": 1}', "flips must be a bool; got 1"), ('{"epochs": true}', "epochs must be")],
)  # fmt: skip
def test_a_wrong_file_is_a_sentence(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str,
    message: str,
) -> None:  # fmt: skip
    file = tmp_path / "settings.json"
    file.write_text(content)
    assert main([*command, "--config", str(file)]) == ExitCode.USAGE
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [(["--epochs", "0"], "epochs must be at least 1"),
     (["--match-level", "us9"], "'us9' is not among the model's levels us2, us5"),
     (["--pairs", "nowhere"], "nowhere holds no controlled pairs")],
)  # fmt: skip
def test_a_wrong_option_is_a_sentence(
    command: list[str], capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    assert main([*command, *option]) == ExitCode.USAGE
    assert message in capsys.readouterr().err
    run = Path(command[command.index("--out") + 1])
    assert not run.exists()  # it would belong to these settings


def test_a_missing_backbone(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--backbone", "nothing here"]) == ExitCode.MODEL
    assert "no model 'nothing here'" in capsys.readouterr().err


def test_missing_packages_name_the_extra(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert main(command) == ExitCode.USAGE
    assert "pip install '.[lab]'" in capsys.readouterr().err


def test_every_setting_has_an_option() -> None:
    assert {*vars(FeatureOptions()), "seed"} == set(FeatureSettings.__dataclass_fields__)
    assert {*vars(TrainingOptions()), "seed"} == set(ContrastiveTraining.__dataclass_fields__)
