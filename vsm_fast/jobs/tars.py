"""WebDataset archives: the images of a pair share a key in an uncompressed tar.

``KEY.ref.jpg`` and ``KEY.gen.png`` form a pair; ``KEY.ref_mask.png``, ``KEY.gen_mask.png`` and
``KEY.json`` (``id``, ``subject``, ``generator``) are optional. A key may contain dots. Only headers
are read here; an image is read from its offset when it is decoded. Nothing is extracted, and names
never become paths.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from vsm_fast.errors import PairingError
from vsm_fast.images.storage import StoredImage, checked_read, open_binary, read_range
from vsm_fast.jobs.records import Notes, Record, is_hidden
from vsm_fast.jobs.text_tables import unique_keys

_IMAGES = ("ref", "gen", "ref_mask", "gen_mask")
_FIELDS = ("id", "subject", "generator")
_UNUSED = "unused member(s)"
_MAX_JSON = 1 << 20  # bytes


@dataclass(frozen=True)
class TarImage(StoredImage):
    """Image in an uncompressed tar.

    Attributes:
        archive: Location of the tar.
        member: Name in the tar.
        offset: First byte of the content in the archive.
        size: Bytes of the content.
    """

    archive: str
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """Return archive and member."""
        return f"{self.archive}/{self.member}"

    def read(self) -> bytes:
        """Return the content of the member."""
        return checked_read(self.archive, self.offset, self.size, self.name)


def tar_records(archive: str, notes: Notes) -> Iterator[tuple[str, Record]]:
    """Yield the samples of an archive, in order.

    Args:
        archive: Path or address.
        notes: Takes notes on unused members.

    Raises:
        PairingError: If the file is not an uncompressed tar, is damaged or truncated, or repeats
            a part of a sample.
    """
    key, record = "", Record()
    waiting: tarfile.TarInfo | None = None  # KEY.1.json after KEY belongs to KEY.1 if that follows
    for member in _members(archive, notes):
        sample, part = _key_and_part(member.name)
        if part is None:
            notes.leave_out(_UNUSED, member.name)
            continue
        if waiting is not None and (part == "json" or _key_and_part(waiting.name)[0] != sample):
            notes.leave_out(_UNUSED, waiting.name)
            waiting = None
        if part == "json" and key and sample.startswith(f"{key}."):
            waiting = member
            continue
        if sample != key:
            if record:
                yield f"sample {key}", {"id": key, **record}
            key, record = sample, Record()
        if waiting is not None:
            record |= _description(waiting, archive)
            waiting = None
        if part == "json":
            record |= _description(member, archive)
        elif part in record:
            raise PairingError(f"{archive}: {member.name} is a second {part!r} of its sample.")
        else:
            record[part] = TarImage(archive, member.name, member.offset_data, member.size)
    if waiting is not None:
        notes.leave_out(_UNUSED, waiting.name)
    if record:
        yield f"sample {key}", {"id": key, **record}


def _key_and_part(member: str) -> tuple[str, str | None]:
    """Return the sample key and part of a member; part None = unused."""
    folder, slash, name = member.rpartition("/")
    pieces = name.split(".")
    if len(pieces) > 1 and pieces[-1].lower() == "json":
        return f"{folder}{slash}{'.'.join(pieces[:-1])}", "json"
    for place in range(len(pieces) - 2, 0, -1):
        if (part := pieces[place].lower()) in _IMAGES:
            return f"{folder}{slash}{'.'.join(pieces[:place])}", part
    return member, None


def _description(member: tarfile.TarInfo, archive: str) -> Record:
    """Return the columns in the JSON file of a sample."""
    text = read_range(archive, member.offset_data, min(member.size, _MAX_JSON))
    try:
        content = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise PairingError(f"{archive}: {member.name} is not JSON: {error}.") from None
    values = content if isinstance(content, dict) else {}
    return {name: values[name] for name in _FIELDS if name in values}


def _members(archive: str, notes: Notes) -> Iterator[tarfile.TarInfo]:
    """Yield regular files that are not hidden; skip links, devices and sparse files."""
    try:
        with open_binary(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            # In an empty archive, next() of Python 3.10 reads before the beginning.
            empty = tar.firstmember is None  # type: ignore[attr-defined]
            while not empty and (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else tarfile keeps all headers
                parts = [part for part in member.name.split("/") if part not in (".", "..")]
                if any(map(is_hidden, parts)):
                    notes.leave_out("hidden or system file(s)", member.name)
                elif member.isreg() and not member.issparse():
                    yield member
                elif not member.isdir():
                    notes.leave_out("link(s) or special file(s)", member.name)
            _check_end(file, tar.offset, archive)
    except tarfile.TarError as error:
        raise PairingError(
            f"{archive} is not a complete, uncompressed tar: {error}. Images are read by offset, "
            "which compression does not allow. Write a plain .tar."
        ) from None


def _check_end(file: IO[bytes], offset: int, archive: str) -> None:
    """Check for an end mark at ``offset``: ``tarfile`` stops silently at damage too.

    Raises:
        PairingError: If there is no end mark, or data follows it.
    """
    file.seek(offset)
    mark = file.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE:
        reason = f"it is truncated: it ends after {offset + len(mark)} bytes, without an end mark"
    elif any(mark):
        reason = f"the header at byte {offset} is damaged"
    else:
        while padding := file.read(1 << 20):
            if any(padding):
                break
        if not padding:
            return
        reason = (
            f"members follow the end mark at byte {offset}: a header is damaged, or the file is a "
            "concatenation of several archives, which belong in a folder as separate files"
        )
    raise PairingError(f"{archive} is not a complete, uncompressed tar: {reason}. Write it again.")
