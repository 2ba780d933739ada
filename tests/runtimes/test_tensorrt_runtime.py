"""The TensorRT runtime on a fake library: memory, streams, threads, errors, runtime choice."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from pathlib import Path
from types import ModuleType

import fake_tensorrt
import pytest
import tiny_models
import torch
from fake_tensorrt import place_plan
from tiny_models import images

from vsm_fast import ModelError, VSMScorer
from vsm_fast.cli.main import ExitCode, main
from vsm_fast.runtimes import tensorrt_library
from vsm_fast.runtimes.choose import load_runtime
from vsm_fast.runtimes.exported import BatchRange, read_record
from vsm_fast.runtimes.onnx_runtime import OnnxRuntime
from vsm_fast.runtimes.plans import plans_in
from vsm_fast.runtimes.tensorrt_runtime import TensorRTRuntime, load_tensorrt

one_thread, tensorrt = tiny_models.one_thread, fake_tensorrt.tensorrt
CPU = torch.device("cpu")


@pytest.fixture
def folder(tensorrt: ModuleType, small_export: Path, tmp_path: Path) -> Path:
    """An exported folder with a plan for the machine of the fixture."""
    made = shutil.copytree(small_export, tmp_path / "exported")
    place_plan(made, tensorrt)
    return made


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def runtime(folder: Path) -> TensorRTRuntime:
    return load_tensorrt(folder, read_record(folder), CPU)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_every_batch_size_gives_what_onnx_runtime_gives(
    runtime: TensorRTRuntime, folder: Path, count: int
) -> None:
    """Split at 4, padded below 2."""
    wanted = OnnxRuntime(folder, read_record(folder), CPU)(images(count))
    for found, right in zip(runtime(images(count)), wanted, strict=True):
        assert found.shape == (count, 16, 6, 6)
        torch.testing.assert_close(found, right, atol=1e-6, rtol=0)
    assert (runtime.name, runtime.precision, runtime.device) == ("tensorrt", "float32", CPU)


def test_images_need_not_lie_in_order(runtime: TensorRTRuntime) -> None:
    plain = images(3)
    turned = plain.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not turned.is_contiguous()
    assert torch.equal(runtime(turned)[0], runtime(plain)[0])
    assert torch.equal(runtime(plain.double())[1], runtime(plain)[1])


def test_torchs_stream_waits_for_ours_and_ours_for_torchs(runtime: TensorRTRuntime) -> None:
    runtime(images(2))
    assert fake_tensorrt.ORDER == ["ours waits for torch's", "runs", "torch's waits for ours"]


def test_a_fixed_batch_is_captured_once_and_replayed(
    folder: Path, tensorrt: ModuleType, runtime: TensorRTRuntime
) -> None:
    record = dataclasses.replace(read_record(folder), batch=BatchRange(4, 4, 4))
    engine = runtime._engine
    engine._shapes = [[4, 3, 32, 32]] * 3
    engine._tensors = {name: (4, *shape[1:]) for name, shape in engine._tensors.items()}
    graphed = TensorRTRuntime(tensorrt, engine, record, CPU, cuda_graph=True)
    batches = [images(4, seed=1), images(4, seed=2), images(3, seed=3), images(9, seed=4)]
    found = [graphed(batch) for batch in batches]
    assert fake_tensorrt.ORDER.count("runs") == 1 + 1 + 1 + 1 + 3
    (lane,) = graphed._idle
    assert len(lane._graph.launches) == 1
    right = OnnxRuntime(folder, read_record(folder), CPU)
    for batch, pair in zip(batches, found, strict=True):
        for ours, wanted in zip(pair, right(batch), strict=True):  # no batch wrote over another
            torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=0)


def test_the_workspace_grows_and_is_kept(runtime: TensorRTRuntime) -> None:
    for count in (2, 4, 3):
        runtime(images(count))
    assert fake_tensorrt.Engine.fake_workspaces == [2000, 4000, 4000]


def test_each_thread_has_a_context_of_its_own(
    runtime: TensorRTRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = threading.Barrier(3, timeout=30)
    run, contexts = fake_tensorrt.Context.execute_async_v3, []

    def together(context: fake_tensorrt.Context, stream: int) -> bool:
        contexts.append(id(context))
        barrier.wait()  # all three are inside
        return run(context, stream)

    monkeypatch.setattr(fake_tensorrt.Context, "execute_async_v3", together)
    batches = [images(2, seed=seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(runtime, batches))
    assert len(set(contexts)) == 3
    monkeypatch.setattr(fake_tensorrt.Context, "execute_async_v3", run)
    for batch, (semantic, visual) in zip(batches, found, strict=True):
        assert torch.equal(semantic, runtime(batch)[0])
        assert torch.equal(visual, runtime(batch)[1])
    assert len(runtime._idle) == 3


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("Error Code 2: OutOfMemory (Requested size was 9 bytes.)", torch.OutOfMemoryError),
        ("[defaultAllocator.cpp] Cuda Runtime (out of memory)", torch.OutOfMemoryError),
        ("Error Code 1: Cask", ModelError),
    ],
)
def test_what_tensorrt_says_is_in_the_error(
    runtime: TensorRTRuntime, monkeypatch: pytest.MonkeyPatch, said: str, error: type[Exception]
) -> None:
    monkeypatch.setattr(fake_tensorrt.Engine, "fake_error", said)
    with pytest.raises(error, match=r"could not run the network: .*(Error Code|out of memory)"):
        runtime(images(2))
    assert not runtime._idle  # the context is not used again
    monkeypatch.setattr(fake_tensorrt.Engine, "fake_error", "")
    assert torch.isfinite(runtime(images(2))[0]).all()


def test_memory_that_there_is_not_makes_batches_smaller(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workspace is torch's: what does not fit is torch's error, which halves the batch."""
    empty = torch.empty

    def limited(*size: int, **how: object) -> torch.Tensor:
        if how.get("dtype") == torch.uint8 and size[0] > 2000:
            raise torch.OutOfMemoryError
        return empty(*size, **how)

    monkeypatch.setattr(torch, "empty", limited)
    scorer = VSMScorer.from_pretrained(folder, device="cpu", runtime="tensorrt")
    pictures = list((images(4) + 1) / 2)
    found = scorer.score(pictures, pictures, semantic_threshold=-1)
    assert set(found.status) == {"ok"}
    assert max(fake_tensorrt.Engine.fake_workspaces) == 2000


def test_nan_of_a_low_precision_is_computed_again(
    folder: Path, small_export: Path, tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a model with weights: in torch and float32, and counted."""
    sidecar = plans_in(folder)[0].with_suffix(".json")
    for path in (folder / "export.json", sidecar):
        edit(path, lambda content: content.update(precision="float16"))
    monkeypatch.setattr("vsm_fast.runtimes.choose.exported_folder", lambda *_, **__: folder)
    monkeypatch.setattr(fake_tensorrt.Engine, "fake_factor", float("nan"))
    model = small_export.parent / "model"
    scorer = VSMScorer.from_pretrained(model, device="cpu", runtime="tensorrt")
    assert (scorer.runtime.name, scorer.runtime.precision) == ("tensorrt", "float16")
    picture = (images(1)[0] + 1) / 2
    found = scorer.score([picture], [picture], semantic_threshold=-1)
    assert list(found.status) == ["ok"]
    assert scorer.recomputed == 2


def test_auto_takes_the_plan_of_this_machine_and_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_runtime(folder, device="cpu").runtime.name == "tensorrt"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert load_runtime(folder, device="cpu").runtime.name == "onnxruntime"
    assert "the GPU: built for NVIDIA H100 80GB HBM3, here is NVIDIA H200" in caplog.text
    with pytest.raises(ModelError, match=r"no TensorRT plan for this machine.*H200.*build_trt"):
        load_runtime(folder, device="cpu", runtime="tensorrt")


@pytest.mark.usefixtures("tensorrt")
def test_a_folder_without_plans_is_scored_by_onnx_runtime(
    small_export: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_runtime(small_export, device="cpu").runtime.name == "onnxruntime"
    assert not caplog.text
    with pytest.raises(ModelError, match="It has none at all"):
        load_runtime(small_export, device="cpu", runtime="tensorrt")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (("machine", "tensorrt"), "11.3.0.99", "TensorRT: built for 11.3.0.99, here is 11.4.0.106"),
        (("machine", "capability"), [8, 9], r"capability: built for \(8, 9\), here is \(9, 0\)"),
        (("precision",), "float16", "precision: built for float16, here is float32"),
        (("batch",), {"least": 1, "best": 2, "most": 3}, r"batch sizes: built for \(1, 2, 3\)"),
        (("weights",), "0" * 64, "weights: built for 000000000000"),
        (("graph",), {"model.onnx": "0" * 64}, "built from another graph"),
    ],
)
def test_a_plan_that_does_not_fit_says_what_and_never_reaches_tensorrt(
    folder: Path, field: tuple[str, ...], value: object, said: str
) -> None:
    def change(content: dict[str, object]) -> None:
        for name in field[:-1]:
            content = content[name]
        content[field[-1]] = value

    edit(plans_in(folder)[0].with_suffix(".json"), change)
    with pytest.raises(ModelError, match=f"{said}.*build_trt --onnx {folder}"):
        load_tensorrt(folder, read_record(folder), CPU)
    assert not fake_tensorrt.Runtime.fake_given


def test_a_plan_without_sidecar_or_altered_never_reaches_tensorrt(folder: Path) -> None:
    plan = plans_in(folder)[0]
    content = plan.read_bytes()
    for wrong in (content[:-1], b"x" + content[1:], b"", content + b" "):
        plan.write_bytes(wrong)
        with pytest.raises(ModelError, match=r"altered or cut off.*build_trt --onnx"):
            load_tensorrt(folder, read_record(folder), CPU)
    plan.write_bytes(content)
    plan.with_suffix(".json").unlink()
    with pytest.raises(ModelError, match=r"native code.*Build it again"):
        load_runtime(folder, device="cpu")  # auto: damage is no reason to take another runtime
    assert not fake_tensorrt.Runtime.fake_given


def test_an_engine_of_another_network_is_refused(
    folder: Path, tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_record(folder)
    content = plans_in(folder)[0].read_bytes()
    others = {
        "built for batches of": content.replace(b"[4, 3", b"[5, 3"),
        "could not load the plan: Serialization": b"something else",
    }
    for said, other in others.items():
        place_plan(folder, tensorrt, other)
        with pytest.raises(ModelError, match=said):
            load_tensorrt(folder, record, CPU)
    place_plan(folder, tensorrt, content)
    monkeypatch.setattr(fake_tensorrt.Engine, "get_tensor_dtype", lambda *of: "float16")
    with pytest.raises(ModelError, match="another type than float32"):
        load_tensorrt(folder, record, CPU)
    monkeypatch.setattr(fake_tensorrt.Engine, "get_tensor_shape", lambda *of: (1, 2))
    with pytest.raises(ModelError, match="the engine has the inputs and outputs"):
        load_tensorrt(folder, record, CPU)


def test_the_command_line_scores_with_a_plan(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = Path(__file__).parents[2] / "examples"
    command = ["score", "--refs", str(examples / "refs"), "--gens", str(examples / "gens"),
               "--model", str(folder), "--device", "cpu", "--semantic-threshold", "-1"]  # fmt: skip
    assert main([*command, "--runtime", "onnxruntime"]) == ExitCode.OK
    wanted = capsys.readouterr().out
    assert main([*command, "--runtime", "tensorrt"]) == ExitCode.OK
    assert capsys.readouterr().out == wanted
    assert fake_tensorrt.Runtime.fake_given
    plans_in(folder)[0].write_bytes(b"")
    assert main(command) == ExitCode.MODEL
    assert "altered or cut off" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")
def test_without_a_gpu_or_tensorrt_the_alternative_is_named(
    small_export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", "--refs", "examples/refs", "--gens", "examples/gens"]
    assert main([*command, "--runtime", "tensorrt"]) == ExitCode.USAGE
    assert "NVIDIA GPU" in (said := capsys.readouterr().err)
    assert "onnxruntime" in said
    monkeypatch.setattr(tensorrt_library, "_nvidia", lambda device: True)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for model in ("tiny", str(small_export)):
        assert main([*command, "--runtime", "tensorrt", "--model", model]) == ExitCode.USAGE
        assert "pip install '.[gpu]'" in capsys.readouterr().err


def test_an_old_tensorrt_is_refused(tensorrt: ModuleType) -> None:
    tensorrt.__version__ = "10.9.0.34"
    with pytest.raises(ImportError, match=r"10\.13 or newer is required; 10\.9\.0\.34 is"):
        tensorrt_library.library(CPU)
    for version in ("10.13.3.9", "10.16.1.11", "11.0.0.114"):
        tensorrt.__version__ = version
        assert tensorrt_library.library(CPU) is tensorrt


def test_the_stand_in_has_only_what_the_real_bindings_have() -> None:
    """Names and parameters; see fake_tensorrt.py for where the file comes from."""
    bindings = json.loads((Path(__file__).parents[1] / "helpers" / "tensorrt_api.json").read_text())
    for version, classes in bindings.items():
        for name, ours in fake_tensorrt.REAL_NAMES.items():
            real = classes[name]
            for member in (m for m in vars(ours) if not m.startswith(("_", "fake_"))):
                if isinstance(ours, type(IntEnum)) or not inspect.isfunction(vars(ours)[member]):
                    continue
                assert member in real, (version, name, member)
                parameters = [*inspect.signature(vars(ours)[member]).parameters][1:]
                named = [p for p in parameters if p != "shapes"]  # min, opt and max
                assert any(named == each[: len(named)] for each in real[member]), (name, member)
            for member in getattr(ours, "__members__", ()):
                assert name == "Severity" or member in real, (version, name, member)
