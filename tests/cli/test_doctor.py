"""What the doctor says of matching, on machines with and without a GPU."""

from __future__ import annotations

import json
import platform
import sys
from types import SimpleNamespace

import pytest
import torch

import vsm_fast
from vsm_fast.cli import doctor
from vsm_fast.cli.doctor import Stage, examine, render
from vsm_fast.cli.main import ExitCode, main
from vsm_fast.matching import gpu as _triton_matching
from vsm_fast.runtimes import tensorrt_library

needs_triton = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="Triton has wheels for Linux on x86-64 only",
)


def matching_stage(device: str) -> Stage:
    (found,) = (
        stage
        for stage in examine()["stages"]
        if stage["stage"] == "matching" and stage["device"] == device
    )
    return found


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that torch describes but that is not here."""
    properties = SimpleNamespace(
        name="New GPU", major=9, minor=0, shared_memory_per_block_optin=227 << 10
    )
    monkeypatch.setattr(doctor, "_examine_devices", lambda report: ["cpu", "cuda"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: properties.name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@needs_triton
@pytest.mark.usefixtures("gpu")
def test_a_gpu_shows_whether_its_tiles_were_measured() -> None:
    report = examine()
    assert report["problems"] == []
    network, matching = (stage for stage in report["stages"] if stage["device"] == "cuda")
    assert network["detail"] == "descriptors are stored in float16"
    assert matching["path"] == "triton"
    assert matching["detail"] == "not tuned for New GPU: default tiles"
    lines = render(report).splitlines()
    described = next(i for i, line in enumerate(lines) if line.startswith("  matching on cuda"))
    assert lines[described + 1].strip() == "not tuned for New GPU: default tiles"


@needs_triton
@pytest.mark.usefixtures("gpu")
def test_tiles_are_those_of_the_models_descriptors_or_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vsm_fast.kernels import tuning

    asked = []

    def choose(*of: object) -> tuning.Choice:
        asked.append(of)
        return tuning.Choice(tuning.NearestTiles(), False, "fused, as measured")

    monkeypatch.setattr(tuning, "choose", choose)
    assert matching_stage("cuda")["detail"] == "fused, as measured"
    assert asked == [(torch.float16, 128, 32 * 32, torch.device("cuda"))]

    def damaged(*of: object) -> tuning.Choice:
        raise ValueError("new-gpu.json is no file of tuned tiles")

    monkeypatch.setattr(tuning, "choose", damaged)
    report = examine()
    assert report["problems"] == ["matching on cuda: new-gpu.json is no file of tuned tiles"]
    assert "all is well" not in render(report)


@needs_triton
@pytest.mark.usefixtures("gpu")
def test_a_triton_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_triton_matching, "triton_version", lambda: "3.5.1")
    found = matching_stage("cuda")
    assert found["path"] == "eager"
    assert found["reason"] == "the Triton kernels need Triton 3.6; 3.5.1 is installed"
    assert found["detail"] == "a full similarity matrix per pair"


def test_a_cpu_shows_its_product_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    detail = matching_stage("cpu")["detail"]
    assert detail == "blocks of float32 similarities, multiplied by BLAS"


@pytest.mark.parametrize("gpu", [False, True])
def test_whether_tensorrt_can_be_used(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    monkeypatch.setattr(tensorrt_library, "_nvidia", lambda device: gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    report = examine()
    wanted = "pip install '.[gpu]'" if gpu else "needs an NVIDIA GPU"
    assert wanted in report["runtimes"]["tensorrt"]
    assert f"  tensorrt  {report['runtimes']['tensorrt']}" in render(report).splitlines()
    assert report["problems"] == []  # it is optional
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.4.0.106"))
    if gpu:
        assert examine()["runtimes"]["tensorrt"] == "TensorRT 11.4.0.106"


def test_the_report_as_json_and_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == ExitCode.OK
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["vsm_fast"] == vsm_fast.__version__
    assert report["versions"]["torch"] != "missing"
    assert report["problems"] == []
    assert {stage["stage"] for stage in report["stages"]} == {"network", "matching"}
    assert all(stage["path"] and stage["reason"] and stage["detail"] for stage in report["stages"])
    text = render(report)
    for title in ("versions", "optional", "devices", "threads", "model", "stages", "all is well"):
        assert title in text


def test_a_missing_model_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "./no-such-model"]) == ExitCode.FAILED
    lines = capsys.readouterr().out.splitlines()
    assert any("no-such-model" in line for line in lines[lines.index("problems") :])
    assert any(line.startswith("  matching on cpu") for line in lines)  # it is shown all the same
