"""Batches of network input, decoded and resized ahead of the network by several threads.

Threads, not processes: decoding and resizing release the GIL. Two threads prepare 1.8 times as many
images as one, whereas two processes lose their gain by sending the pixels.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from vsm_fast.images.loading import ImageSource
from vsm_fast.images.masks import Mask
from vsm_fast.images.subjects import Subject, prepare_subject
from vsm_fast.model.config import ModelConfig

_MOST_THREADS = 8  # more threads only wait for the GIL


@dataclass(frozen=True)
class PreparedBatch:
    """Consecutive images, ready for the network.

    Attributes:
        start: Position of the first image among all images.
        subjects: One per image, usable or not.
        pixels: float32 [U, 3, R, R] in [-1, 1] of the U usable images in order, in pinned memory if
            requested; None if no image is usable.
    """

    start: int
    subjects: Sequence[Subject]
    pixels: Tensor | None


def prepared_batches(
    images: Sequence[ImageSource],
    masks: Sequence[Mask],
    names: Sequence[str],
    config: ModelConfig,
    batch_size: int,
    *,
    ahead: int = 1,
    pinned: bool = False,
    threads: int | None = None,
) -> Generator[PreparedBatch, None, None]:
    """Prepare images in order, ``ahead`` batches before they are needed.

    Args:
        images: Sources of images.
        masks: One per image: a source, ``AutoMask``, or None.
        names: Name of each image that is not a path, for errors.
        config: Configuration of the model that receives the images.
        batch_size: Images per batch; the last batch may be smaller.
        ahead: Batches held in memory besides the current one.
        pinned: Put pixels in pinned memory; needs CUDA.
        threads: Decoding threads; None = one per available core, at most eight.

    Yields:
        Every image in exactly one batch; a bad image has a status and no pixels.
    """
    if not threads:
        # Of this process, not of the machine; Windows and macOS have no affinity.
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        threads = min(_MOST_THREADS, cores)
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="vsm-decode") as pool,
        ThreadPoolExecutor(1, thread_name_prefix="vsm-collate") as collator,
    ):
        waiting: deque[tuple[list[Future[Subject]], Future[PreparedBatch]]] = deque()
        try:
            for start in range(0, len(images), batch_size):
                parts = [
                    pool.submit(prepare_subject, images[n], masks[n], names[n], config)
                    for n in range(start, min(start + batch_size, len(images)))
                ]
                waiting.append((parts, collator.submit(_collate, start, parts, pinned)))
                if len(waiting) > ahead:
                    yield waiting.popleft()[1].result()
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            # A consumer that stops early does not wait for unused images.
            for parts, _ in waiting:
                for part in parts:
                    part.cancel()


def _collate(start: int, parts: Sequence[Future[Subject]], pinned: bool) -> PreparedBatch:
    subjects = [part.result() for part in parts]
    usable = [subject.pixels for subject in subjects if subject.pixels is not None]
    if not usable:
        return PreparedBatch(start, subjects, None)
    pixels = torch.empty(
        len(usable), *usable[0].shape, dtype=torch.float32, device="cpu", pin_memory=pinned
    )
    rows = pixels.numpy()  # torch would copy with threads that the network needs
    for row, image in zip(rows, usable, strict=True):
        row[...] = image.numpy()
    return PreparedBatch(start, [subject.without_pixels() for subject in subjects], pixels)
