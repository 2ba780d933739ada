"""A fake ``tensorrt`` module for tests without a GPU, with the interface that vsm_fast uses.

A plan is a line of JSON that names the ONNX file, and an engine is ONNX Runtime on a CPU, which
reads and writes the addresses that it is given. Names that begin with ``fake_`` are for tests; the
others are in ``tensorrt_api.json`` as the bindings of TensorRT 10.13.3.9 and 11.4.0.106 have them
(read from their docstrings, with empty libraries under them), which a test compares.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from enum import IntEnum
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from vsm_fast.model.config import weights_fingerprint
from vsm_fast.runtimes import tensorrt_library
from vsm_fast.runtimes.exported import ONNX, read_record
from vsm_fast.runtimes.plans import PlanRecord, write_plan

MAGIC = b"fake plan "
VERSION, GPU = "11.4.0.106", "NVIDIA H100 80GB HBM3"


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    pass


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(IntEnum):
    TF32 = 7


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class ProfilingVerbosity(IntEnum):
    DETAILED = 1


class LayerInformationFormat(IntEnum):
    JSON = 1


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    USER_MANAGED = 2


class Network:
    def __init__(self, flags: int) -> None:
        self.fake_typed = bool(flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.fake_path = ""
        self.num_layers, self.num_inputs, self.num_outputs = 0, 0, 0


class OnnxParser:
    def __init__(self, network: Network, logger: ILogger) -> None:
        self._network, self._errors, self._logger = network, [], logger

    def parse_from_file(self, model: str) -> bool:
        import onnx

        try:
            graph = onnx.load(model).graph
        except Exception as error:
            self._errors.append(f"(deserializeOnnxModel): MODEL_DESERIALIZE_FAILED: {error}")
            self._logger.log(Severity.ERROR, self._errors[-1])
            return False
        self._network.fake_path = model
        self._network.num_layers = 3 * len(graph.node)
        self._network.num_inputs, self._network.num_outputs = len(graph.input), len(graph.output)
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> str:
        return self._errors[index]


class Profile:
    def set_shape(self, input: str, *shapes: tuple[int, ...]) -> None:
        self.fake_shapes = shapes


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.fake_content = content

    def serialize(self) -> bytes:
        return self.fake_content + b"measured"


class Config:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.fake_pools: dict[MemoryPoolType, int] = {}
        self.fake_profiles: list[Profile] = []
        self.builder_optimization_level = 3
        self.profiling_verbosity: Any = None
        self.progress_monitor: Any = None
        self._cache: TimingCache | None = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self.fake_pools[pool] = pool_size

    def add_optimization_profile(self, profile: Profile) -> int:
        self.fake_profiles.append(profile)
        return len(self.fake_profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.fake_content and not cache.fake_content.endswith(b"measured"):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self._cache


class Builder:
    #: Configurations of all builds, for assertions.
    fake_configs: ClassVar[list[Config]] = []
    #: Called at each step of a build.
    fake_step: Any = staticmethod(lambda: None)
    fake_steps = 3
    #: Error message of a build; "" = success.
    fake_error = ""

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        Builder.fake_configs.append(config)
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, self.fake_steps)
        for number in range(self.fake_steps):
            Builder.fake_step()
            if not monitor.step_complete("Building engine", number):
                return None
        monitor.phase_finish("Building engine")
        if self.fake_error:
            self._logger.log(Severity.ERROR, self.fake_error)
            return None
        shapes = config.fake_profiles[0].fake_shapes
        return MAGIC + json.dumps([network.fake_path, [list(shape) for shape in shapes]]).encode()


class Engine:
    num_layers = 2
    device_memory_size_v2 = 1 << 20
    #: Behaviour of contexts: factor on the outputs, error of a call, workspace bytes per image.
    fake_factor, fake_error, fake_per_image = 1.0, "", 1000
    #: Sizes of all workspaces in bytes.
    fake_workspaces: ClassVar[list[int]] = []

    def __init__(self, logger: ILogger, path: str, shapes: list[list[int]]) -> None:
        import onnxruntime

        self._logger, self._shapes = logger, shapes
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        self._tensors = {
            v.name: tuple(s if isinstance(s, int) else -1 for s in v.shape) for v in values
        }

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name]

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        return self._shapes

    def create_execution_context(self, strategy: Any) -> Context:
        return Context(self, strategy)

    def create_engine_inspector(self) -> types.SimpleNamespace:
        layers = [{"Outputs": [{"DataType": "Half"}]}, {"Outputs": [{"DataType": "Float"}]}]
        told = json.dumps({"Layers": layers})
        return types.SimpleNamespace(get_engine_information=lambda format: told)


class Context:
    def __init__(self, engine: Engine, strategy: Any) -> None:
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        self._engine, self._shape, self._memory = engine, (), 0
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        least, _, most = (size[0] for size in self._engine._shapes)
        return least <= shape[0] <= most

    def update_device_memory_size_for_shapes(self) -> int:
        return self._engine.fake_per_image * self._shape[0]

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory
        self._memory = size
        Engine.fake_workspaces.append(size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle
        if Graph.capturing is not None:
            Graph.capturing.launches.append(self._run)
            return True
        return self._run()

    def _run(self) -> bool:
        ORDER.append("runs")
        assert self._memory >= self.update_device_memory_size_for_shapes()
        if self._engine.fake_error:
            self._engine._logger.log(Severity.ERROR, self._engine.fake_error)
            return False
        images = np.ctypeslib.as_array(_floats(self._addresses["images"]), self._shape)
        for name, found in zip(
            ("semantic", "visual"), self._engine._session.run(None, {"images": images}), strict=True
        ):
            target = np.ctypeslib.as_array(_floats(self._addresses[name]), found.shape)
            target[:] = found * self._engine.fake_factor
        return True


def _floats(address: int) -> Any:
    return ctypes.cast(address, ctypes.POINTER(ctypes.c_float))


class Runtime:
    #: Plans passed to it.
    fake_given: ClassVar[list[bytes]] = []

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        Runtime.fake_given.append(serialized_engine)
        if not serialized_engine.startswith(MAGIC):
            self._logger.log(Severity.ERROR, "Serialization assertion failed")
            return None
        return Engine(self._logger, *json.loads(serialized_engine[len(MAGIC) :]))


_NAMES = (
    "ILogger", "IProgressMonitor", "NetworkDefinitionCreationFlag", "BuilderFlag", "MemoryPoolType",
    "ProfilingVerbosity", "LayerInformationFormat", "ExecutionContextAllocationStrategy",
    "OnnxParser", "Builder", "Runtime",
)  # fmt: skip
# Real names of classes that users never name.
REAL_NAMES = {
    **{name: globals()[name] for name in _NAMES},
    "INetworkDefinition": Network, "IOptimizationProfile": Profile, "ITimingCache": TimingCache,
    "IBuilderConfig": Config, "ICudaEngine": Engine, "IExecutionContext": Context,
}  # fmt: skip


class Graph:
    """A CUDA graph: captured launches, run at replay."""

    capturing: ClassVar[Graph | None] = None

    def __init__(self) -> None:
        self.launches: list[Callable[[], bool]] = []

    def replay(self) -> None:
        for launch in self.launches:
            assert launch()


@contextmanager
def capture(graph: Graph, *, stream: Stream, capture_error_mode: str) -> Iterator[None]:
    assert capture_error_mode == "thread_local"
    Graph.capturing = graph
    yield
    Graph.capturing = None


class Stream:
    """A torch stream that records the order of events."""

    def __init__(self, device: torch.device, name: str = "ours") -> None:
        self.name, self.cuda_stream = name, 1

    def wait_stream(self, other: Stream) -> None:
        ORDER.append(f"{self.name} waits for {other.name}")


ORDER: list[str] = []


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.ModuleType:
    """Install the fake as ``tensorrt``, with a CPU as the GPU and a temporary home."""
    made = types.ModuleType("tensorrt")
    made.__spec__ = ModuleSpec("tensorrt", None)  # torch's compiler asks for it
    made.__version__ = VERSION
    made.float32 = "float32"
    for name in _NAMES:
        setattr(made, name, globals()[name])
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    for kept in (Builder.fake_configs, Engine.fake_workspaces, Runtime.fake_given, ORDER):
        kept.clear()
    monkeypatch.setattr("vsm_fast.runtimes.tensorrt_library._nvidia", lambda device: True)
    monkeypatch.setenv("VSM_FAST_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(device, "torch's"))
    return made


def place_plan(folder: Path, trt: types.ModuleType, content: bytes | None = None) -> None:
    """Write a plan and its sidecar into an exported folder; by default a plan of its graph."""
    record = read_record(folder)
    if content is None:
        side, batch = record.model.backbone.resolution, record.batch
        shapes = [[count, 3, side, side] for count in (batch.least, batch.best, batch.most)]
        content = MAGIC + json.dumps([str(folder / ONNX), shapes]).encode()
    plan = PlanRecord(
        hashlib.sha256(content).hexdigest(),
        len(content),
        tensorrt_library.machine(trt, torch.device("cpu")),
        record.precision,
        record.batch,
        weights_fingerprint(record.model),
        record.graph,
    )
    write_plan(folder, content, plan)
