"""The plan of a job: which rows are in which shard, and proof that it is still the same.

A shard is a run of rows of the manifest, so that what is in it depends on nothing but the
manifest and the shard's size. Reading twice costs little beside scoring, and holds nothing.
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
    """Lists the pairs of a job, the same ones in the same order each time it is asked."""

    @property
    def base(self) -> str:
        """Beginning of the locations of its images, unless they lie elsewhere."""

    def rows(self, notes: Notes | None = None) -> Iterator[PairRow]:
        """The pairs; ``notes`` takes up remarks for the user."""


@dataclass(frozen=True)
class ListedPairs:
    """Pairs that are known already, such as those of two folders."""

    pairing: Pairing
    base: str = ""

    def rows(self, notes: Notes | None = None) -> Iterator[PairRow]:
        """The pairs."""
        if notes is not None:
            for sentence in self.pairing.notes:
                notes.say(sentence)
        return iter(self.pairing.rows)


@dataclass(frozen=True)
class Shard:
    """Some rows of the manifest, the unit of work.

    Attributes:
        number: Of the shard.
        positions: Of each row in the manifest, from 0 on, rising.
        rows: The pairs.
    """

    number: int
    positions: Sequence[int]
    rows: Sequence[PairRow]


@dataclass(frozen=True)
class Plan:
    """What a manifest holds.

    Attributes:
        rows: Number of rows.
        shard_rows: Of each shard; the last one may have fewer.
        digests: For each shard, of everything up to its end.
        repeated_ids: Rows whose id an earlier row has.
        notes: Remarks for the user, one sentence each.
    """

    rows: int
    shard_rows: int
    digests: Sequence[bytes]
    repeated_ids: int
    notes: tuple[str, ...] = ()

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.digests)

    @property
    def sha256(self) -> str:
        """Of the whole list."""
        return self.digests[-1].hex()

    def rows_of(self, shard: int) -> int:
        """Number of rows of a shard."""
        return min(self.shard_rows, self.rows - shard * self.shard_rows)


def make_plan(
    source: PairSource, shard_rows: int, advance: Callable[[int], None] = lambda _: None
) -> Plan:
    """Read a manifest once.

    Args:
        source: The manifest.
        shard_rows: Rows of a shard.
        advance: Called with the number of rows read since the last call.

    Raises:
        PairingError: It cannot be read, a row is incomplete, or there is none.
    """
    digest, digests = hashlib.sha256(), []
    names = array("q")  # hashes of ids: 8 bytes a row
    notes = Notes()
    for rows in _runs(source.rows(notes), shard_rows):
        digests.append(_continued(digest, rows, source.base))
        names.extend(hash(row.id) for row in rows)
        advance(len(rows))
    if not digests:
        raise PairingError("there is no pair to score: the manifest lists none.")
    distinct = len(np.unique(np.frombuffer(names, np.int64)))
    return Plan(len(names), shard_rows, digests, len(names) - distinct, notes.sentences())


def read_shards(source: PairSource, plan: Plan, wanted: Collection[int]) -> Iterator[Shard]:
    """The wanted shards, in order.

    Raises:
        JobError: The manifest is not the one that was planned.
    """
    digest, last, read = hashlib.sha256(), max(wanted, default=-1), 0
    for number, rows in enumerate(_runs(source.rows(), plan.shard_rows)):
        if number > last:
            return
        if number >= plan.shards or _continued(digest, rows, source.base) != plan.digests[number]:
            raise _changed()
        read = number + 1
        if number in wanted:
            first = number * plan.shard_rows
            yield Shard(number, range(first, first + len(rows)), rows)
    if read <= last:
        raise _changed()


def _changed() -> JobError:
    return JobError(
        "the manifest changed while the job was running; put it back and run the same "
        "command again, or start another job."
    )


def _runs(rows: Iterator[PairRow], length: int) -> Iterator[tuple[PairRow, ...]]:
    while run := tuple(islice(rows, length)):
        yield run


def _continued(digest: hashlib._Hash, rows: Sequence[PairRow], base: str) -> bytes:
    """The digest with further rows; images count by where they lie relative to the manifest."""
    for row in rows:
        images = (row.ref, row.gen, row.ref_mask, row.gen_mask)
        values = (row.id, row.subject, row.generator, *(_place(image, base) for image in images))
        digest.update(json.dumps(values).encode() + b"\n")  # tells any two lists apart
    return digest.digest()


def _place(image: ImageLocation | AutoMask | None, base: str) -> list[Any] | None:
    """Kind and fields of an image as JSON values; a location inside ``base`` is a list."""
    if image is None:
        return None
    kind = "Path" if isinstance(image, Path) else type(image).__name__
    fields = [str(image)] if isinstance(image, Path) else vars(image).values()
    places = (
        [field[len(base) :]] if isinstance(field, str) and field.startswith(base) else field
        for field in fields
    )
    return [kind, *places]
