"""An ONNX graph to a TensorRT plan, and what the engine in it consists of."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vsm_fast.errors import ModelError
from vsm_fast.files import replacing
from vsm_fast.model.location import tensorrt_home
from vsm_fast.progress import progress_bar
from vsm_fast.runtimes.exported import IMAGES, ExportRecord
from vsm_fast.runtimes.tensorrt_library import Machine, created, failure, logger

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildOptions:
    """How a plan is built.

    Attributes:
        workspace: GiB that one layer may use for itself; None = all that the GPU has.
        optimization_level: 0 (fastest build) to 5 (fastest engine); TensorRT's default is 3.
        timing_cache: File of measured kernels, which makes the next build shorter; None = one for
            each GPU and version in ``VSM_FAST_HOME``.
        cuda_graph: Whether the launches of a batch become one CUDA graph; fixed batches only.
    """

    workspace: float | None = None
    optimization_level: int = 3
    timing_cache: Path | None = None
    cuda_graph: bool = False


PRECISIONS = ("float32", "float16", "bfloat16")


def require_precision(folder: Path, record: ExportRecord) -> None:
    """Refuse an export that no plan is made from.

    Raises:
        ModelError: It is in another precision than ``PRECISIONS``.
    """
    if record.precision not in PRECISIONS:
        raise ModelError(
            f"{folder} is in {record.precision}; plans are built from {', '.join(PRECISIONS)}. "
            "Export the model again: --dtype fp16."
        )


def parsed(trt: Any, builder: Any, graph: Path) -> Any:
    """The network of an ONNX file.

    Args:
        trt: The module ``tensorrt``.
        builder: Its ``Builder``.
        graph: The file; its external data lies beside it.

    Raises:
        ModelError: TensorRT cannot read it.
    """
    # Precision is in the graph. TensorRT 11 knows no other networks.
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger(trt))
    if not parser.parse_from_file(str(graph)):
        logger(trt).errors.clear()  # the parser tells the same
        said = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise ModelError(
            f"TensorRT {trt.__version__} cannot read {graph}: {' '.join(said.split())[:1500]}"
        )
    return network


def build(
    trt: Any,
    graph: Path,
    record: ExportRecord,
    options: BuildOptions,
    here: Machine,
    device: torch.device,
    *,
    progress: bool = False,
) -> bytes:
    """Build the plan of an ONNX file.

    An interrupt (Ctrl-C) ends the build at its next step.

    Args:
        trt: The module ``tensorrt``.
        graph: The file.
        record: Of its folder; says which batches the plan is for.
        options: How.
        here: Where; names the timing cache.
        device: GPU that it is built on and for.
        progress: Whether to show a bar on standard error.

    Raises:
        ModelError: TensorRT cannot read the graph or build it.
        torch.OutOfMemoryError: The GPU has too little memory for it.
    """
    builder = created(trt, "Builder")
    network = parsed(trt, builder, graph)
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that layers can be counted
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is float32 here
    if options.workspace is not None:
        size = int(options.workspace * 2**30)
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size)
    _add_profile(builder, config, record)
    with _timing_cache(trt, config, options.timing_cache or timing_cache(here)):
        plan = _built(trt, builder, network, config, device, progress)
    if plan is None:
        raise failure(trt, f"build {graph}")
    return bytes(plan)


def timing_cache(here: Machine) -> Path:
    """File of the measured kernels of this GPU and version."""
    return tensorrt_home() / f"timing-{'-'.join(here.gpu.split())}-{here.tensorrt}.cache"


def _add_profile(builder: Any, config: Any, record: ExportRecord) -> None:
    side, batch = record.model.backbone.resolution, record.batch
    profile = builder.create_optimization_profile()
    profile.set_shape(
        IMAGES, *((count, 3, side, side) for count in (batch.least, batch.best, batch.most))
    )
    config.add_optimization_profile(profile)


def _built(
    trt: Any, builder: Any, network: Any, config: Any, device: torch.device, progress: bool
) -> Any:
    """``build_serialized_network`` in a thread, so that this one notices an interrupt."""
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    plans: list[Any] = []

    def work() -> None:
        with torch.cuda.device(device):
            plans.append(builder.build_serialized_network(network, config))

    thread = threading.Thread(target=work, name="tensorrt-build")
    thread.start()
    interrupted = False
    try:
        while thread.is_alive():
            try:
                thread.join(0.2)
            except KeyboardInterrupt:
                interrupted = monitor.stop = True
    finally:
        monitor.close()
    if interrupted:
        raise KeyboardInterrupt
    return plans[0] if plans else None


def _monitor(trt: Any, progress: bool) -> Any:
    """What TensorRT reports to, from threads of its own: a bar, and whether to go on."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 asks for it by name
            self.stop = False
            self._bars: dict[str, Any] = {}
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._bars[phase_name] = progress_bar(
                    total=num_steps,
                    desc=phase_name,
                    disable=not progress,
                    leave=parent_phase is None,
                )

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                bar = self._bars.get(phase_name)
                if bar is not None:
                    bar.update(step + 1 - bar.n)
            return not self.stop

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                bar = self._bars.pop(phase_name, None)
                if bar is not None:
                    bar.update(bar.total - bar.n)
                    bar.close()

        def close(self) -> None:
            with self._lock:
                for bar in self._bars.values():
                    bar.close()

    return Monitor()


@contextmanager
def _timing_cache(trt: Any, config: Any, path: Path) -> Iterator[None]:
    """Let a build use what earlier ones measured, and keep what it measures itself."""
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        logger(trt).errors.clear()
        _log.warning("%s is no timing cache for this TensorRT and GPU; a new one is made", path)
        config.set_timing_cache(config.create_timing_cache(b""), False)
    yield
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(bytes(config.get_timing_cache().serialize()))


@dataclass(frozen=True)
class EngineSummary:
    """What an engine consists of.

    Attributes:
        layers: After fusion.
        types: Layers by the type of their first output, like ``{"Half": 212}``.
        device_memory: Bytes that it works in at its largest batch, weights not counted.
    """

    layers: int
    types: dict[str, int]
    device_memory: int

    def __str__(self) -> str:
        shares = ", ".join(
            f"{name} {count / max(1, sum(self.types.values())):.0%}"
            for name, count in sorted(self.types.items(), key=lambda item: -item[1])
        )
        return (
            f"{self.layers} layers ({shares or 'types not told'}), "
            f"{self.device_memory / 2**20:.0f} MiB to work in"
        )


def summary(trt: Any, engine: Any) -> EngineSummary:
    """Ask an engine that was built with detailed verbosity what it consists of."""
    inspector = engine.create_engine_inspector()
    told = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    types: Counter[str] = Counter()
    for layer in _layers(told):
        outputs = layer.get("Outputs") if isinstance(layer, dict) else None
        if isinstance(outputs, list) and outputs and isinstance(outputs[0], dict):
            types[_type_name(outputs[0])] += 1
    return EngineSummary(engine.num_layers, dict(types), engine.device_memory_size_v2)


def _layers(told: str) -> list[Any]:
    try:
        layers = json.loads(told).get("Layers", [])
    except (ValueError, AttributeError):  # only for people to read, and its form has changed before
        return []
    return layers if isinstance(layers, list) else []


_TYPES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("bfloat16", ("bf16", "bfloat16")),
    ("float16", ("fp16", "half", "float16")),
    ("float8", ("fp8", "float8")),
    ("float32", ("fp32", "float", "float32")),
    ("int8", ("int8",)),
    ("int64", ("int64",)),
    ("int32", ("int32",)),
    ("bool", ("bool",)),
)


def _type_name(tensor: dict[str, Any]) -> str:
    """Type of a tensor: TensorRT 11 tells ``DataType``, 10 a sentence that also says the layout."""
    told = str(tensor.get("DataType") or tensor.get("Format/Datatype") or "unknown")
    words = told.lower().replace("/", " ").split()
    return next((name for name, kinds in _TYPES if set(kinds) & set(words)), told)
