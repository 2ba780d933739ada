"""WebDataset archives: the images of a pair lie side by side in a tar, under one key.

``KEY.ref.jpg`` and ``KEY.gen.png`` make a pair, with ``KEY.ref_mask.png`` and
``KEY.gen_mask.png`` where there are masks, and ``KEY.json`` with ``id``, ``subject`` and
``generator``. A key ends at the first dot after the last slash. Only headers are read here; an
image is read from its place in the archive when it is decoded. Nothing is extracted, and names
never become paths.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from vsm_fast.errors import PairingError
from vsm_fast.images.storage import open_binary, read_range
from vsm_fast.images.stored import StoredImage, checked_read
from vsm_fast.jobs.records import Record

_IMAGES = ("ref", "gen", "ref_mask", "gen_mask")
_FIELDS = ("id", "subject", "generator")
_MOST_JSON = 1 << 20  # bytes of a sample's description


@dataclass(frozen=True)
class TarImage(StoredImage):
    """A member of an uncompressed tar.

    Attributes:
        archive: Its location.
        member: Name inside.
        offset: First byte of the content in the archive.
        size: Bytes of the content.
    """

    archive: str
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """Archive and member."""
        return f"{self.archive}/{self.member}"

    def read(self) -> bytes:
        """The member's content."""
        return checked_read(self.archive, self.offset, self.size, self.name)


def tar_records(archive: str) -> Iterator[tuple[str, Record]]:
    """The samples of an archive, in order.

    Raises:
        PairingError: It is no uncompressed tar, is cut short, or repeats a part of a sample.
    """
    key, record = None, Record()
    for member in _members(archive):
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        found = f"{folder}/{stem}" if folder else stem
        if found != key:
            if record:
                yield f"sample {key}", _named(key, record)
            key, record = found, Record()
        _add(record, ending.lower(), member, archive)
    if record:
        yield f"sample {key}", _named(key, record)


def _members(archive: str) -> Iterator[tarfile.TarInfo]:
    """Regular files; links, devices and files with holes are no images."""
    try:
        with open_binary(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            # An empty one: next() of Python 3.10 would read before its beginning.
            if tar.firstmember is None:  # type: ignore[attr-defined]
                return
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all headers
                if member.isreg() and not member.issparse():
                    yield member
    except tarfile.TarError as error:
        raise PairingError(
            f"{archive} is not a whole, uncompressed tar: {error}. Images are read from their "
            "place in it, which compression does not allow; write it as plain .tar."
        ) from None


def _add(record: Record, ending: str, member: tarfile.TarInfo, archive: str) -> None:
    """Take one member into its sample; those that no pair has are passed over."""
    part = ending.partition(".")[0]
    if part in _IMAGES and "." in ending:
        if part in record:
            raise PairingError(f"{archive}: {member.name} is a second {part!r} of its sample.")
        record[part] = TarImage(archive, member.name, member.offset_data, member.size)
    elif ending == "json":
        content = read_range(archive, member.offset_data, min(member.size, _MOST_JSON))
        try:
            described = json.loads(content)
        except ValueError as error:  # not JSON, or not UTF-8
            raise PairingError(f"{archive}: {member.name} is not JSON: {error}.") from None
        if isinstance(described, dict):
            record |= {name: described[name] for name in _FIELDS if name in described}


def _named(key: str | None, record: Record) -> Record:
    return {"id": key, **record}
