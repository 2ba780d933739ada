"""WebDataset archives: the images of a pair lie side by side in a tar, under one key.

``KEY.ref.jpg`` and ``KEY.gen.png`` make a pair, with ``KEY.ref_mask.png`` and
``KEY.gen_mask.png`` where there are masks, and ``KEY.json`` with ``id``, ``subject`` and
``generator``. A key may hold dots. Only headers are read here; an image is read from its place in
the archive when it is decoded. Nothing is extracted, and names never become paths.
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
_UNUSED = "member(s) that no pair uses"
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


def tar_records(archive: str, notes: Notes) -> Iterator[tuple[str, Record]]:
    """The samples of an archive, in order.

    Args:
        archive: Path or address.
        notes: Told of the members that no pair uses.

    Raises:
        PairingError: It is no uncompressed tar, is damaged or cut short, or repeats a part of a
            sample.
    """
    key, record = "", Record()
    waiting: tarfile.TarInfo | None = None  # KEY.1.json after KEY: of KEY.1, if that is next
    for member in _members(archive, notes):
        found, part = _key_and_part(member.name)
        if part is None:
            notes.leave_out(_UNUSED, member.name)
            continue
        if waiting is not None and (part == "json" or _key_and_part(waiting.name)[0] != found):
            notes.leave_out(_UNUSED, waiting.name)
            waiting = None
        if part == "json" and key and found.startswith(f"{key}."):
            waiting = member
            continue
        if found != key:
            if record:
                yield f"sample {key}", {"id": key, **record}
            key, record = found, Record()
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
    """The sample of a member, and which part of it that is; None = none that a pair has."""
    folder, slash, name = member.rpartition("/")
    pieces = name.split(".")
    if len(pieces) > 1 and pieces[-1].lower() == "json":
        return f"{folder}{slash}{'.'.join(pieces[:-1])}", "json"
    for place in range(len(pieces) - 2, 0, -1):
        if (part := pieces[place].lower()) in _IMAGES:
            return f"{folder}{slash}{'.'.join(pieces[:place])}", part
    return member, None


def _description(member: tarfile.TarInfo, archive: str) -> Record:
    """The columns that a sample's JSON file gives."""
    content = read_range(archive, member.offset_data, min(member.size, _MOST_JSON))
    try:
        described = json.loads(content, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise PairingError(f"{archive}: {member.name} is not JSON: {error}.") from None
    known = described if isinstance(described, dict) else {}
    return {name: known[name] for name in _FIELDS if name in known}


def _members(archive: str, notes: Notes) -> Iterator[tarfile.TarInfo]:
    """Regular files that are not hidden; links, devices and files with holes are no images."""
    try:
        with open_binary(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            # An empty one: next() of Python 3.10 would read before its beginning.
            empty = tar.firstmember is None  # type: ignore[attr-defined]
            while not empty and (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all headers
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
            f"{archive} is not a whole, uncompressed tar: {error}. Images are read from their "
            "place in it, which compression does not allow; write it as plain .tar."
        ) from None


def _check_end(file: IO[bytes], offset: int, archive: str) -> None:
    """Tell the end of an archive from damage: ``tarfile`` ends quietly at either.

    Raises:
        PairingError: At ``offset`` there is no end mark, or more than padding follows it.
    """
    file.seek(offset)
    mark = file.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE:
        reason = f"it was cut: it ends after {offset + len(mark)} bytes, without an end mark"
    elif any(mark):
        reason = f"the header at byte {offset} is damaged"
    else:
        while padding := file.read(1 << 20):
            if any(padding):
                break
        if not padding:
            return
        reason = (
            f"members follow its end mark at byte {offset}: a header is damaged, or these are "
            "several archives in one file, which belong into a folder as files of their own"
        )
    raise PairingError(f"{archive} is not a whole, uncompressed tar: {reason}. Write it again.")
