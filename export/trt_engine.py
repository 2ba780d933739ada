"""An ONNX graph to a TensorRT plan, and the contents of its engine."""

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
from vsm_fast.model.presets import home
from vsm_fast.progress import progress_bar
from vsm_fast.runtimes.exported import IMAGES, ExportRecord
from vsm_fast.runtimes.tensorrt_library import Machine, create, failure, logger

_log = logging.getLogger(__name__)

PRECISIONS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        workspace: Memory limit per layer in GiB; None = all of the GPU's memory.
        optimization_level: 0 (fastest build) to 5 (fastest engine); TensorRT's default is 3.
        timing_cache: File of kernel timings, which shortens the next build; None = one per GPU
            and version in ``VSM_FAST_HOME``.
        cuda_graph: Whether the launches of a batch become one CUDA graph; fixed batches only.
    """

    workspace: float | None = None
    optimization_level: int = 3
    timing_cache: Path | None = None
    cuda_graph: bool = False


def require_precision(folder: Path, record: ExportRecord) -> None:
    """Refuse an export that cannot become a plan.

    Raises:
        ModelError: If its precision is not one of ``PRECISIONS``.
    """
    if record.precision not in PRECISIONS:
        raise ModelError(
            f"{folder} is in {record.precision}; plans are built from {', '.join(PRECISIONS)}. "
            "Export the model again: --dtype fp16."
        )


def parse_onnx(trt: Any, builder: Any, graph: Path) -> Any:
    """Parse an ONNX file into a network.

    Raises:
        ModelError: If TensorRT cannot read it.
    """
    # The graph defines the precision. TensorRT 11 has no other networks.
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger(trt))
    if not parser.parse_from_file(str(graph)):
        logger(trt).errors.clear()  # repeated by the parser
        errors = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise ModelError(
            f"TensorRT {trt.__version__} cannot read {graph}: {' '.join(errors.split())[:1500]}"
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
        record: Record of its folder, with the batch sizes.
        options: Build options.
        here: This machine; names the timing cache.
        device: Target GPU.
        progress: Whether to show a bar on standard error.

    Raises:
        ModelError: If TensorRT cannot read or build the graph.
        torch.OutOfMemoryError: If the GPU has too little memory.
    """
    builder = create(trt, "Builder")
    network = parse_onnx(trt, builder, graph)
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for summary()
    config.clear_flag(trt.BuilderFlag.TF32)  # full float32 precision
    if options.workspace is not None:
        size = int(options.workspace * 2**30)
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size)
    side, batch = record.model.backbone.resolution, record.batch
    profile = builder.create_optimization_profile()
    profile.set_shape(
        IMAGES, *((count, 3, side, side) for count in (batch.least, batch.best, batch.most))
    )
    config.add_optimization_profile(profile)
    name = f"timing-{'-'.join(here.gpu.split())}-{here.tensorrt}.cache"
    monitor = config.progress_monitor = _monitor(trt, progress)
    plans: list[Any] = []

    def work() -> None:
        with torch.cuda.device(device):
            plans.append(builder.build_serialized_network(network, config))

    with _timing_cache(trt, config, options.timing_cache or home() / "tensorrt" / name):
        # In a thread, so that this one receives an interrupt.
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
    if not plans or plans[0] is None:
        raise failure(trt, f"build {graph}")
    return bytes(plans[0])


def _monitor(trt: Any, progress: bool) -> Any:
    """Create a progress monitor, which TensorRT calls from its own threads."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 needs the call by name
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
    """Reuse kernel timings of earlier builds and save the new ones."""
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        logger(trt).errors.clear()
        _log.warning("%s is not a timing cache for this TensorRT and GPU; replacing it", path)
        config.set_timing_cache(config.create_timing_cache(b""), False)
    yield
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(bytes(config.get_timing_cache().serialize()))


@dataclass(frozen=True)
class EngineSummary:
    """Contents of an engine.

    Attributes:
        layers: Number of layers after fusion.
        types: Layers by the type of their first output, like ``{"float16": 212}``.
        device_memory: Bytes of workspace at the largest batch, without weights.
    """

    layers: int
    types: dict[str, int]
    device_memory: int

    def __str__(self) -> str:
        shares = ", ".join(
            f"{name} {count / max(1, sum(self.types.values())):.0%}"
            for name, count in Counter(self.types).most_common()
        )
        memory = f"{self.device_memory / 2**20:.0f} MiB of workspace"
        return f"{self.layers} layers ({shares or 'types unknown'}), {memory}"


def summary(trt: Any, engine: Any) -> EngineSummary:
    """Inspect an engine that was built with detailed verbosity."""
    inspector = engine.create_engine_inspector()
    try:
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        layers = json.loads(text).get("Layers")
    except (ValueError, AttributeError):  # informative only, and its format has changed before
        layers = None
    types: Counter[str] = Counter()
    for layer in layers if isinstance(layers, list) else []:
        outputs = layer.get("Outputs") if isinstance(layer, dict) else None
        if isinstance(outputs, list) and outputs and isinstance(outputs[0], dict):
            types[_type_name(outputs[0])] += 1
    return EngineSummary(engine.num_layers, dict(types), engine.device_memory_size_v2)


_TYPES = {
    "bf16": "bfloat16", "bfloat16": "bfloat16",
    "fp16": "float16", "half": "float16", "float16": "float16",
    "fp8": "float8", "float8": "float8",
    "fp32": "float32", "float": "float32", "float32": "float32",
    "int8": "int8", "int64": "int64", "int32": "int32", "bool": "bool",
}  # fmt: skip


def _type_name(tensor: dict[str, Any]) -> str:
    """Return a tensor's type: TensorRT 11 has ``DataType``, 10 a sentence with the layout."""
    text = str(tensor.get("DataType") or tensor.get("Format/Datatype") or "unknown")
    words = text.lower().replace("/", " ").split()
    return next((name for word, name in _TYPES.items() if word in words), text)
