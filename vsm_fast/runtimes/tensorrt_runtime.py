"""Exported networks run by TensorRT, from a plan that was built for this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.runtimes.exported import IMAGES, SEMANTIC, VISUAL, ExportRecord
from vsm_fast.runtimes.plans import choose_plan, read_plan
from vsm_fast.runtimes.tensorrt_library import created, failure, library, machine
from vsm_fast.torch_state import pinned


class TensorRTRuntime:
    """A :class:`Runtime` of a TensorRT engine.

    TensorRT reads and writes the memory of torch's tensors. Any number of threads may call it:
    each gets a lane, which is an execution context with a stream and a workspace of its own.

    Args:
        trt: The module ``tensorrt``.
        engine: An ``ICudaEngine``.
        record: Of the exported folder that it was built from.
        device: Where the engine is.
        cuda_graph: Whether all launches of a batch become one CUDA graph; for one fixed batch
            size only.

    Raises:
        ModelError: The engine is not one of this network.
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
        self._side = record.model.backbone.resolution
        aggregation = record.model.aggregation
        self._shape = (aggregation.descriptor_channels, *aggregation.grid)
        self._check_engine()
        self._graphed = cuda_graph and record.batch.static
        self._idle: list[_Lane] = []
        self._lock = threading.Lock()

    @pinned()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Describe images; see :class:`Runtime`."""
        with torch.cuda.device(self.device), self._lane() as lane:
            parts = [self._described(lane, part) for part in images.split(self._batch.most)]
        semantic, visual = (torch.cat(branch) for branch in zip(*parts, strict=True))
        return semantic, visual

    def _described(self, lane: _Lane, images: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors of a batch that is not too large; one that is too small is padded."""
        count = len(images)
        images = images.to(self.device, torch.float32).contiguous()
        missing = self._batch.least - count
        if missing > 0:
            images = torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])
        semantic, visual = (
            torch.empty(len(images), *self._shape, device=self.device) for _ in range(2)
        )
        lane.run(images, semantic, visual)
        return semantic[:count], visual[:count]

    @contextmanager
    def _lane(self) -> Iterator[_Lane]:
        """A lane that nobody else uses; after an error it is not used again."""
        with self._lock:
            lane = self._idle.pop() if self._idle else None
        if lane is None:
            kind = _GraphLane if self._graphed else _Lane
            lane = kind(self._trt, self._engine, self.device)
        yield lane
        with self._lock:
            self._idle.append(lane)

    def _check_engine(self) -> None:
        """Compare inputs, outputs and batch sizes with the record."""
        engine, batch = self._engine, self._batch
        image, descriptor = (3, self._side, self._side), self._shape
        count = batch.most if batch.static else -1
        wanted = {
            IMAGES: (count, *image),
            SEMANTIC: (count, *descriptor),
            VISUAL: (count, *descriptor),
        }
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        found = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        if found != wanted:
            raise ModelError(f"the engine has the inputs and outputs {found}; wanted {wanted}.")
        if any(engine.get_tensor_dtype(name) != self._trt.float32 for name in names):
            raise ModelError("the engine has inputs or outputs of another type than float32.")
        sizes = [next(iter(shape)) for shape in engine.get_tensor_profile_shape(IMAGES, 0)]
        if sizes != [batch.least, batch.best, batch.most]:
            raise ModelError(
                f"the engine was built for batches of {sizes}; export.json says "
                f"{[batch.least, batch.best, batch.most]}."
            )


class _Lane:
    """An execution context with its stream and workspace; one thread at a time uses it."""

    def __init__(self, trt: Any, engine: Any, device: torch.device) -> None:
        self._trt, self._device = trt, device
        # The workspace is torch's memory: it counts as torch's, and what is too large is torch's
        # error, which the describer answers with a smaller batch.
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._context = engine.create_execution_context(strategy)
        if self._context is None:
            raise failure(trt, "create an execution context")
        self._stream = torch.cuda.Stream(device)
        self._workspace: Tensor | None = None

    def run(self, images: Tensor, semantic: Tensor, visual: Tensor) -> None:
        """Describe ``images`` [B, 3, R, R] into the other two, in the order of torch's stream.

        Tensors may be freed as soon as this returns: torch's stream waits for ours, and gives
        their memory to nothing before that.
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
            self._provide(context.update_device_memory_size_for_shapes())
        for name, tensor in ((IMAGES, images), (SEMANTIC, semantic), (VISUAL, visual)):
            bound = bound and context.set_tensor_address(name, tensor.data_ptr())
        if not bound:
            raise failure(self._trt, f"take a batch of shape {list(images.shape)}")

    def _provide(self, size: int) -> None:
        """A workspace of at least ``size`` bytes."""
        if self._workspace is None or self._workspace.numel() < size:
            self._workspace = None  # before the new one is asked for
            # In the order of this lane's stream, which may still work in the old one.
            with torch.cuda.stream(self._stream):
                self._workspace = torch.empty(max(size, 1), dtype=torch.uint8, device=self._device)
        self._context.set_device_memory(self._workspace.data_ptr(), self._workspace.numel())

    def _launch(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise failure(self._trt, "run the network")


class _GraphLane(_Lane):
    """A lane that captures its launches at the first batch and replays them for the others."""

    def __init__(self, trt: Any, engine: Any, device: torch.device) -> None:
        super().__init__(trt, engine, device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._fixed: tuple[Tensor, ...] = ()

    def run(self, images: Tensor, semantic: Tensor, visual: Tensor) -> None:
        """As of :class:`_Lane`."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            if self._graph is None:
                self._graph, self._fixed = self._captured(images, semantic, visual)
            self._fixed[0].copy_(images)
            self._graph.replay()
            for ours, theirs in zip((semantic, visual), self._fixed[1:], strict=True):
                ours.copy_(theirs)
        current.wait_stream(self._stream)

    def _captured(self, *like: Tensor) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
        """The graph, and the tensors that it reads and writes."""
        fixed = tuple(torch.empty_like(tensor) for tensor in like)
        fixed[0].copy_(like[0])
        self._bind(*fixed)
        self._launch()  # TensorRT prepares itself at the first call for a shape
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._launch()
        return graph, fixed


def load_tensorrt(folder: Path, record: ExportRecord, device: torch.device) -> TensorRTRuntime:
    """The runtime of the plan in an exported folder that fits this machine.

    Args:
        folder: With ``export.json`` and plans.
        record: Content of ``export.json``.
        device: An NVIDIA GPU.

    Raises:
        ModelError: There is no such plan, or it is damaged.
        ValueError: The device is no NVIDIA GPU.
        ImportError: TensorRT is not installed, or too old.
    """
    trt = library(device)
    path, plan = choose_plan(folder, record, machine(trt, device))
    engine = deserialized(trt, read_plan(path, plan), device)
    return TensorRTRuntime(trt, engine, record, device, cuda_graph=plan.cuda_graph)


def deserialized(trt: Any, content: bytes, device: torch.device) -> Any:
    """The engine of a plan, which must be one that was built here.

    Raises:
        ModelError: TensorRT refuses it.
    """
    with torch.cuda.device(device):
        engine = created(trt, "Runtime").deserialize_cuda_engine(content)
    if engine is None:
        raise failure(trt, "load the plan")
    return engine
