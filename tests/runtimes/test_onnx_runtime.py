"""Exported networks in ONNX Runtime: agreement with torch, and errors."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vsm_fast import ModelError, VSMScorer
from vsm_fast.cli.main import ExitCode, main
from vsm_fast.export.onnx_graph import ExportOptions, export_onnx
from vsm_fast.files import sha256_of
from vsm_fast.model.location import find_model
from vsm_fast.results.drift import drift
from vsm_fast.runtimes.choose import exported_folder
from vsm_fast.runtimes.exported import ONNX, RECORD, BatchRange, read_record
from vsm_fast.runtimes.onnx_runtime import OnnxRuntime

EXAMPLES = Path(__file__).parents[2] / "examples"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model."""
    out = tmp_path_factory.mktemp("export") / "tiny"
    export_onnx("tiny", out, ExportOptions(batch=BatchRange(1, 4, 8)))
    return out


@pytest.fixture(scope="module")
def runtime(exported: Path) -> OnnxRuntime:
    return OnnxRuntime(exported, read_record(exported), CPU)


def _pictures(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("count", [1, 3, 11])
def test_every_batch_size_gives_what_torch_gives(runtime: OnnxRuntime, count: int) -> None:
    plain = VSMScorer.from_pretrained("tiny", device="cpu", runtime="torch").runtime
    for found, wanted in zip(runtime(_pictures(count)), plain(_pictures(count)), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert (runtime.name, runtime.precision, runtime.device) == ("onnxruntime", "float32", CPU)


def test_scores_of_photographs_are_those_of_torch(exported: Path) -> None:
    images = sorted(EXAMPLES.rglob("*.jpg"))
    masks = [path.with_name(f"{path.stem}_mask.png") for path in images]
    pairs = [(i, j) for i in range(len(images)) for j in range(len(images)) if i != j]
    plain, ours = (
        VSMScorer.from_pretrained(model, device="cpu", runtime=name).score(
            images, images, pairs=pairs, ref_masks=masks, gen_masks=masks, heatmaps=True
        )
        for model, name in (("tiny", "torch"), (exported, "auto"))
    )
    found = drift(plain, ours)
    assert found.flipped_share <= 0.001, found
    assert found.similarity <= 1e-3, found


def test_the_command_line_scores_an_exported_folder(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", "--refs", str(EXAMPLES / "refs"), "--gens", str(EXAMPLES / "gens")]
    assert main([*command, "--model", str(exported)]) == ExitCode.OK
    ours = capsys.readouterr().out
    assert main([*command, "--runtime", "torch"]) == ExitCode.OK
    assert capsys.readouterr().out == ours
    assert main([*command, "--model", str(exported), "--runtime", "torch"]) == ExitCode.MODEL
    assert "exported network" in capsys.readouterr().err
    assert main([*command, "--model", str(exported), "--dtype", "bfloat16"]) == ExitCode.USAGE
    assert "float32" in capsys.readouterr().err


def test_a_named_model_is_exported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Path
) -> None:
    monkeypatch.setenv("VSM_FAST_HOME", str(tmp_path))
    calls = []

    def counting(model: str, out: Path, options: ExportOptions, **_: object) -> None:
        calls.append((model, options.precision))
        shutil.copytree(exported, out)

    monkeypatch.setattr("vsm_fast.export.onnx_graph.export_onnx", counting)
    picture = np.asarray(Image.open(EXAMPLES / "refs/robot_toy/reference.jpg"))
    for _ in range(2):
        scorer = VSMScorer.from_pretrained("tiny", device="cpu", runtime="onnxruntime")
        assert scorer.runtime.name == "onnxruntime"
        assert scorer.score([picture], [picture]).score == 1
    assert calls == [(str(find_model("tiny")), "float32")]
    assert len(list(tmp_path.glob("exports/*/" + ONNX))) == 1
    with pytest.raises(ModelError, match="has no torch modules"):
        scorer.network  # noqa: B018


def test_threads_that_start_at_once_export_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSM_FAST_HOME", str(tmp_path))
    calls = []

    def slow(_model: str, out: Path, _options: ExportOptions) -> None:
        calls.append(out)
        time.sleep(0.2)
        out.mkdir()  # fails for a second one
        (out / RECORD).touch()

    monkeypatch.setattr("vsm_fast.export.onnx_graph.export_onnx", slow)
    model = find_model("tiny")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: exported_folder(model, "float32"), range(4)))
    assert made == calls * 4


@pytest.mark.parametrize("damaged", [ONNX, RECORD])
def test_our_own_export_is_made_again_when_it_is_damaged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exported: Path,
    caplog: pytest.LogCaptureFixture,
    damaged: str,
) -> None:
    monkeypatch.setenv("VSM_FAST_HOME", str(tmp_path))

    def copying(_model: str, out: Path, _options: ExportOptions) -> None:
        shutil.copytree(exported, out, dirs_exist_ok=True)

    monkeypatch.setattr("vsm_fast.export.onnx_graph.export_onnx", copying)
    VSMScorer.from_pretrained("tiny", device="cpu", runtime="onnxruntime")
    (file,) = tmp_path.glob(f"exports/*/{damaged}")
    file.write_bytes(file.read_bytes()[:-1000])
    scorer = VSMScorer.from_pretrained("tiny", device="cpu", runtime="onnxruntime")
    assert scorer.runtime.name == "onnxruntime"
    assert str(file) in caplog.text
    assert file.read_bytes() == (exported / damaged).read_bytes()


def _copy(exported: Path, folder: Path, content: bytes) -> Path:
    """An exported folder with another graph, and the hash that belongs to it."""
    folder.mkdir()
    (folder / ONNX).write_bytes(content)
    record = json.loads((exported / RECORD).read_text())
    record["files"] = {ONNX: sha256_of(folder / ONNX)}
    (folder / RECORD).write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("seed", range(6))
def test_damaged_graphs_are_errors_and_no_crashes(
    exported: Path, tmp_path: Path, seed: int
) -> None:
    content = bytearray((exported / ONNX).read_bytes())
    rng = random.Random(seed)
    if seed % 3 == 0:
        content = content[: rng.randrange(len(content))]
    else:  # the structure is at both ends, weights in between
        ends = [*range(3000), *range(len(content) - 20000, len(content))]
        for place in rng.sample(ends, 40):
            content[place] = rng.randrange(256)
    folder = _copy(exported, tmp_path / "damaged", bytes(content))
    with suppress(ModelError):  # a weight may have changed, and nothing else
        OnnxRuntime(folder, read_record(folder), CPU)(_pictures(1))


def test_an_altered_graph_is_refused_unread(exported: Path, tmp_path: Path) -> None:
    folder = _copy(exported, tmp_path / "altered", (exported / ONNX).read_bytes())
    (folder / ONNX).write_bytes(b"something else")
    with pytest.raises(ModelError, match="altered or cut off"):
        VSMScorer.from_pretrained(folder, device="cpu")


def test_what_onnx_runtime_cannot_do_here_says_so(exported: Path) -> None:
    record = read_record(exported)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match=r"no provider for cuda.*'\.\[gpu\]'"):
            OnnxRuntime(exported, record, torch.device("cuda"))
    with pytest.raises(ModelError, match="cannot compute on a CPU"):
        OnnxRuntime(exported, dataclasses.replace(record, precision="bfloat16"), CPU)
