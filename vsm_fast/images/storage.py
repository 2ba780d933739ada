"""Local files, addresses opened by fsspec, and encoded images inside other files.

A location is a path or an address like ``s3://bucket/pairs.csv``. fsspec opens an address with the
package of its protocol (``s3fs`` for ``s3://``, ``gcsfs`` for ``gs://``). A ``StoredImage`` takes
the place of a path. The decoding thread reads it, so a list of images holds no pixels.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import IO, Any, cast

from vsm_fast.errors import InputError, PairingError, Status

MAX_BYTES = 256 << 20  # per encoded image; a larger file is no image, or an attack

_DRIVE = re.compile("[a-z]:/", re.IGNORECASE)
_ADDRESS = re.compile("([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def is_remote(location: str) -> bool:
    """Return whether a location is an address."""
    return _ADDRESS.match(location) is not None


def absolute(location: str | os.PathLike[str]) -> str:
    """Return the location independent of the current folder."""
    text = os.fspath(location)
    return text if is_remote(text) else os.path.abspath(text)  # noqa: PTH100 - follows no link


def beside(location: str, name: str) -> str:
    """Resolve a file name relative to the folder of ``location``.

    ``~/`` is the home folder. If no file has the literal name, Windows separators and drives are
    translated (a drive to its WSL mount, else the root), and both Unicode compositions are tried.
    """
    if is_remote(name):
        return name
    if is_remote(location) and not name.startswith(("/", "~/")):
        return f"{location.rpartition('/')[0]}/{name}"
    folder = Path(location).parent
    windows = os.name == "posix" and ("\\" in name or _DRIVE.match(name))
    if windows and not os.path.lexists(folder / name):
        path = PureWindowsPath(name)
        letter = path.drive.removesuffix(":").lower()
        name = path.as_posix()
        if len(letter) == 1:
            mounted = Path("/mnt", letter)
            name = str((mounted if mounted.is_dir() else Path("/")).joinpath(*path.parts[1:]))
    if name.startswith("~/"):
        name = os.path.expanduser(name)  # noqa: PTH111 - Path.expanduser raises without a home
    if not name.isascii():
        forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
        name = next((form for form in forms if os.path.lexists(folder / form)), name)
    return str(folder / name)


def version_of(location: str) -> str:
    """Return a text that changes when a file is replaced or rewritten.

    Raises:
        OSError: If the file does not exist.
    """
    if is_remote(location):
        return str(filesystem(location).ukey(location))
    entry = Path(location).stat()
    return f"{entry.st_size}:{entry.st_mtime_ns}:{entry.st_ino}"


def suffix_of(location: str) -> str:
    """Return the suffix in lower case, with its dot."""
    return os.path.splitext(location)[1].lower()  # noqa: PTH122 - addresses are no paths


def open_binary(location: str) -> IO[bytes]:
    """Open a file for reading.

    Raises:
        OSError: If it cannot be opened.
        PairingError: If fsspec cannot open such an address.
    """
    if not is_remote(location):
        return Path(location).open("rb")
    return cast(IO[bytes], filesystem(location).open(location, "rb"))


def read_range(location: str, start: int, most: int) -> bytes:
    """Read at most ``most`` bytes from ``start`` on.

    Raises:
        OSError: If the file cannot be read.
    """
    with open_binary(location) as file:
        file.seek(start)
        return file.read(most)


def is_folder(location: str) -> bool:
    """Return whether a location is an existing folder."""
    if not is_remote(location):
        return Path(location).is_dir()
    return bool(filesystem(location).isdir(location))


def files_in(folder: str) -> list[str]:
    """List the visible files directly in a folder, sorted by location."""
    if is_remote(folder):
        system = filesystem(folder)
        files = [
            system.unstrip_protocol(entry["name"])
            for entry in system.ls(folder, detail=True)
            if entry["type"] == "file"
        ]
    else:
        files = [str(path) for path in Path(folder).iterdir() if path.is_file()]
    return sorted(path for path in files if not path.rpartition("/")[2].startswith((".", "_")))


def filesystem(location: str) -> Any:
    """Return the fsspec file system of an address, one instance per protocol.

    Raises:
        PairingError: If fsspec cannot open such an address.
    """
    match = _ADDRESS.match(location)
    assert match is not None, location
    return _filesystem(match[1].lower())


@lru_cache
def _filesystem(protocol: str) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(protocol)
    # The protocol is unknown, its package is missing, or it needs more than an address contains,
    # like a host or the file behind reference://.
    except (ImportError, ValueError, TypeError, AttributeError, OSError) as error:
        raise PairingError(f"{protocol}:// addresses cannot be opened here: {error}") from error


class StoredImage(ABC):
    """Encoded image outside the local file system; equal objects are the same image. Picklable."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in tables and errors."""

    @abstractmethod
    def read(self) -> bytes:
        """Read the encoded file.

        Raises:
            InputError: With ``MISSING_FILE``, ``UNREADABLE`` or ``TOO_LARGE``.
        """

    def identity(self) -> str:
        """Return a text that is equal for equal files: the hash of the content, if readable."""
        try:
            return hashlib.sha256(self.read()).hexdigest()
        except InputError:
            return self.name

    def __str__(self) -> str:
        return self.name


ImageLocation = Path | StoredImage


@dataclass(frozen=True)
class RemoteImage(StoredImage):
    """File at an address that fsspec opens, like ``s3://bucket/name.png``."""

    url: str

    @property
    def name(self) -> str:
        """The address."""
        return self.url

    def read(self) -> bytes:
        """Read the file."""
        return checked_read(self.url, 0, None, self.url)

    def identity(self) -> str:
        """Return the address, which identifies the file without fetching it."""
        return self.url


def checked_read(location: str, start: int, size: int | None, name: str) -> bytes:
    """Read bytes of a file or address; failures become errors of an image.

    Args:
        location: Path or address.
        start: First byte.
        size: Number of bytes; None = to the end.
        name: Name of the image in errors.

    Raises:
        InputError: With ``MISSING_FILE``, ``UNREADABLE`` or ``TOO_LARGE``.
    """
    limit = MAX_BYTES + 1 if size is None else size if size <= MAX_BYTES else 0
    try:
        content = read_range(location, start, limit)
    except FileNotFoundError as error:
        raise InputError(Status.MISSING_FILE, f"{name} does not exist.") from error
    except (OSError, ValueError) as error:
        raise InputError(Status.UNREADABLE, f"{name} cannot be read: {error}.") from error
    if max(len(content), size or 0) > MAX_BYTES:
        raise InputError(
            Status.TOO_LARGE, f"{name} is too large: an image file has at most {MAX_BYTES:,} bytes."
        )
    if size is not None and len(content) < size:
        raise InputError(
            Status.UNREADABLE,
            f"{name} ends after {len(content)} of {size} bytes. Write it again.",
        )
    return content
