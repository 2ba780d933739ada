"""All training stages of the embedded model, in a few steps, on synthetic photographs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import recipes.tiny
from recipes.tiny import splits, train
from vsm_fast import VSMScorer

SHORT = ("--shards", "1", "--joint-steps", "1", "--count", "4")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:150, :150]
    mask = (x - 75) ** 2 + (y - 70) ** 2 < 50**2
    for number, subject in enumerate([*splits.TRAIN, *splits.VALIDATION, *splits.TEST]):
        (root / subject).mkdir()
        for name in ("00", "01"):
            rng = np.random.default_rng((number, int(name)))
            pixels = np.kron(rng.integers(0, 256, (10, 10, 3)), np.ones((15, 15, 1)))
            Image.fromarray(pixels.astype(np.uint8)).save(root / subject / f"{name}.jpg")
            Image.fromarray(mask.astype(np.uint8) * 255).save(root / subject / f"{name}_mask.png")
    return root


def test_all_stages_train_a_model_that_scores(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--photos", str(photos), "--out", str(tmp_path), *SHORT]
    command += ["--backbone-steps", "1", "--epochs", "1", "--feature-pairs", "4"]
    module = [sys.executable, "-m", "recipes.tiny.train"]
    subprocess.run([*module, *command], check=True, timeout=600, capture_output=True)

    before = (tmp_path / "evaluation.json").read_text()
    figures = json.loads(before)
    assert figures["test, seen alterations"]["pairs"] == 4
    assert figures["test, unseen alteration"]["other_pairs"] == 1
    assert set(figures["thresholds"]) == {"semantic", "visual"}
    photo = photos / splits.TEST[0] / "00.jpg"
    scores = VSMScorer.from_pretrained(tmp_path / "model").score([photo], [photo])
    assert scores.score.tolist() == [1.0]

    # A second run skips the finished stages and repeats the figures.
    monkeypatch.setattr(sys, "argv", ["train", *command])
    train.main()
    assert (tmp_path / "evaluation.json").read_text() == before


def test_a_model_replaces_the_first_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Run --stage backbone first"):
        train.features_stage(tmp_path, 1)
    train.start_from("tiny", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "backbone.safetensors", train.CHECKPOINT,
    }  # fmt: skip
    with pytest.raises(FileNotFoundError, match="Run --stage joint first"):
        train._save(tmp_path, train.Thresholds())


@pytest.mark.slow
def test_training_starts_from_a_model(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--photos", str(photos), "--out", str(tmp_path), *SHORT, "--start", "tiny"]
    monkeypatch.setattr(sys, "argv", ["train", *command])
    train.main()
    assert not (tmp_path / "features").exists()
    assert (tmp_path / "model" / "config.json").exists()


def test_no_subject_is_in_two_splits() -> None:
    subjects = [*splits.TRAIN, *splits.VALIDATION, *splits.TEST]
    assert len(subjects) == len(set(subjects)) == 22


def test_shipped_masks_are_of_training_subjects_only() -> None:
    masks = sorted((Path(recipes.tiny.__file__).parent / "masks").glob("*/*_mask.png"))
    assert len(masks) == 41
    assert {path.parent.name for path in masks} <= set(splits.TRAIN)
    for path in masks:
        share = np.asarray(Image.open(path).convert("L")).mean() / 255
        assert 0.005 < share < 0.6, path
