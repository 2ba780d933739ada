"""Descriptors of references in bounded memory: a reference of many rows is described once."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence

from vsm_fast.descriptors import Descriptors
from vsm_fast.images.automatic_masks import AutoMask
from vsm_fast.images.storage import ImageLocation, StoredImage, version_of
from vsm_fast.jobs.pairing import PairRow
from vsm_fast.scorer import VSMScorer

ReferenceKey = tuple[str, str | None]


def reference_key(row: PairRow) -> ReferenceKey:
    """Equal for rows whose references are the same image with the same mask."""
    return _identity(row.ref), None if row.ref_mask is None else _identity(row.ref_mask)


def _identity(image: ImageLocation | AutoMask) -> str:
    if isinstance(image, AutoMask):
        return repr(image)
    if isinstance(image, StoredImage):
        return image.identity()
    try:
        return f"{os.fspath(image)}\0{version_of(os.fspath(image))}"
    except (OSError, ValueError):  # its row says so
        return os.fspath(image)


class ReferenceMemory:
    """Describes references and keeps those used last.

    Each one is described alone, because the batch that an image is in changes last bits of its
    descriptors: so they do not depend on what was scored before, nor on an interruption.

    Args:
        scorer: Describes.
        max_bytes: Of the descriptors that are kept between calls.

    Attributes:
        described: Number of images described so far.
    """

    def __init__(self, scorer: VSMScorer, max_bytes: int) -> None:
        self._scorer = scorer
        self._max_bytes = max_bytes
        self._kept: OrderedDict[ReferenceKey, Descriptors] = OrderedDict()
        self._bytes = 0
        self.described = 0

    def get(self, wanted: Sequence[tuple[ReferenceKey, PairRow]]) -> Descriptors:
        """The references of some rows, in order.

        Args:
            wanted: Keys, each with a row that has this reference; at least one.
        """
        missing = [(key, row) for key, row in wanted if key not in self._kept]
        if missing:
            new = self._scorer.describe(
                [row.ref for _, row in missing],
                [row.ref_mask for _, row in missing],
                batch_size=1,
                on_error="record",
            )
            self.described += len(missing)
            for number, (key, _) in enumerate(missing):
                self._kept[key] = new.select([number])
                self._bytes += self._kept[key].nbytes
        for key, _ in wanted:
            self._kept.move_to_end(key)
        found = Descriptors.cat([self._kept[key] for key, _ in wanted])
        while self._bytes > self._max_bytes and self._kept:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found
