"""Job plan: the rows of each shard, and digests that detect a changed manifest.

A shard is a run of consecutive manifest rows, so its content depends only on the manifest and the
shard size. The manifest is read twice, which is cheap next to scoring and holds nothing in memory.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vsm_fast.errors import PairingError
from vsm_fast.images.automatic_masks import AutoMask
from vsm_fast.images.storage import ImageLocation
from vsm_fast.jobs.errors import JobError
from vsm_fast.jobs.pairing import Pairing, PairRow
from vsm_fast.jobs.records import Notes


class PairSource(Protocol):
    """Repeatable source of pairs: each pass yields the same pairs in the same order."""

    @property
    def base(self) -> str:
        """Return the common prefix of relative image locations."""

    def rows(self, notes: Notes | None = None) -> Iterator[PairRow]:
        """Yield the pairs; ``notes`` takes notes for the user."""


@dataclass(frozen=True)
class ListedPairs:
    """Pairs in memory, such as those of two folders."""

    pairing: Pairing
    base: str = ""

    def rows(self, notes: Notes | None = None) -> Iterator[PairRow]:
        """Yield the pairs."""
        if notes is not None:
            for sentence in self.pairing.notes:
                notes.say(sentence)
        return iter(self.pairing.rows)


@dataclass(frozen=True)
class Shard:
    """Consecutive manifest rows, the unit of work.

    Attributes:
        number: Shard number, from 0.
        positions: Manifest position of each row, from 0, ascending.
        rows: Pairs.
    """

    number: int
    positions: Sequence[int]
    rows: Sequence[PairRow]


@dataclass(frozen=True)
class Plan:
    """Shards of a manifest.

    Attributes:
        rows: Number of rows.
        shard_rows: Rows per shard; the last shard may have fewer.
        digests: Per shard, the SHA-256 of all rows up to its end.
        repeated_ids: Number of rows that repeat an earlier id.
        notes: Notes for the user, one sentence each.
    """

    rows: int
    shard_rows: int
    digests: Sequence[bytes]
    repeated_ids: int
    notes: tuple[str, ...] = ()

    @property
    def shards(self) -> int:
        """Return the number of shards."""
        return len(self.digests)

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the whole list, hexadecimal."""
        return self.digests[-1].hex()

    def rows_of(self, shard: int) -> int:
        """Return the number of rows of a shard."""
        return min(self.shard_rows, self.rows - shard * self.shard_rows)


def make_plan(
    source: PairSource, shard_rows: int, advance: Callable[[int], None] = lambda _: None
) -> Plan:
    """Plan the shards in one pass over the manifest.

    Args:
        source: Manifest.
        shard_rows: Rows per shard.
        advance: Called with the number of rows read since the last call.

    Raises:
        PairingError: If the manifest cannot be read, a row is incomplete, or there is no row.
    """
    digest, digests = hashlib.sha256(), []
    ids = array("q")  # hashes: 8 bytes per row
    notes = Notes()
    for rows in _batches(source.rows(notes), shard_rows):
        digests.append(_update(digest, rows, source.base))
        ids.extend(hash(row.id) for row in rows)
        advance(len(rows))
    if not digests:
        raise PairingError("there is no pair to score: the manifest is empty.")
    distinct = len(np.unique(np.frombuffer(ids, np.int64)))
    return Plan(len(ids), shard_rows, digests, len(ids) - distinct, notes.sentences())


def read_shards(source: PairSource, plan: Plan, numbers: Collection[int]) -> Iterator[Shard]:
    """Yield shards by number, in order.

    Raises:
        JobError: If the manifest differs from the planned one.
    """
    changed = JobError(
        "the manifest changed during the job. Restore it and run the same command again, or start "
        "another job."
    )
    digest, last, read = hashlib.sha256(), max(numbers, default=-1), 0
    for number, rows in enumerate(_batches(source.rows(), plan.shard_rows)):
        if number > last:
            return
        if number >= plan.shards or _update(digest, rows, source.base) != plan.digests[number]:
            raise changed
        read = number + 1
        if number in numbers:
            first = number * plan.shard_rows
            yield Shard(number, range(first, first + len(rows)), rows)
    if read <= last:
        raise changed


def _batches(rows: Iterator[PairRow], length: int) -> Iterator[tuple[PairRow, ...]]:
    while batch := tuple(islice(rows, length)):  # itertools.batched needs Python 3.12
        yield batch


def _update(digest: hashlib._Hash, rows: Sequence[PairRow], base: str) -> bytes:
    """Add rows to a digest; image locations count relative to the manifest."""
    for row in rows:
        images = (row.ref, row.gen, row.ref_mask, row.gen_mask)
        values = (row.id, row.subject, row.generator, *(_place(image, base) for image in images))
        digest.update(json.dumps(values).encode() + b"\n")  # unambiguous for any two lists
    return digest.digest()


def _place(image: ImageLocation | AutoMask | None, base: str) -> list[Any] | None:
    """Return the kind and fields of an image as JSON; a location inside ``base`` is a list."""
    if image is None:
        return None
    kind = "Path" if isinstance(image, Path) else type(image).__name__
    fields = [str(image)] if isinstance(image, Path) else vars(image).values()
    places = (
        [field[len(base) :]] if isinstance(field, str) and field.startswith(base) else field
        for field in fields
    )
    return [kind, *places]
