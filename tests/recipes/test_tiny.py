"""All training stages of the embedded model, in a few steps, on synthetic photographs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.tiny import splits, train
from vsm_fast import VSMScorer


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    y, x = np.mgrid[:150, :150]
    for number, subject in enumerate([*splits.TRAIN, *splits.VALIDATION, *splits.TEST]):
        (root / subject).mkdir(parents=True)
        for name in ("00", "01"):
            rng = np.random.default_rng((number, int(name)))
            pixels = np.kron(rng.integers(0, 256, (10, 10, 3)), np.ones((15, 15, 1)))
            mask = (x - 75) ** 2 + (y - 70) ** 2 < 50**2
            Image.fromarray(pixels.astype(np.uint8)).save(root / subject / f"{name}.jpg")
            Image.fromarray(mask.astype(np.uint8) * 255).save(root / subject / f"{name}_mask.png")
    return root


def test_all_stages_make_a_model_that_scores(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "recipes.tiny.train", "--photos", str(photos)]
    command += ["--out", str(out), "--backbone-steps", "1", "--shards", "1", "--epochs", "1"]
    command += ["--feature-pairs", "4", "--joint-steps", "1", "--count", "4"]
    subprocess.run(command, check=True, timeout=600, capture_output=True)

    figures = json.loads((out / "evaluation.json").read_text())
    assert figures["test, seen alterations"]["pairs"] == 4
    assert figures["test, unseen alteration"]["other_pairs"] == 1
    assert set(figures["thresholds"]) == {"semantic", "visual"}

    # The joint training can also start from a finished model.
    again = tmp_path / "again"
    shutil.copytree(out / "examples", again / "examples")
    resumed = [*command[: command.index("--out")], "--out", str(again), "--shards", "1"]
    resumed += ["--joint-steps", "1", "--count", "4", "--start", str(out / "model")]
    monkeypatch.setattr(sys, "argv", resumed[2:])
    train.main()
    assert not (again / "features").exists()
    assert (again / "model" / "config.json").exists()

    photo = photos / splits.TEST[0] / "00.jpg"
    scores = VSMScorer.from_pretrained(out / "model").score([photo], [photo])
    assert scores.score.tolist() == [1.0]

    # Another run finds every stage done and repeats the figures.
    before = (out / "evaluation.json").read_text()
    monkeypatch.setattr(sys, "argv", command[2:])
    train.main()
    assert (out / "evaluation.json").read_text() == before
