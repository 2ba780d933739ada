"""Files on this machine and at addresses: the little of fsspec that inputs need.

A location is a path, or an address like ``s3://bucket/pairs.csv``, opened by fsspec with the
package of its protocol (``s3fs`` for ``s3://``, ``gcsfs`` for ``gs://``).
"""

from __future__ import annotations

import os
import re
import unicodedata
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import IO, Any, cast

from vsm_fast.errors import PairingError

_DRIVE = re.compile("[a-z]:/", re.IGNORECASE)
_ADDRESS = re.compile("([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def is_remote(location: str) -> bool:
    """Whether a location is an address."""
    return _ADDRESS.match(location) is not None


def absolute(location: str | os.PathLike[str]) -> str:
    """The location, independent of the folder that the process is in."""
    text = os.fspath(location)
    return text if is_remote(text) else os.path.abspath(text)  # noqa: PTH100 - follows no link


def beside(location: str, name: str) -> str:
    """Where a file is that is named relative to the folder of ``location``.

    ``~/`` is the home folder. Unless a file has that very name, separators and drives of Windows
    and accents that are composed otherwise are understood too.
    """
    if is_remote(name):
        return name
    if is_remote(location) and not name.startswith(("/", "~/")):
        return f"{location.rpartition('/')[0]}/{name}"
    folder = Path(location).parent
    windows = os.name == "posix" and ("\\" in name or _DRIVE.match(name))
    if windows and not os.path.lexists(folder / name):
        name = _posix_name(name)
    if name.startswith("~/"):
        name = os.path.expanduser(name)  # noqa: PTH111 - which raises where there is no home
    if not name.isascii():
        forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
        name = next((form for form in forms if os.path.lexists(folder / form)), name)
    return str(folder / name)


def _posix_name(name: str) -> str:
    """A name from Windows; a drive is where WSL mounts it, or else the root."""
    path = PureWindowsPath(name)
    letter = path.drive.removesuffix(":").lower()
    if len(letter) != 1:
        return path.as_posix()
    mounted = Path("/mnt", letter)
    root = mounted if mounted.is_dir() else Path("/")
    return str(root.joinpath(*path.parts[1:]))


def version_of(location: str) -> str:
    """Differs when a file was replaced or written again.

    Raises:
        OSError: There is no such file.
    """
    if is_remote(location):
        return str(filesystem(location).ukey(location))
    found = Path(location).stat()
    return f"{found.st_size}:{found.st_mtime_ns}:{found.st_ino}"


def suffix_of(location: str) -> str:
    """The suffix in lower case, with its dot."""
    return os.path.splitext(location)[1].lower()  # noqa: PTH122 - addresses are no paths


def open_binary(location: str) -> IO[bytes]:
    """Open for reading.

    Raises:
        OSError: It cannot be opened.
        PairingError: Nothing here opens such an address.
    """
    if not is_remote(location):
        return Path(location).open("rb")
    return cast(IO[bytes], filesystem(location).open(location, "rb"))


def read_range(location: str, start: int, most: int) -> bytes:
    """At most ``most`` bytes from ``start`` on.

    Raises:
        OSError: It cannot be read.
    """
    with open_binary(location) as file:
        file.seek(start)
        return file.read(most)


def is_folder(location: str) -> bool:
    """Whether there is a folder."""
    if not is_remote(location):
        return Path(location).is_dir()
    return bool(filesystem(location).isdir(location))


def files_in(folder: str) -> list[str]:
    """Locations of the files directly in a folder, sorted, hidden ones left out."""
    if is_remote(folder):
        system = filesystem(folder)
        found = [
            system.unstrip_protocol(entry["name"])
            for entry in system.ls(folder, detail=True)
            if entry["type"] == "file"
        ]
    else:
        found = [str(path) for path in Path(folder).iterdir() if path.is_file()]
    return sorted(path for path in found if not path.rpartition("/")[2].startswith((".", "_")))


def filesystem(location: str) -> Any:
    """The fsspec file system of an address; one a protocol.

    Raises:
        PairingError: Nothing here opens such an address.
    """
    match = _ADDRESS.match(location)
    assert match is not None, location
    return _filesystem(match[1].lower())


@lru_cache
def _filesystem(protocol: str) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(protocol)
    # No such protocol, no package for it, or it wants more than an address has, like a host or the
    # file that a reference:// looks into, which a manifest cannot give.
    except (ImportError, ValueError, TypeError, AttributeError, OSError) as error:
        raise PairingError(f"{protocol}:// addresses cannot be opened here: {error}") from error
