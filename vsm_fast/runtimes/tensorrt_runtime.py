"""Exported networks in TensorRT, from a plan built for this machine."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.runtimes.exported import IMAGES, SEMANTIC, VISUAL, ExportRecord, run_in_range
from vsm_fast.runtimes.plans import choose_plan, read_plan
from vsm_fast.runtimes.tensorrt_library import create, failure, library, machine
from vsm_fast.torch_state import pinned


class TensorRTRuntime:
    """A :class:`Runtime` for a TensorRT engine.

    TensorRT reads and writes torch's memory. Concurrent calls are safe: each gets a lane, an
    execution context with its own stream and workspace.

    Args:
        trt: The module ``tensorrt``.
        engine: An ``ICudaEngine``.
        record: Record of the exported folder.
        device: Device of the engine.
        cuda_graph: Whether the launches of a batch become one CUDA graph; for a fixed batch size.

    Raises:
        ModelError: If the engine does not match the record.
    """

    name = "tensorrt"

    def __init__(
        self,
        trt: Any,
        engine: Any,
        record: ExportRecord,
        device: torch.device,
        *,
        cuda_graph: bool = False,
    ) -> None:
        self.device, self.precision = device, record.precision
        self.concurrent = False  # one batch fills a GPU
        self._trt, self._engine, self._batch = trt, engine, record.batch
        aggregation = record.model.aggregation
        self._shape = (aggregation.descriptor_channels, *aggregation.grid)
        self._check_engine(record.model.backbone.resolution)
        self._lane_type = _GraphLane if cuda_graph and record.batch.static else _Lane
        self._idle: list[_Lane] = []
        self._lock = threading.Lock()

    @pinned()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract descriptors; see :class:`Runtime`."""
        with torch.cuda.device(self.device):
            with self._lock:
                lane = self._idle.pop() if self._idle else None
            if lane is None:
                lane = self._lane_type(self._trt, self._engine, self.device)

            def run(images: Tensor) -> tuple[Tensor, Tensor]:
                images = images.to(self.device, torch.float32).contiguous()
                semantic, visual = (
                    torch.empty(len(images), *self._shape, device=self.device) for _ in range(2)
                )
                lane.run(images, semantic, visual)
                return semantic, visual

            found = run_in_range(run, images, self._batch)
            with self._lock:
                self._idle.append(lane)  # after an error a lane is not reused
        return found

    def _check_engine(self, side: int) -> None:
        engine, batch = self._engine, self._batch
        count = batch.most if batch.static else -1
        expected = {
            IMAGES: (count, 3, side, side),
            SEMANTIC: (count, *self._shape),
            VISUAL: (count, *self._shape),
        }
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        actual = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        if actual != expected:
            raise ModelError(
                f"the engine has the inputs and outputs {actual}; export.json says {expected}."
            )
        if any(engine.get_tensor_dtype(name) != self._trt.float32 for name in names):
            raise ModelError("the engine has inputs or outputs of another type than float32.")
        sizes = [next(iter(shape)) for shape in engine.get_tensor_profile_shape(IMAGES, 0)]
        if sizes != [batch.least, batch.best, batch.most]:
            raise ModelError(
                f"the engine was built for batches of {sizes}; export.json says "
                f"{[batch.least, batch.best, batch.most]}."
            )


class _Lane:
    """An execution context with its stream and workspace, for one thread at a time."""

    def __init__(self, trt: Any, engine: Any, device: torch.device) -> None:
        self._trt, self._device = trt, device
        # The workspace is torch's memory: an allocation that fails is torch's error, to which the
        # describer responds with a smaller batch.
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._context = engine.create_execution_context(strategy)
        if self._context is None:
            raise failure(trt, "create an execution context")
        self._stream = torch.cuda.Stream(device)
        self._workspace: Tensor | None = None

    def run(self, images: Tensor, semantic: Tensor, visual: Tensor) -> None:
        """Extract descriptors of ``images`` into the other tensors, in torch's stream order.

        Tensors may be freed as soon as this returns: torch's stream waits for ours before it
        reuses their memory.
        """
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        self._bind(images, semantic, visual)
        self._launch()
        current.wait_stream(self._stream)

    def _bind(self, images: Tensor, semantic: Tensor, visual: Tensor) -> None:
        context = self._context
        bound = context.set_input_shape(IMAGES, tuple(images.shape))
        if bound:
            size = context.update_device_memory_size_for_shapes()
            if self._workspace is None or self._workspace.numel() < size:
                self._workspace = None  # freed before the new allocation
                # In the order of this lane's stream, which may still use the old one.
                with torch.cuda.stream(self._stream):
                    self._workspace = torch.empty(
                        max(size, 1), dtype=torch.uint8, device=self._device
                    )
            context.set_device_memory(self._workspace.data_ptr(), self._workspace.numel())
        for name, tensor in ((IMAGES, images), (SEMANTIC, semantic), (VISUAL, visual)):
            bound = bound and context.set_tensor_address(name, tensor.data_ptr())
        if not bound:
            raise failure(self._trt, f"accept a batch of shape {list(images.shape)}")

    def _launch(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise failure(self._trt, "run the network")


class _GraphLane(_Lane):
    """A lane that captures the launches of its first batch and replays them."""

    def __init__(self, trt: Any, engine: Any, device: torch.device) -> None:
        super().__init__(trt, engine, device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._buffers: tuple[Tensor, ...] = ()  # the tensors that the graph reads and writes

    def run(self, images: Tensor, semantic: Tensor, visual: Tensor) -> None:
        """Extract descriptors, as :class:`_Lane` does."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            if self._graph is None:
                self._capture(images, semantic, visual)
            assert self._graph is not None
            self._buffers[0].copy_(images)
            self._graph.replay()
            for ours, buffer in zip((semantic, visual), self._buffers[1:], strict=True):
                ours.copy_(buffer)
        current.wait_stream(self._stream)

    def _capture(self, images: Tensor, semantic: Tensor, visual: Tensor) -> None:
        self._buffers = (images.clone(), torch.empty_like(semantic), torch.empty_like(visual))
        self._bind(*self._buffers)
        self._launch()  # TensorRT initialises itself in the first call per shape
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._launch()
        self._graph = graph


def load_tensorrt(folder: Path, record: ExportRecord, device: torch.device) -> TensorRTRuntime:
    """Load the plan in an exported folder that fits this machine.

    Raises:
        ModelError: If no plan fits, or it is damaged.
        ValueError: If the device is not an NVIDIA GPU.
        ImportError: If TensorRT is not installed, or too old.
    """
    trt = library(device)
    path, plan = choose_plan(folder, record, machine(trt, device))
    engine = deserialize(trt, read_plan(path, plan), device)
    return TensorRTRuntime(trt, engine, record, device, cuda_graph=plan.cuda_graph)


def deserialize(trt: Any, content: bytes, device: torch.device) -> Any:
    """Load an engine from a plan of trusted origin.

    Raises:
        ModelError: If TensorRT refuses it.
    """
    with torch.cuda.device(device):
        engine = create(trt, "Runtime").deserialize_cuda_engine(content)
    if engine is None:
        raise failure(trt, "load the plan")
    return engine
