"""What the doctor says of matching, on machines with and without a GPU."""

from __future__ import annotations

import platform
import sys
from types import SimpleNamespace

import pytest
import torch

from vsm_fast.cli import doctor_report as doctor
from vsm_fast.cli.doctor_report import Stage, examine, render
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
    assert network["detail"] == "descriptors are kept in float16"
    assert matching["path"] == "triton"
    assert matching["detail"] == "not tuned for New GPU: default tiles"
    lines = render(report).splitlines()
    described = next(i for i, line in enumerate(lines) if line.startswith("  matching on cuda"))
    assert lines[described + 1].strip() == "not tuned for New GPU: default tiles"


@needs_triton
@pytest.mark.usefixtures("gpu")
def test_tiles_are_those_of_the_models_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    from vsm_fast.kernels import tuning

    asked = []

    def choose(*of: object) -> tuning.Choice:
        asked.append(of)
        return tuning.Choice(tuning.NearestTiles(), False, "fused, as measured")

    monkeypatch.setattr(tuning, "choose", choose)
    assert matching_stage("cuda")["detail"] == "fused, as measured"
    assert asked == [(torch.float16, 128, 32 * 32, torch.device("cuda"))]


@needs_triton
@pytest.mark.usefixtures("gpu")
def test_a_damaged_file_of_tiles_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from vsm_fast.kernels import tuning

    def choose(*of: object) -> tuning.Choice:
        raise ValueError("new-gpu.json is no file of tuned tiles")

    monkeypatch.setattr(tuning, "choose", choose)
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


def test_without_a_model_the_paths_are_shown_all_the_same() -> None:
    report = examine("./no-such-model")
    (matching,) = (stage for stage in report["stages"] if stage["stage"] == "matching")
    assert matching["path"]
    assert matching["detail"] == ""
