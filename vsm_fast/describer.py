"""Images to descriptors: decoding ahead, descriptor cache, runtime."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vsm_fast.cache import DescriptorCache, RowsForm, image_key, model_key
from vsm_fast.descriptors import Descriptors
from vsm_fast.errors import InputError, ModelError, Status, out_of_memory
from vsm_fast.images.feeding import PreparedBatch, prepared_batches
from vsm_fast.images.loading import ImageSource
from vsm_fast.images.masks import Mask
from vsm_fast.images.subjects import Subject
from vsm_fast.model.devices import choose_descriptor_dtype
from vsm_fast.runtimes.choose import LoadedModel
from vsm_fast.runtimes.runtime import Runtime
from vsm_fast.runtimes.streams import STREAMS, in_streams
from vsm_fast.torch_state import pinned

OnError = Literal["record", "raise"]

_log = logging.getLogger(__name__)
_CPU_BATCH = 4  # per stream; larger batches use more memory on a CPU without a gain
_CUDA_BATCH = 32


class Describer:
    """Extractor of descriptors with one model. Thread-safe.

    Args:
        model: Model and runtime.
        cache: Descriptor cache; None disables caching.

    Attributes:
        identity: Identity that the descriptors carry.
        recomputed: Number of images recomputed in float32 because their batch contained NaN or
            Inf in the runtime's precision.

    Raises:
        ModelError: If a cache is set and the weights have no recorded hashes.
    """

    def __init__(self, model: LoadedModel, cache: DescriptorCache | None) -> None:
        self._config, self._runtime, self._cache = model.config, model.runtime, cache
        self._load_in_float32 = model.in_float32
        self._in_float32: Runtime | None = None
        self._device = model.runtime.device
        self._largest_batch = sys.maxsize  # shrinks when memory runs out
        self.recomputed = 0
        self._lock = threading.Lock()  # guards the float32 runtime and the two numbers above
        self.identity = model.identity
        if cache is not None:
            self._model_key = model_key(self.identity)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the descriptors."""
        return choose_descriptor_dtype(self._runtime.precision, self._device)

    def batch_size(self, requested: int | None) -> int:
        """Return the images per forward pass; None chooses by device.

        Raises:
            ValueError: If it is below 1.
        """
        if requested is None:
            return _CUDA_BATCH if self._device.type == "cuda" else _CPU_BATCH
        if requested < 1:
            raise ValueError(f"batch_size must be at least 1; got {requested}.")
        return requested

    def batches(
        self,
        images: Sequence[ImageSource],
        masks: Sequence[Mask],
        batch_size: int | None,
        on_error: OnError,
        positions: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Descriptors, Sequence[Subject]]]:
        """Extract descriptors batch by batch while the next images are decoded.

        Args:
            images: Sources of images.
            masks: One per image: a mask, ``AutoMask``, or None.
            batch_size: Images per forward pass; None chooses.
            on_error: ``"raise"`` stops at a bad image, ``"record"`` gives it a status.
            positions: Positions of the images to process; None = all.

        Yields:
            (number of preceding images, descriptors, subjects) per batch, in order.
        """
        size = self.batch_size(batch_size)
        selected = range(len(images)) if positions is None else positions
        cuda = self._device.type == "cuda"
        batches = prepared_batches(
            [images[n] for n in selected],
            [masks[n] for n in selected],
            [f"image {n}" for n in selected],
            self._config,
            size,
            ahead=2 if cuda else 1,
            pinned=cuda,
        )

        def describe(batch: PreparedBatch) -> tuple[int, Descriptors, Sequence[Subject]]:
            bad = [subject for subject in batch.subjects if subject.status is not Status.OK]
            if bad and on_error == "raise":
                raise InputError(bad[0].status, bad[0].reason)
            return batch.start, self(batch), batch.subjects

        concurrent = self._runtime.concurrent and torch.get_num_threads() > 1
        streams = STREAMS if concurrent and len(selected) > size else 1
        with closing(batches), closing(in_streams(describe, batches, streams)) as results:
            yield from results

    @pinned()
    def __call__(self, batch: PreparedBatch) -> Descriptors:
        """Return the descriptors of a batch; an unusable subject has no points."""
        if batch.pixels is None:
            return self.empty(len(batch.subjects))
        masks = [s.cell_mask for s in batch.subjects if s.cell_mask is not None]
        if self._cache is None:
            descriptors = self.compute(batch.pixels, torch.from_numpy(np.stack(masks)))
        else:
            descriptors = self._cached(self._cache, batch.pixels, masks)
        counts = torch.zeros(len(batch.subjects) + 1, dtype=torch.int64)
        usable = [i + 1 for i, s in enumerate(batch.subjects) if s.cell_mask is not None]
        counts[usable] = descriptors.offsets.diff()
        return replace(descriptors, offsets=counts.cumsum(0))

    def _cached(
        self, cache: DescriptorCache, images: Tensor, masks: Sequence[NDArray[np.bool_]]
    ) -> Descriptors:
        """Return descriptors of prepared images from the cache; compute and store misses."""
        keys = [
            image_key(self._model_key, image, mask)
            for image, mask in zip(images, masks, strict=True)
        ]
        channels = self._config.aggregation.descriptor_channels
        forms = [RowsForm(int(mask.sum()), channels, self.dtype) for mask in masks]
        entries = dict(zip(keys, cache.get(keys, forms), strict=True))
        missing = {key: position for position, key in enumerate(keys) if entries[key] is None}
        if missing:
            positions = list(missing.values())
            cells = torch.from_numpy(np.stack([masks[i] for i in positions]))
            computed = self.compute(images[positions], cells)
            rows = [computed.rows(number) for number in range(len(positions))]
            new = {
                key: (computed.semantic[part].cpu(), computed.visual[part].cpu())
                for key, part in zip(missing, rows, strict=True)
            }
            cache.put(new)
            entries |= new
        parts = [entry for key in keys if (entry := entries[key]) is not None]
        all_cells = [torch.from_numpy(np.flatnonzero(mask)) for mask in masks]
        counts = torch.tensor([0, *(len(part) for part in all_cells)])
        return Descriptors(
            torch.cat([semantic for semantic, _ in parts]).to(self._device),
            torch.cat([visual for _, visual in parts]).to(self._device),
            counts.cumsum(0),
            torch.cat(all_cells),
            self._config.aggregation.grid,
            identity=self.identity,
        )

    @pinned()
    def compute(self, images: Tensor, masks: Tensor) -> Descriptors:
        """Return descriptors from the runtime, without the cache.

        Args:
            images: float32 [B, 3, R, R] in [-1, 1], on any device; B ≥ 1.
            masks: bool [B, h, w], subjects on the descriptor grid, on any device.

        Raises:
            ModelError: If descriptors contain NaN or Inf in float32 too.
        """
        semantic, visual = self._run(self._runtime, images)
        if not _finite(semantic, visual):
            semantic, visual = self._recompute(images)
        packed = Descriptors.pack(semantic, visual, masks)
        return replace(packed.to(self._device, self.dtype), identity=self.identity)

    def _recompute(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run a batch in float32 after the runtime's precision gave NaN or Inf."""
        name, precision = self._config.name, self._runtime.precision
        with self._lock:
            if self._in_float32 is None and self._load_in_float32 is not None:
                _log.warning(
                    "model %r produced NaN or Inf in %s; affected batches are recomputed in "
                    "float32",
                    name,
                    precision,
                )
                self._in_float32 = self._load_in_float32()
        if self._in_float32 is not None:
            semantic, visual = self._run(self._in_float32, images)
            if _finite(semantic, visual):
                with self._lock:
                    self.recomputed += len(images)
                return semantic, visual
            precision = f"{precision} and in float32"
        raise ModelError(
            f"model {name!r} produced NaN or Inf descriptors in {precision}. Use "
            "dtype='float32'; if the error persists, the weights are damaged."
        )

    def _run(self, runtime: Runtime, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run a batch, in smaller parts when memory runs out."""
        parts: list[tuple[Tensor, Tensor]] = []
        start = 0
        while start < len(images):
            part = images[start : start + self._largest_batch]
            try:
                parts.append(runtime(part))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or len(part) == 1:
                    raise
                with self._lock:
                    self._largest_batch = min(self._largest_batch, len(part) // 2)
                _log.warning(
                    "a batch of %d images exceeds the memory of %s; continuing with %d",
                    len(part),
                    self._device,
                    self._largest_batch,
                )
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            start += len(part)
        semantic, visual = (torch.cat(branch) for branch in zip(*parts, strict=True))
        return semantic, visual

    def empty(self, images: int = 0) -> Descriptors:
        """Return descriptors of ``images`` subjects without points."""
        aggregation = self._config.aggregation
        channels = aggregation.descriptor_channels
        rows = torch.empty(0, channels, device=self._device, dtype=self.dtype)
        cells = torch.empty(0, dtype=torch.int64)
        offsets = torch.zeros(images + 1, dtype=torch.int64)
        return Descriptors(rows, rows, offsets, cells, aggregation.grid, identity=self.identity)


def _finite(*descriptors: Tensor) -> bool:
    # A sum of numbers in [-1, 1] is finite exactly when all are; it needs one pass and no copy.
    return all(bool(torch.isfinite(branch.sum())) for branch in descriptors)
