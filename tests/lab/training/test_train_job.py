"""A training run as a whole: its folder, interruptions, several processes, the model."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import a_pair, write_backbone, write_pairs

from vsm_fast import VSMScorer
from vsm_fast.errors import ModelError, TrainingError
from vsm_fast.lab.pairs.pair_shards import read_pairs, write_pair_shard
from vsm_fast.lab.training import contrastive
from vsm_fast.lab.training.contrastive import ContrastiveTraining
from vsm_fast.lab.training.features import FeatureSettings
from vsm_fast.lab.training.train_job import PRESETS, TrainResult, TrainSettings, run_training

one_thread = tiny_models.one_thread
TRAINING = ContrastiveTraining(epochs=3, batch=2, save_every=1, precision="fp32")


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    write_backbone(tmp_path / "backbone")
    write_pairs(tmp_path / "train", 5)
    write_pairs(tmp_path / "held-back", 5, seed=50, kinds=("none", "none", "other subject"))
    return TrainSettings(
        pairs=str(tmp_path / "train"),
        validation=str(tmp_path / "held-back"),
        backbone=str(tmp_path / "backbone"),
        features=FeatureSettings(variants=2),
        training=TRAINING,
    )


def _run(settings: TrainSettings, out: Path) -> TrainResult:
    return run_training(settings, out, device="cpu")


def _assert_equal_weights(first: Path, second: Path) -> None:
    one, two = _weights(first), _weights(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "contrastive.safetensors")


def test_a_run_ends_with_a_model_that_scores(settings: TrainSettings, tmp_path: Path) -> None:
    lines: list[str] = []
    result = run_training(settings, tmp_path / "run", device="cpu", tell=lines.append)
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    assert result.model == tmp_path / "run" / "model"
    with (tmp_path / "run" / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    best = max(rows, key=lambda row: float(row["validation/pearson"]))
    assert int(best["epoch"]) == result.epoch
    assert result.validation.figures["pearson"] == pytest.approx(
        float(best["validation/pearson"]), rel=1e-5
    )
    assert sum(float(rows[0][f"mixing/visual/{level}"]) for level in ("us2", "us5")) > 1
    assert (tmp_path / "run" / "mixing.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    logged = events.Scalars("validation/pearson")
    assert [event.step for event in logged] == [1, 2, 3]
    assert logged[0].value == pytest.approx(float(rows[0]["validation/pearson"]), rel=1e-5)

    scorer = VSMScorer.from_pretrained(result.model, device="cpu")
    thresholds = scorer.config.thresholds
    assert (thresholds.semantic, thresholds.visual) == result.validation.thresholds
    about = json.loads((result.model / "training.json").read_text())
    assert about["settings"]["training"]["epochs"] == 3
    assert about["validation"] == result.validation.figures
    base = VSMScorer.from_pretrained(settings.backbone, device="cpu")
    for name, tensor in base.network.backbone.state_dict().items():
        assert torch.equal(tensor, scorer.network.backbone.state_dict()[name])
    # What the run reports is what its model measures.
    pairs = [pair for pair in read_pairs(settings.validation) if pair.kind != "other subject"]
    scores = scorer.score(
        [p.original_2 for p in pairs], [p.altered_1 for p in pairs],
        ref_masks=[p.mask_2 for p in pairs], gen_masks=[p.mask_1 for p in pairs],
    )  # fmt: skip
    unaltered = [row for row, pair in enumerate(pairs) if pair.kind == "none"]
    assert scores.score[unaltered].mean() == pytest.approx(
        result.validation.figures["mean_consistent"], abs=0.05
    )


_SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from vsm_fast.lab.training import contrastive
from vsm_fast.lab.training.contrastive import ContrastiveTraining
from vsm_fast.lab.training.features import FeatureSettings
from vsm_fast.lab.training.train_job import TrainSettings, run_training

real, saved = contrastive.save_state, []

def save_state(*arguments, **named):
    real(*arguments, **named)
    saved.append(arguments)
    if len(saved) == {kill_after}:
        os.kill(os.getpid(), signal.SIGKILL)

contrastive.save_state = save_state
run_training({settings!r}, Path({out!r}), device="cpu")
"""


@pytest.mark.parametrize("saves", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_killed_run_ends_bit_by_bit_like_one_that_was_not(
    settings: TrainSettings, tmp_path: Path, saves: int
) -> None:
    """Three steps per epoch: the second checkpoint is within an epoch, the third ends it."""
    settings = replace(settings, training=replace(TRAINING, epochs=2))
    straight = _run(settings, tmp_path / "straight")
    script = _SCRIPT.format(kill_after=saves, settings=settings, out=str(tmp_path / "killed"))
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    resumed = _run(settings, tmp_path / "killed")
    _assert_equal_weights(tmp_path / "straight", tmp_path / "killed")
    assert resumed.epoch == straight.epoch
    name = "aggregation.safetensors"
    assert (straight.model / name).read_bytes() == (resumed.model / name).read_bytes()
    tables = [(tmp_path / run / "history.csv").read_text() for run in ("straight", "killed")]
    assert tables[0] == tables[1]


def test_an_interruption_within_an_epoch_changes_nothing(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, training=replace(TRAINING, epochs=1))
    _run(settings, tmp_path / "straight")
    real, saved = contrastive.save_state, []

    def save_state(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        saved.append(arguments)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(contrastive, "save_state", save_state)
    with pytest.raises(KeyboardInterrupt):
        _run(settings, tmp_path / "cut")
    monkeypatch.undo()
    _run(settings, tmp_path / "cut")
    _assert_equal_weights(tmp_path / "straight", tmp_path / "cut")


def test_a_finished_run_extends_to_more_epochs(settings: TrainSettings, tmp_path: Path) -> None:
    """More epochs extend the same run; any other setting is refused with the difference."""
    settings = replace(settings, training=replace(TRAINING, epochs=2))
    _run(settings, tmp_path / "long")
    _run(replace(settings, training=replace(TRAINING, epochs=1)), tmp_path / "run")
    _run(settings, tmp_path / "run")
    _assert_equal_weights(tmp_path / "long", tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    other = replace(settings, training=replace(TRAINING, visual_weight=1.0))
    message = r"training.visual_weight: 10.0 there, 1.0 here"
    with pytest.raises(TrainingError, match=message):
        _run(other, tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_two_processes_train_like_one(settings: TrainSettings, tmp_path: Path) -> None:
    """Five pairs in batches of two: the last batch leaves the second process idle."""
    settings = replace(settings, training=replace(TRAINING, epochs=1))
    _run(settings, tmp_path / "one")
    script = _SCRIPT.format(kill_after=None, settings=settings, out=str(tmp_path / "two"))
    (tmp_path / "two.py").write_text(script)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1"]
    command += ["--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--num_cpu_threads_per_process", "1", "--main_process_port", "0"]
    launched = subprocess.run(
        [*command, str(tmp_path / "two.py")], capture_output=True, timeout=300
    )
    assert launched.returncode == 0, launched.stderr.decode()[-3000:]
    first, second = _weights(tmp_path / "one"), _weights(tmp_path / "two")
    moved = 0.0
    for name, value in first.items():
        if name.startswith("networks/"):
            torch.testing.assert_close(second[name], value, atol=2e-4, rtol=1e-3)
            moved = max(moved, float(value.abs().max()))
    assert moved > 0
    assert (tmp_path / "two" / "model" / "config.json").exists()


def test_levels_can_be_chosen(settings: TrainSettings, tmp_path: Path) -> None:
    chosen = replace(settings, levels=("us3",), training=replace(TRAINING, epochs=1))
    result = _run(chosen, tmp_path / "run")
    assert VSMScorer.from_pretrained(result.model, device="cpu").config.backbone.levels == ("us3",)
    with pytest.raises(ModelError, match="us99"):
        _run(replace(settings, levels=("us99",)), tmp_path / "wrong")


def test_too_few_validation_pairs(settings: TrainSettings, tmp_path: Path) -> None:
    write_pairs(tmp_path / "two-pairs", 2)
    few = replace(settings, validation=str(tmp_path / "two-pairs"))
    with pytest.raises(TrainingError, match=r"at least 3 pairs .* got 2, with 2 different"):
        _run(few, tmp_path / "run")
    assert not (tmp_path / "run" / "contrastive.safetensors").exists()


def test_pairs_of_the_published_layout_train_too(settings: TrainSettings, tmp_path: Path) -> None:
    """They bring no points; the backbone's features match them."""
    folder = tmp_path / "published"
    folder.mkdir()
    write_pair_shard([a_pair(number, points=False) for number in range(4)], folder / "0.parquet")
    loose = FeatureSettings(variants=1, match_similarity=0.2, match_skewness=-1.0)
    result = _run(
        replace(settings, pairs=str(folder), features=loose,
                training=replace(TRAINING, epochs=1)),
        tmp_path / "run",
    )  # fmt: skip
    assert result.epoch == 1


def test_the_default_is_the_papers_recipe() -> None:
    features, training = PRESETS["paper"]
    assert (training.epochs, training.batch, training.learning_rate) == (30, 8, 1e-3)
    assert (training.drop_every, training.drop_by) == (10, 10.0)
    assert (training.temperature, training.visual_weight) == (0.07, 10.0)
    assert (training.margin_weight, training.precision) == (0.0, "bf16")
    assert (features.match_similarity, features.match_skewness) == (0.7, 1.3)
