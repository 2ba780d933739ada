"""Images to descriptors: prepared ahead, described by a runtime, or known from before."""

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
_CPU_BATCH = 4  # in each stream; larger batches gain nothing on a CPU and hold more memory
_CUDA_BATCH = 32


class Describer:
    """Describes batches of subjects with one model; several threads may call it at once.

    Args:
        model: The model and what runs it.
        cache: Where descriptors are looked up first and kept afterwards; None computes all.

    Attributes:
        identity: What decides the descriptors, which carry it.
        recomputed: Images that were computed again in float32, because the runtime's precision
            gave NaN or Inf for one in their batch.

    Raises:
        ModelError: A cache, and a model whose weights have no recorded hashes.
    """

    def __init__(self, model: LoadedModel, cache: DescriptorCache | None) -> None:
        self._config, self._runtime, self._cache = model.config, model.runtime, cache
        self._load_in_float32 = model.in_float32
        self._in_float32: Runtime | None = None
        self._device = model.runtime.device
        self._at_once = sys.maxsize  # images; less when they did not fit into memory
        self.recomputed = 0
        self._lock = threading.Lock()  # of what changes: the three above and the float32 runtime
        self.identity = model.identity
        if cache is not None:
            self._model_key = model_key(self.identity)

    @property
    def dtype(self) -> torch.dtype:
        """Of the descriptors."""
        return choose_descriptor_dtype(self._runtime.precision, self._device)

    def batch_size(self, wanted: int | None) -> int:
        """Images per forward pass, with a choice for None.

        Raises:
            ValueError: It is below 1.
        """
        if wanted is None:
            return _CUDA_BATCH if self._device.type == "cuda" else _CPU_BATCH
        if wanted < 1:
            raise ValueError(f"batch_size must be at least 1; got {wanted}.")
        return wanted

    def batches(
        self,
        images: Sequence[ImageSource],
        masks: Sequence[Mask],
        batch_size: int | None,
        on_error: OnError,
        positions: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Descriptors, Sequence[Subject]]]:
        """Describe images while the next ones are decoded.

        Args:
            images: Sources of images.
            masks: One per image, ``AutoMask`` to find it, or None.
            batch_size: Images per forward pass; None chooses.
            on_error: What a bad image does: ``"raise"``, or ``"record"`` for a status.
            positions: Of the images that are wanted; None = all.

        Yields:
            (how many came before, descriptors, subjects) of each batch, in order.
        """
        size = self.batch_size(batch_size)
        chosen = range(len(images)) if positions is None else positions
        cuda = self._device.type == "cuda"
        batches = prepared_batches(
            [images[n] for n in chosen],
            [masks[n] for n in chosen],
            [f"image {n}" for n in chosen],
            self._config,
            size,
            ahead=2 if cuda else 1,
            pinned=cuda,
        )

        def describe(batch: PreparedBatch) -> tuple[int, Descriptors, Sequence[Subject]]:
            if on_error == "raise":
                _raise_first(batch.subjects)
            return batch.start, self(batch), batch.subjects

        several = self._runtime.concurrent and torch.get_num_threads() > 1 and len(chosen) > size
        streams = STREAMS if several else 1
        with closing(batches), closing(in_streams(describe, batches, streams)) as described:
            yield from described

    @pinned()
    def __call__(self, batch: PreparedBatch) -> Descriptors:
        """Describe a batch; subjects that are not usable get an empty range."""
        if batch.pixels is None:
            return self.nothing(len(batch.subjects))
        masks = [s.cell_mask for s in batch.subjects if s.cell_mask is not None]
        if self._cache is None:
            described = self.computed(batch.pixels, torch.from_numpy(np.stack(masks)))
        else:
            described = self._looked_up(batch.pixels, masks)
        counts = torch.zeros(len(batch.subjects) + 1, dtype=torch.int64)
        usable = [i + 1 for i, s in enumerate(batch.subjects) if s.cell_mask is not None]
        counts[usable] = described.offsets.diff()
        return replace(described, offsets=counts.cumsum(0))

    def _looked_up(self, images: Tensor, masks: Sequence[NDArray[np.bool_]]) -> Descriptors:
        """Descriptors of prepared images, from the cache where it has them."""
        assert self._cache is not None
        keys = [
            image_key(self._model_key, image, mask)
            for image, mask in zip(images, masks, strict=True)
        ]
        channels = self._config.aggregation.descriptor_channels
        forms = [RowsForm(int(mask.sum()), channels, self.dtype) for mask in masks]
        found = dict(zip(keys, self._cache.get(keys, forms), strict=True))
        missing = {key: position for position, key in enumerate(keys) if found[key] is None}
        if missing:
            places = list(missing.values())
            chosen = np.stack([masks[i] for i in places])
            made = self.computed(images[places], torch.from_numpy(chosen))
            rows = [made.rows(number) for number in range(len(places))]
            new = {
                key: (made.semantic[part].cpu(), made.visual[part].cpu())
                for key, part in zip(missing, rows, strict=True)
            }
            self._cache.put(new)
            found |= new
        parts = [entry for key in keys if (entry := found[key]) is not None]
        cells = [torch.from_numpy(np.flatnonzero(mask)) for mask in masks]
        counts = torch.tensor([0, *(len(part) for part in cells)])
        return Descriptors(
            torch.cat([semantic for semantic, _ in parts]).to(self._device),
            torch.cat([visual for _, visual in parts]).to(self._device),
            counts.cumsum(0),
            torch.cat(cells),
            self._config.aggregation.grid,
            identity=self.identity,
        )

    @pinned()
    def computed(self, images: Tensor, masks: Tensor) -> Descriptors:
        """Descriptors by the runtime, without a look into the cache.

        Args:
            images: float32 [B, 3, R, R] in [-1, 1], on any device; B ≥ 1.
            masks: bool [B, h, w], the subjects on the grid, on any device.

        Raises:
            ModelError: NaN or Inf also in float32.
        """
        semantic, visual = self._run(self._runtime, images)
        if not _finite(semantic, visual):
            semantic, visual = self._again_in_float32(images)
        packed = Descriptors.pack(semantic, visual, masks)
        return replace(packed.to(self._device, self.dtype), identity=self.identity)

    def _again_in_float32(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """A batch for which the runtime gave NaN or Inf."""
        name, precision = self._config.name, self._runtime.precision
        with self._lock:
            if self._in_float32 is None and self._load_in_float32 is not None:
                _log.warning(
                    "model %r gave NaN or Inf in %s; such batches are computed again in float32",
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
            f"model {name!r} gave NaN or Inf descriptors in {precision}; score with "
            "dtype='float32', and if it stays, the weights are damaged."
        )

    def _run(self, runtime: Runtime, images: Tensor) -> tuple[Tensor, Tensor]:
        """A runtime on a batch, in as many parts as the memory asks for."""
        parts: list[tuple[Tensor, Tensor]] = []
        start = 0
        while start < len(images):
            part = images[start : start + self._at_once]
            try:
                parts.append(runtime(part))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or len(part) == 1:
                    raise
                with self._lock:
                    self._at_once = min(self._at_once, len(part) // 2)
                _log.warning(
                    "%d images at once do not fit into the memory of %s; going on with %d",
                    len(part),
                    self._device,
                    self._at_once,
                )
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            start += len(part)
        semantic, visual = (torch.cat(branch) for branch in zip(*parts, strict=True))
        return semantic, visual

    def nothing(self, images: int = 0) -> Descriptors:
        """Descriptors of ``images`` subjects without a point."""
        aggregation = self._config.aggregation
        rows = torch.empty(
            0,
            aggregation.descriptor_channels,
            device=self._device,
            dtype=self.dtype,
        )
        none = torch.empty(0, dtype=torch.int64)
        offsets = torch.zeros(images + 1, dtype=torch.int64)
        return Descriptors(rows, rows, offsets, none, aggregation.grid, identity=self.identity)


def _finite(*descriptors: Tensor) -> bool:
    # A sum of numbers in [-1, 1] is finite exactly when all are, and one pass without a copy.
    return all(bool(torch.isfinite(branch.sum())) for branch in descriptors)


def _raise_first(subjects: Sequence[Subject]) -> None:
    for subject in subjects:
        if subject.status is not Status.OK:
            raise InputError(subject.status, subject.reason)
