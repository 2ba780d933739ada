"""The GPU checklist without a GPU: order, failures, tables, workloads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fake_tensorrt
import pytest
import torch

from benchmarks.gpu import tensorrt as tensorrt_step
from benchmarks.gpu.__main__ import (
    BUDGET,
    EXPORTS,
    NO_GPU,
    ROOT,
    STEPS,
    main,
    run_checklist,
    run_step,
)
from benchmarks.gpu.exports import Exported
from benchmarks.gpu.report import TARGET_SHAPE, Results, markdown, targets
from vsm_fast.runtimes.exported import read_record

tensorrt = fake_tensorrt.tensorrt
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tries it out on a CPU")
ENVIRONMENT = {
    "gpu": "Some GPU", "date": "2026-01-01", "torch": "2.11", "copy_tb_per_s": 3.0,
    "gemm_tflops": {"bfloat16": 800.0, "float16": 790.0, "float8": None},
}  # fmt: skip


def row(contestant: str, dtype: str, p50: float) -> dict[str, Any]:
    return {
        "shape": TARGET_SHAPE, "dtype": dtype, "contestant": contestant,
        "p20": p50 - 1, "p50": p50, "p80": p50 + 1, "peak_mib": 5.0, "tflops": 4e5 / p50,
    }  # fmt: skip


MATCHING = [
    row("vsm_fast", "bfloat16", 1000.0),
    row("vsm_fast", "float16", 1000.0),
    row("torch eager", "float16", 4000.0),
    {
        "shape": TARGET_SHAPE,
        "dtype": "float16",
        "contestant": "torch.compile",
        "error": "no memory",
    },
]


def fake(found: dict[str, list[dict[str, Any]]], wrong: dict[str, str] | None = None) -> Any:
    def run(module: str, path: Path, seconds: float) -> str | None:
        rows = "".join(json.dumps(one) + "\n" for one in found.get(module, []))
        path.write_text(rows, encoding="utf-8")
        return (wrong or {}).get(module)

    return run


GREEN = {"environment": [ENVIRONMENT], "native_tests": [{"green": True, "passed": 9}]}


def test_results_are_written_with_a_name_of_their_own(tmp_path: Path) -> None:
    results = run_checklist(tmp_path, 500, run=fake({**GREEN, "matching": MATCHING}))
    written = json.loads((tmp_path / "some-gpu-2026-01-01.json").read_text())
    assert written == results
    assert written["matching"] == MATCHING
    assert "9 passed" in (tmp_path / "some-gpu-2026-01-01.md").read_text()
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_failing_step_keeps_its_rows_and_the_next_goes_on(tmp_path: Path) -> None:
    run = fake({**GREEN, "matching": MATCHING[:1]}, {"matching": "stopped", "tuning": "broken"})
    results = run_checklist(tmp_path, 500, run=run)
    assert results["tuning"] == [{"error": "broken"}]
    assert results["matching"] == [MATCHING[0], {"error": "stopped"}]
    assert list(results) == [name for name, _, _ in STEPS]
    assert "- matching: stopped" in markdown(results)


def test_nothing_is_measured_while_tests_are_red(tmp_path: Path) -> None:
    red = {**GREEN, "native_tests": [{"green": False, "failed": 1}], "matching": MATCHING}
    results = run_checklist(tmp_path, 500, run=fake(red))
    assert results["matching"] == [{"error": "not measured: the kernel tests fail"}]
    assert "native tests: RED" in markdown(results)


def test_steps_that_no_time_is_left_for_say_so(tmp_path: Path) -> None:
    results = run_checklist(tmp_path, 1, run=fake(GREEN))
    assert results["environment"] == [{"error": "no time left"}]


def test_one_call_ends_within_eight_minutes() -> None:
    assert BUDGET < 480
    before_the_last = sum(seconds for _, _, seconds in STEPS[:-1])
    assert before_the_last <= 480


def test_targets_are_met_missed_or_not_measured() -> None:
    results: Results = {"environment": [ENVIRONMENT], "matching": MATCHING}
    assert [measured for _, measured, _ in targets(results)][:3] == [400 / 800, 4.0, None]
    text = markdown(results)
    assert "| 0.6 | 0.50 | missed |" in text
    assert "| 5 | 4.00 | missed |" in text
    assert "| 2 | not measured | |" in text
    assert "| vsm_fast | 999 / 1000 / 1001 | 400.0 | 50% | 5 |" in text
    assert "| torch.compile | no memory | | | |" in text


def test_throughput_is_against_the_recipe_and_the_gemm() -> None:
    rows: list[dict[str, Any]] = [
        {"workload": "any", "how": "recipe", "pairs_per_s": 4.0, "images_per_s": 8.0},
        {"workload": "1 x 1000", "how": "vsm_fast, torch", "pairs_per_s": 28.0,
         "images_per_s": 28.0, "tflops": 200.0, "peak_mib": 900.0},
        {"workload": "30 x 4 x 30", "how": "vsm_fast, torch", "pairs_per_s": 99.0,
         "images_per_s": 99.0, "tflops": 700.0},
    ]  # fmt: skip
    results: Results = {"environment": [ENVIRONMENT], "throughput": rows}
    assert [measured for _, measured, _ in targets(results)][3:] == [200 / 800, 7.0]
    text = markdown(results)
    assert "| 1 x 1000 | vsm_fast, torch | 28.00 | 7.0 | 28.00 | 25% | 900 |" in text
    assert "| any | recipe | 4.00 | 1.0 | 8.00 |  |  |" in text


def test_levers_are_against_the_default() -> None:
    rows: list[dict[str, Any]] = [
        {"lever": "default", "images_per_s": 40.0, "least_cosine": 0.99, "mean_cosine": 0.999,
         "peak_mib": 10.0},
        {"lever": "faster", "images_per_s": 60.0, "least_cosine": 0.9, "mean_cosine": 0.99,
         "peak_mib": 20.0},
        {"lever": "absent", "error": "ImportError: no xformers"},
    ]  # fmt: skip
    text = markdown({"levers": rows})
    assert "| faster | 60.00 | 1.50 | 0.9000 | 0.99000 | 20 |" in text
    assert "| absent | ImportError: no xformers | | | | |" in text


def test_exports_are_a_call_of_their_own(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"how": "tensorrt", "batch": 8, "images_per_s": 60.0, "least_cosine": 0.999,
         "build_minutes": 3.5, "size_mib": 1700.0},
        {"how": "tensorrt, CUDA graph", "batch": 8, "error": "ModelError: no"},
        {"how": "torch", "batch": 8, "images_per_s": 40.0, "least_cosine": 0.9995},
    ]  # fmt: skip
    run = fake({**GREEN, "tensorrt": rows})
    assert "TensorRT" not in run_checklist(tmp_path, 500, run=run)
    results = run_checklist(tmp_path, 500, ["environment", "tensorrt"], run=run)
    assert list(results) == ["environment", "TensorRT"]
    assert {path.name for path in tmp_path.glob("*.json")} == {
        "some-gpu-2026-01-01.json", "some-gpu-2026-01-01-tensorrt.json",
    }  # fmt: skip
    text = markdown(results)
    assert "| tensorrt | 8 | 60.00 | 1.50 | 0.9990 | 3.5 | 1700 |" in text
    assert "| tensorrt, CUDA graph | 8 | ModelError: no | | | | |" in text
    assert "| torch | 8 | 40.00 | 1.00 | 0.9995 |  |  |" in text
    assert sum(seconds for _, _, seconds in EXPORTS) <= 600


@pytest.mark.slow
def test_onnx_runtime_is_measured_on_a_small_scale(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert run_step("onnx_runtime", path, 280, "--quick") is None
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [one["how"] for one in rows] == ["onnxruntime", "torch"]
    assert all(one["images_per_s"] > 0 and one["least_cosine"] > 0.9999 for one in rows)
    assert rows[0]["size_mib"] > 0


def test_tensorrt_is_measured_on_a_small_scale(
    request: pytest.FixtureRequest, small_export: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With a stand-in, to find mistakes before the first run on a GPU."""
    (row,) = tensorrt_step.run(torch.device("cpu"), quick=True)
    assert "NVIDIA GPU" in row["error"]
    request.getfixturevalue("tensorrt")
    folder = shutil.copytree(small_export, tmp_path / "exported")
    of = Exported(small_export.parent / "model", folder, read_record(folder), 0.1)
    monkeypatch.setattr(tensorrt_step, "exported", lambda home, quick: of)
    rows = list(tensorrt_step.run(torch.device("cpu"), quick=True))
    plan, graph, eager = rows
    assert [one["how"] for one in rows] == ["tensorrt", "tensorrt, CUDA graph", "torch"]
    for one in (plan, eager):
        assert one["images_per_s"] > 0
        assert one["least_cosine"] > 0.9999
    assert (plan["layers"], plan["types"]) == (2, {"float16": 1, "float32": 1})
    assert plan["build_minutes"] >= 0
    assert "--static-batch" in graph["error"]  # this export takes several sizes
    assert "| tensorrt | 3 |" in markdown({"TensorRT": rows})


def test_an_empty_run_has_a_table_too() -> None:
    assert "not measured" in markdown({})


@pytest.mark.parametrize(
    "module",
    ["environment", "throughput"]
    + [
        pytest.param(module, marks=pytest.mark.slow)
        for module in ("native_tests", "matching", "extraction", "levers")
    ],
)
def test_each_step_runs_on_a_small_scale(module: str, tmp_path: Path) -> None:
    """Interpreted and tiny, to find mistakes before the first run on a GPU."""
    path = tmp_path / "rows.jsonl"
    assert run_step(module, path, 280, "--quick") is None
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows
    assert not [one for one in rows if "error" in one]
    if module == "matching":
        contestants = {one["contestant"] for one in rows}
        assert {"vsm_fast", "GEMM alone", "torch eager", "torch.compile"} <= contestants


def test_a_step_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    assert run_step("environment", tmp_path / "rows.jsonl", 0.1, "--quick") == "stopped after 0 s"


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_children_of_a_stopped_step_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, started, survived = (tmp_path / name for name in ("step", "started", "survived"))
    script.write_text(
        f"#!/bin/sh\n(touch '{started}'; sleep 2; touch '{survived}') &\nwait\n", encoding="utf-8"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert run_step("environment", tmp_path / "rows.jsonl", 1) == "stopped after 1 s"
    assert started.exists()
    time.sleep(2)
    assert not survived.exists()


def test_a_step_that_fails_says_why(tmp_path: Path) -> None:
    found = run_step("environment", tmp_path / "absent" / "rows.jsonl", 60, "--quick")
    assert found is not None
    assert "FileNotFoundError" in found


def test_without_a_gpu_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path)]) == NO_GPU
    assert "nothing was measured" in capsys.readouterr().err
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path)], cwd=ROOT, timeout=120,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == NO_GPU
    assert list(tmp_path.iterdir()) == []
