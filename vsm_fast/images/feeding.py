"""Images to prepared batches, decoded by several threads ahead of the network.

Threads, not processes: decoding and resizing release Python's lock, and two threads prepare 1.8
times as many images as one, while two processes spend what they gain on sending the pixels.
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

_MOST_THREADS = 8  # the part of the work that holds Python's lock leaves no more for others


@dataclass(frozen=True)
class PreparedBatch:
    """Some images in a row, ready for the network.

    Attributes:
        start: Position of the first among all images.
        subjects: One per image, usable or not.
        pixels: float32 [U, 3, R, R] in [-1, 1], of the usable ones in order; in pinned memory if
            that was asked for. None if there is none.
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
    """Prepare images in order; memory holds ``ahead`` batches besides the one in use.

    Args:
        images: Sources of images.
        masks: One per image, ``AutoMask`` to find it, or None.
        names: What to call each image that is not a path.
        config: The model that will see them.
        batch_size: Images per batch; the last one may be smaller.
        ahead: Batches that are prepared while one is in use.
        pinned: Put pixels where a CUDA device reads them without the CPU; needs CUDA.
        threads: That decode; None = one per core that this process may use, but few.

    Yields:
        Every image in exactly one batch; a bad one has a status, and no pixels.
    """
    count = threads or min(_MOST_THREADS, _cores())
    with (
        ThreadPoolExecutor(count, thread_name_prefix="vsm-decode") as pool,
        ThreadPoolExecutor(1, thread_name_prefix="vsm-collate") as collator,
    ):
        waiting: deque[tuple[list[Future[Subject]], Future[PreparedBatch]]] = deque()
        try:
            for start in range(0, len(images), batch_size):
                numbers = range(start, min(start + batch_size, len(images)))
                parts = [
                    pool.submit(prepare_subject, images[n], masks[n], names[n], config)
                    for n in numbers
                ]
                waiting.append((parts, collator.submit(_collated, start, parts, pinned)))
                if len(waiting) > ahead:
                    yield waiting.popleft()[1].result()
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            # Whoever stops early does not wait for images that nobody will see.
            for parts, _ in waiting:
                for part in parts:
                    part.cancel()


def _collated(start: int, parts: Sequence[Future[Subject]], pinned: bool) -> PreparedBatch:
    subjects = [part.result() for part in parts]
    usable = [subject.pixels for subject in subjects if subject.pixels is not None]
    if not usable:
        return PreparedBatch(start, subjects, None)
    pixels = torch.empty(
        len(usable), *usable[0].shape, dtype=torch.float32, device="cpu", pin_memory=pinned
    )
    rows = pixels.numpy()  # torch would copy with a team of threads, which the network needs
    for row, image in zip(rows, usable, strict=True):
        row[...] = image.numpy()
    return PreparedBatch(start, [subject.without_pixels() for subject in subjects], pixels)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
