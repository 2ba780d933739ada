"""Encoded images that are no local files: read when their turn comes, by the thread that decodes.

Addresses, members of an archive and cells of a table take part wherever a path does. A list of
them holds no pixels.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from vsm_fast.errors import InputError, Status
from vsm_fast.images.storage import read_range

MAX_BYTES = 256 << 20  # of an encoded image; what is larger is no image, or an attack


class StoredImage(ABC):
    """An encoded image somewhere; equal ones are the same image, and it can be pickled."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What tables and errors call it."""

    @abstractmethod
    def read(self) -> bytes:
        """The encoded file.

        Raises:
            InputError: ``MISSING_FILE``, ``UNREADABLE`` or ``TOO_LARGE``.
        """

    def identity(self) -> str:
        """Equal for equal files, as far as that can be told; here by their content."""
        try:
            return hashlib.sha256(self.read()).hexdigest()
        except InputError:
            return self.name

    def __str__(self) -> str:
        return self.name


ImageLocation = Path | StoredImage


@dataclass(frozen=True)
class RemoteImage(StoredImage):
    """A file at an address that fsspec opens, like ``s3://bucket/name.png``."""

    url: str

    @property
    def name(self) -> str:
        """The address."""
        return self.url

    def read(self) -> bytes:
        """The file."""
        return checked_read(self.url, 0, None, self.url)

    def identity(self) -> str:
        """The address: it tells files apart without fetching them."""
        return self.url


def checked_read(location: str, start: int, size: int | None, name: str) -> bytes:
    """Bytes of a file or address, with failures as errors of an image.

    Args:
        location: Path or address.
        start: First byte.
        size: Number of bytes; None = to the end.
        name: What to call the image.

    Raises:
        InputError: ``MISSING_FILE``, ``UNREADABLE`` or ``TOO_LARGE``.
    """
    limit = MAX_BYTES + 1 if size is None else size
    if size is not None and size > MAX_BYTES:
        limit = 0
    try:
        content = read_range(location, start, limit)
    except FileNotFoundError as error:
        raise InputError(Status.MISSING_FILE, f"{name} does not exist.") from error
    except (OSError, ValueError) as error:
        raise InputError(Status.UNREADABLE, f"{name} cannot be read: {error}.") from error
    if max(len(content), size or 0) > MAX_BYTES:
        raise InputError(
            Status.TOO_LARGE,
            f"{name} has more than {MAX_BYTES:,} bytes, the most that is read of one image.",
        )
    if size is not None and len(content) < size:
        raise InputError(
            Status.UNREADABLE, f"{name} ends after {len(content)} of {size} bytes; write it again."
        )
    return content
