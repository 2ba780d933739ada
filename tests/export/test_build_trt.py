"""Plan builds with a fake TensorRT: options, checks, interrupts, exit codes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import fake_tensorrt
import pytest
import tiny_models
import torch
from fake_tensorrt import Builder, BuilderFlag, Engine, MemoryPoolType

from vsm_fast import ModelError
from vsm_fast.export import runtime_check
from vsm_fast.export.build_trt import main
from vsm_fast.export.onnx_graph import ExportOptions
from vsm_fast.export.trt_engine import _type_name
from vsm_fast.runtimes import tensorrt_library
from vsm_fast.runtimes.choose import load_runtime
from vsm_fast.runtimes.exported import DEFAULT_BATCH, read_record
from vsm_fast.runtimes.plans import plans_in, read_sidecar
from vsm_fast.runtimes.tensorrt_runtime import load_tensorrt

one_thread, tensorrt = tiny_models.one_thread, fake_tensorrt.tensorrt
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(small_export: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_export, tmp_path / "exported"))


@pytest.fixture(autouse=True)
def _few_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples/refs", tmp_path / "photographs")
    monkeypatch.setattr(runtime_check, "EXAMPLES", tmp_path / "photographs")
    monkeypatch.setattr(runtime_check, "_milliseconds", lambda *of: 2.0)


@pytest.fixture
def model(small_export: Path) -> str:
    """The model that was exported."""
    return str(small_export.parent / "model")


def build(folder: Path, *more: str) -> int:
    return main(["--onnx", str(folder), "--device", "cpu", *more])


def test_a_plan_is_built_as_asked_for_checked_and_scored_with(
    tensorrt: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cache = tmp_path / "timing.cache"
    more = ["--workspace", "2.5", "--optimization-level", "5", "--timing-cache", str(cache)]
    assert build(folder, *more) == 0
    said = capsys.readouterr().out
    (config,) = Builder.fake_configs
    assert BuilderFlag.TF32 not in config.flags
    assert config.fake_pools == {MemoryPoolType.WORKSPACE: 5 << 29}
    assert config.builder_optimization_level == 5
    shapes = [(count, 3, 32, 32) for count in (2, 3, 4)]
    assert list(config.fake_profiles[0].fake_shapes) == shapes
    assert cache.read_bytes() == b"measured"

    (plan,) = plans_in(folder)
    assert plan.name == "model-h100-80gb-hbm3-sm90-trt11.4.plan"
    record = read_sidecar(plan)
    assert (record.machine.tensorrt, record.machine.gpu) == ("11.4.0.106", fake_tensorrt.GPU)
    assert record.size == plan.stat().st_size
    assert record.built["types"] == {"float16": 1, "float32": 1}
    assert record.checked["drift"]["flipped"] == 0
    assert "2 layers (float16 50%, float32 50%), 1 MiB of workspace" in said
    assert "least cosine 1.000000; score 0.0000 at most" in said
    assert "tensorrt             4      2.00     2000.0   1.00" in said
    assert f"wrote {plan}" in said
    runtime = load_tensorrt(folder, read_record(folder), CPU)
    assert runtime(tiny_models.images(3))[0].shape == (3, 16, 6, 6)


def test_what_was_measured_is_used_again_and_damage_is_not(
    tensorrt: ModuleType, folder: Path, tmp_path: Path
) -> None:
    assert build(folder) == 0
    (cache,) = (tmp_path / "home/tensorrt").iterdir()
    assert "H100" in cache.name
    assert "11.4.0.106" in cache.name
    assert build(folder) == 0
    assert cache.read_bytes() == b"measuredmeasured"
    cache.write_bytes(b"damaged")
    assert build(folder) == 0
    assert cache.read_bytes() == b"measured"


def test_a_plan_that_computes_something_else_is_not_written(
    tensorrt: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for factor in (0.998, -1.0, float("nan")):
        monkeypatch.setattr(Engine, "fake_factor", factor)
        assert build(folder) == 4
        said = capsys.readouterr().err
        assert "inaccurate" in said or "NaN" in said
    assert plans_in(folder) == []
    monkeypatch.setattr(Engine, "fake_factor", 0.9999)
    assert build(folder) == 0


@pytest.mark.parametrize(
    ("off", "drifted", "torchs", "good"),
    [
        (0.0009, 0.009, None, True),
        (0.0011, 0.0, None, False),
        (0.0, 0.011, None, False),
        (0.0, float("inf"), None, False),
        (0.003, 0.03, (0.002, 0.02), True),  # twice what torch is off in that precision
        (0.005, 0.0, (0.002, 0.02), False),
        (0.0, 0.05, (0.002, 0.02), False),
    ],
)
def test_limits(off: float, drifted: float, torchs: tuple[float, float] | None, good: bool) -> None:
    def of(off: float, score: float) -> runtime_check.Difference:
        return runtime_check.Difference(1 - off, runtime_check.Drift(6, 100, 0, score, 0.0, 0.0))

    found, other = of(off, drifted), of(*torchs) if torchs else None
    if good:
        runtime_check.require_small(found, other, "the plan")
    else:
        with pytest.raises(ModelError, match="the plan"):
            runtime_check.require_small(found, other, "the plan")


def test_an_interrupt_ends_the_build_at_its_next_step(
    tensorrt: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import _thread
    import time

    def step() -> None:  # in the thread of the build; the interrupt reaches the main one
        _thread.interrupt_main()
        time.sleep(0.6)

    monkeypatch.setattr(Builder, "fake_step", staticmethod(step))
    monkeypatch.setattr(Builder, "fake_steps", 1000)
    begin = time.monotonic()
    assert build(folder) == 130
    assert time.monotonic() - begin < 60
    assert "interrupted" in capsys.readouterr().err
    assert plans_in(folder) == []


@pytest.mark.parametrize(
    ("error", "code"), [("Error Code 10: no tactic", 4), ("Error Code 2: OutOfMemory", 1)]
)
def test_a_build_that_fails_says_what_tensorrt_said(
    tensorrt: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, error: str, code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(Builder, "fake_error", error)
    assert build(folder) == code
    assert error in capsys.readouterr().err
    assert plans_in(folder) == []


def test_a_file_in_the_folder_names_it_too_and_torch_can_be_the_reference(
    tensorrt: ModuleType, folder: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(folder / "model.onnx", "--reference", model) == 0
    assert "the plan against torch in float32: least cosine" in capsys.readouterr().out
    assert build(folder, "--reference", "tiny") == 4
    assert "the export is not of 'tiny'" in capsys.readouterr().err


def test_a_model_is_exported_unless_that_export_is_there(
    tensorrt: ModuleType, folder: Path, model: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    exported: list[object] = []
    monkeypatch.setattr(
        "vsm_fast.export.onnx_graph.export_onnx",
        lambda *of, **how: exported.append(of[2]) or read_record(folder),
    )
    command = ["--model", model, "--out", str(folder), "--device", "cpu"]
    assert main([*command, "--dynamic", "2:3:4"]) == 0
    assert "up to date" in (said := capsys.readouterr().out)
    assert "the plan against torch in float32" in said
    assert not exported
    assert main(command) == 0
    assert exported == [ExportOptions("float32", DEFAULT_BATCH)]


def test_wrong_usage(
    tensorrt: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (
        ["--model", "tiny"],
        ["--onnx", str(folder), "--out", str(tmp_path)],
        ["--onnx", str(folder), "--workspace", "-1"],
        [],
    ):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
    assert build(folder, "--device", "nothing") == 2
    assert "--device nothing" in capsys.readouterr().err
    assert build(folder, "--cuda-graph") == 2
    assert "--static-batch" in capsys.readouterr().err
    assert build(tmp_path / "absent") == 4
    assert "does not describe an exported model" in capsys.readouterr().err
    record = folder / "export.json"
    record.write_text(record.read_text().replace('"float32"', '"int8"'))
    for more in ((), ("--dry-run",)):
        assert build(folder, *more) == 4
        assert "is in int8; plans are built from float32" in capsys.readouterr().err
    assert not Builder.fake_configs


def test_the_first_use_of_the_runtime_builds_once(
    tensorrt: ModuleType, folder: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsm_fast.runtimes.choose.exported_folder", lambda *_, **__: folder)
    for _ in range(2):
        loaded = load_runtime(model, device="cpu", runtime="tensorrt")
        assert loaded.runtime.name == "tensorrt"
    assert len(Builder.fake_configs) == 1
    plans_in(folder)[0].with_suffix(".json").write_text("{")
    load_runtime(model, device="cpu", runtime="tensorrt")
    assert len(Builder.fake_configs) == 2


def test_types_of_layers_in_the_words_of_both_versions() -> None:
    assert _type_name({"DataType": "BFloat16"}) == "bfloat16"
    assert _type_name({"Format/Datatype": "Row major linear FP16 format"}) == "float16"
    told = {"Format/Datatype": "Channel major FP32 format where C % 4 == 0"}
    assert _type_name(told) == "float32"
    assert _type_name({}) == "unknown"


class TestDryRun:
    """No GPU, with and without a parser of TensorRT."""

    @pytest.fixture(autouse=True)
    def _no_tensorrt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setattr(tensorrt_library, "_nvidia", lambda device: False)

    def test_says_what_would_be_built(
        self, folder: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from benchmarks.flops import operations_per_image
        from vsm_fast.model.load import load_model

        before = sorted(folder.iterdir())
        assert main(["--onnx", str(folder), "--dry-run"]) == 0
        said = capsys.readouterr().out
        counted = operations_per_image(load_model(model)[1], 32)
        for line in (
            "input        images float [batch, 3, 32, 32]",
            "output       visual float [batch, 16, 6, 6]",
            "profile      batch at least 2, at best 3, at most 4",
            f"operations   {counted / 1e9:.2f} GFLOP per image",
            "parsed       by onnx alone",
            "plan         cannot be built here: TensorRT needs an NVIDIA GPU",
        ):
            assert line in said
        assert sorted(folder.iterdir()) == before

    def test_parses_with_tensorrt_for_rtx_where_that_is(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
        request: pytest.FixtureRequest,
    ) -> None:  # fmt: skip
        stand_in = request.getfixturevalue("tensorrt")
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", stand_in)
        monkeypatch.setattr(tensorrt_library, "_nvidia", lambda device: False)
        assert main(["--onnx", str(folder), "--dry-run"]) == 0
        assert "by tensorrt_rtx 11.4.0.106" in (said := capsys.readouterr().out)
        assert "1 input and 2 outputs" in said

    def test_counts_operations_as_torch_does(self, folder: Path, model: str) -> None:
        from benchmarks.flops import operations_per_image
        from vsm_fast.export.trt_dry_run import graph_facts
        from vsm_fast.model.load import load_model

        network = load_model(model)[1]
        facts = graph_facts(folder / "model.onnx")
        assert facts.operations == operations_per_image(network, 32)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        assert parameters * 4 <= facts.types["FLOAT"] < parameters * 4.1
        assert 2 * 16 * 6 * 6 * 4 < facts.activation_bytes < 1 << 20

    def test_without_a_gpu_a_build_is_refused_before_the_export(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--model", "tiny", "--out", str(tmp_path / "out")]) == 2
        assert "Use runtime 'onnxruntime'" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_the_module_is_a_command_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vsm_fast.export.build_trt", "--help"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0
    assert "exit codes" in done.stdout
