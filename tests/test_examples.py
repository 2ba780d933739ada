"""The examples and the documents' code as a reader would run them."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pretrained_models import save_sd2_inpainting

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Function: (script, *arguments) -> what it prints. In this process, which has torch loaded."""

    def run_script(script: str, *arguments: str) -> str:
        path = ROOT / "examples" / script
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run_script


def test_the_notebook_runs_from_photographs_to_a_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in code)
    names: dict[str, Any] = {}
    exec("\n".join("".join(cell["source"]) for cell in code), names)
    printed = capsys.readouterr().out
    score = re.search(r"VSM (0\.\d+)", printed)
    assert score is not None
    assert 0.6 < float(score[1]) < 0.95
    threshold = re.search(r"threshold of (\S+);", printed)
    assert threshold is not None
    assert 0.4 < float(threshold[1]) < 0.9
    place = re.search(r"x = (\d+), y = (\d+)", printed)
    assert place is not None
    part = np.asarray(Image.open(ROOT / "examples" / "parts" / "robot_toy.png").convert("L"))
    assert part[int(place[2]), int(place[1])] > 127
    names["figure"].savefig(tmp_path / "quickstart.png", dpi=120)
    assert np.asarray(Image.open(tmp_path / "quickstart.png")).std() > 10


def test_previews_of_a_pipeline(run: Callable[..., str], tmp_path: Path) -> None:
    model = save_sd2_inpainting(tmp_path / "model")
    photo = ROOT / "examples" / "refs" / "robot_toy" / "reference.jpg"
    mask = photo.with_name("reference_mask.png")
    printed = run(
        "diffusers_previews.py",
        *("--pipeline", str(model), "--reference", str(photo), "--mask", str(mask)),
        *("--prompt", "toy", "--out", str(tmp_path / "out"), "--size", "64"),
        *("--steps", "5", "--every", "2"),
    )
    curve = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert [preview["step"] for preview in curve] == [1, 3, 4]
    assert "generation: VSM" in printed
    assert Image.open(tmp_path / "out" / "generation.png").size == (64, 64)


def test_the_code_of_the_integrations_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "how-to" / "integrations.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, Any] = {}
    exec("\n".join(blocks), names)
    assert names["rewards"].shape == (4,)
    assert names["metric"].n_scored + names["metric"].n_undefined == 2
