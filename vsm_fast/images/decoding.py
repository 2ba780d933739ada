"""Decoding of image files and PIL images; every failure becomes an InputError.

Pixels are decoded but not converted: images and masks interpret the same file differently.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from vsm_fast.errors import InputError, Status
from vsm_fast.images.storage import StoredImage

# Formats whose decoders only read pixels. EPS and PDF, for example, would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
MAX_PIXELS = 80_000_000  # below 89,478,485, where Pillow starts to warn
MAX_PIXELS_VARIABLE = "VSM_FAST_MAX_PIXELS"

# Other errors mean that the entry exists: a circle of links, no permission, a broken disk.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Decoded:
    """Decoded image before conversion of its pixels.

    Attributes:
        image: Loaded image of any mode, independent of its file.
        orientation: EXIF orientation of the stored image, 1..8.
        pending: Orientation still to apply to ``image``: ``orientation`` or 1.
        notes: Remarks on the file, such as ignored frames.
    """

    image: Image.Image
    orientation: int
    pending: int
    notes: tuple[str, ...]


def default_max_pixels() -> int:
    """Return the largest width x height: ``VSM_FAST_MAX_PIXELS``, or 80 million.

    Above 178,956,970 Pillow's own limit applies; ``Image.MAX_IMAGE_PIXELS`` raises it.

    Raises:
        ValueError: If the variable is not a whole number above 0.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE, str(MAX_PIXELS))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{MAX_PIXELS_VARIABLE} must be a whole number above 0; got {text!r}.")
    return int(text)


def decode(
    source: str | os.PathLike[str] | Image.Image | StoredImage, max_pixels: int | None = None
) -> Decoded:
    """Decode a file, or load a PIL image without closing or changing it.

    Args:
        source: PIL image, or PNG, JPEG, WebP, BMP, TIFF, GIF, PPM or AVIF file as a path or stored
            image.
        max_pixels: Largest width x height, checked before decoding; None =
            :func:`default_max_pixels`.

    Raises:
        InputError: With ``MISSING_FILE``, ``UNREADABLE`` (also if the file changes meanwhile) or
            ``TOO_LARGE``.
    """
    limit = default_max_pixels() if max_pixels is None else max_pixels
    name = "the PIL image"
    try:
        if isinstance(source, Image.Image):
            try:
                note = _frame_note(source)
            except Exception:  # the image was closed after loading one frame, or is damaged
                note = []
            return _load(source, name, limit, note)
        if isinstance(source, StoredImage):
            name = source.name
            content = source.read()
            if not content:
                raise InputError(Status.UNREADABLE, f"{name} is empty (0 bytes).")
            return _decode_file(BytesIO(content), name, limit)
        name = os.fsdecode(source)
        _check_file(name)
        with Path(name).open("rb") as file:
            before = os.fstat(file.fileno())
            decoded = _decode_file(file, name, limit)
            after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise InputError(
                Status.UNREADABLE,
                f"{name} changed while it was read. Wait until its writer has finished.",
            )
        return decoded
    except MemoryError as error:
        raise InputError(Status.TOO_LARGE, f"{name} does not fit into memory.") from error
    except OSError as error:
        raise InputError(Status.UNREADABLE, f"{name} cannot be read: {error}.") from error


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Check that an image has pixels, and not too many.

    Raises:
        InputError: With ``UNREADABLE`` if it has no pixels, or ``TOO_LARGE``.
    """
    if width < 1 or height < 1:
        raise InputError(Status.UNREADABLE, f"{name} has no pixels: it is {width} x {height}.")
    if width * height > max_pixels:
        raise InputError(
            Status.TOO_LARGE,
            f"{name} is too large: {width} x {height} = {width * height:,} pixels, at most "
            f"{max_pixels:,} are decoded. Scale it down first.",
        )


def orient(array: NDArray[_Scalar], orientation: int) -> NDArray[_Scalar]:
    """Apply an EXIF orientation to a stored image.

    Args:
        array: [H, W] or [H, W, C].
        orientation: EXIF orientation in 1..8; 5 to 8 exchange height and width.

    Returns:
        The upright image, contiguous.
    """
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _check_file(name: str) -> None:
    try:
        entry = os.stat(name)  # noqa: PTH116 - Path("") would be the current folder
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, OSError) and error.errno not in _NOT_THERE:
            raise InputError(Status.UNREADABLE, f"{name} cannot be read: {error}.") from error
        address = re.match("[a-z][a-z0-9+]+:/", name, re.IGNORECASE)
        hint = " Addresses are not fetched: download the file first." if address else ""
        raise InputError(Status.MISSING_FILE, f"{name!r} does not exist.{hint}") from error
    if stat.S_ISDIR(entry.st_mode):
        raise InputError(Status.UNREADABLE, f"{name} is a folder. Pass an image file.")
    if not stat.S_ISREG(entry.st_mode):  # reading a pipe could block for ever
        raise InputError(Status.UNREADABLE, f"{name} is not a regular file.")
    if entry.st_size == 0:
        raise InputError(Status.UNREADABLE, f"{name} is empty (0 bytes). Fetch or write it again.")


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Image.init()  # WebP and AVIF depend on the build of Pillow
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _decode_file(file: BinaryIO, name: str, max_pixels: int) -> Decoded:
    try:
        image = Image.open(file, formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            Status.TOO_LARGE, f"{name} exceeds Pillow's Image.MAX_IMAGE_PIXELS: {error}"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders answer damage with many types of exceptions
        file.seek(0)
        start = file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head", b"{", b"[")):
            reason = "it contains text (HTML, XML or JSON), perhaps the error page of a download"
        elif isinstance(error, UnidentifiedImageError):
            reason = f"it is none of {', '.join(_formats())}, or its header is damaged"
        else:
            reason = f"its header is damaged ({error})"
        raise InputError(Status.UNREADABLE, f"{name} is not a readable image: {reason}.") from error
    check_size(*image.size, name, max_pixels)
    with _damage_refused(name):
        note = _frame_note(image)
    return _load(image, name, max_pixels, note)


def _load(image: Image.Image, name: str, max_pixels: int, frame_note: list[str]) -> Decoded:
    check_size(*image.size, name, max_pixels)
    notes = list(frame_note)
    orientation = _orientation(image)
    if orientation is None:
        notes.append("damaged exif ignored")
    with _damage_refused(name):
        image.load()
    # Pillow's TIFF decoder applies the orientation; the other decoders leave it pending.
    pending = _orientation(image)
    if (orientation or 1) != 1:
        notes.append("exif rotated")
    return Decoded(image, orientation or 1, pending or 1, tuple(notes))


@contextmanager
def _damage_refused(name: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(
            Status.UNREADABLE,
            f"{name} cannot be decoded, it is truncated or damaged: "
            f"{type(error).__name__}: {error}. Write it again.",
        ) from error


def _frame_note(image: Image.Image) -> list[str]:
    """Return a note on an animation. Counting frames seeks, which discards loaded pixels."""
    # The further pictures of a JPEG (MPO) are depth or gain maps, not frames.
    if image.format == "MPO":
        return []
    frames, frame = getattr(image, "n_frames", 1), image.tell()
    if frames == 1:
        return []
    return [f"{'first frame' if frame == 0 else f'frame {frame + 1}'} of {frames}"]


def _orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation in 1..8; None if the EXIF data is damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:  # the data may be intact: ignoring it would leave the image on its side
        raise
    except Exception:  # damaged EXIF does not spoil the pixels
        return None
    # 0 and values above 8 occur in practice and have no meaning.
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
