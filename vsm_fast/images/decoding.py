"""Image files and PIL images, decoded with every failure turned into an InputError.

Pixels are loaded but not converted here: images and masks read the same file differently.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from vsm_fast.errors import InputError, Status
from vsm_fast.images.stored import StoredImage

# Formats whose decoders only read pixels. EPS and PDF, for example, would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
MAX_PIXELS = 80_000_000  # below Pillow's own 89,478,485, above which it warns
MAX_PIXELS_VARIABLE = "VSM_FAST_MAX_PIXELS"

# Any other error means that there is something: links in a circle, no permission, a broken disk.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Decoded:
    """A decoded image whose pixels are not converted yet.

    Attributes:
        image: Loaded, of any mode; an open file is no longer needed.
        orientation: EXIF orientation in 1..8 of the stored image.
        pending: The part of it that is still to be applied to ``image``: ``orientation`` or 1.
        notes: What was noticed or left out.
    """

    image: Image.Image
    orientation: int
    pending: int
    notes: tuple[str, ...]


def default_max_pixels() -> int:
    """Largest width x height: what the environment's ``VSM_FAST_MAX_PIXELS`` says, or 80 million.

    Above 178,956,970 Pillow has a limit of its own, which ``Image.MAX_IMAGE_PIXELS`` moves.

    Raises:
        ValueError: The variable is no whole number above 0.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE, str(MAX_PIXELS))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{MAX_PIXELS_VARIABLE} must be a whole number above 0; got {text!r}.")
    return int(text)


def decode(
    source: str | os.PathLike[str] | Image.Image | StoredImage, max_pixels: int | None = None
) -> Decoded:
    """Decode a file, or load a PIL image, which stays open and unchanged.

    Args:
        source: A PNG, JPEG, WebP, BMP, TIFF, GIF, PPM or AVIF file, by its path or stored
            elsewhere, or a PIL image.
        max_pixels: Largest width x height, checked before pixels are decoded; None =
            :func:`default_max_pixels`.

    Raises:
        InputError: ``MISSING_FILE``, ``UNREADABLE`` (also a file that changed meanwhile) or
            ``TOO_LARGE``.
    """
    limit = default_max_pixels() if max_pixels is None else max_pixels
    name = "the PIL image"
    try:
        if isinstance(source, Image.Image):
            # Closed after one frame was loaded, it cannot count its frames any more.
            return _load(source, name, limit, _frame_note_if_open(source))
        if isinstance(source, StoredImage):
            name = source.name
            content = source.read()
            if not content:
                raise InputError(Status.UNREADABLE, f"{name} is empty (0 bytes).")
            return _decode_file(BytesIO(content), name, limit)
        name = os.fsdecode(source)
        return _decode_path(name, limit)
    except MemoryError as error:
        raise InputError(Status.TOO_LARGE, f"{name} does not fit into the memory.") from error


def _decode_path(name: str, limit: int) -> Decoded:
    _check_file(name)
    try:
        with Path(name).open("rb") as file:
            before = _version(file)
            decoded = _decode_file(file, name, limit)
            if _version(file) != before:
                raise InputError(
                    Status.UNREADABLE, f"{name} changed while it was read; let its writer finish."
                )
            return decoded
    except OSError as error:
        raise InputError(Status.UNREADABLE, f"{name} cannot be read: {error}.") from error


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Refuse images without pixels and images with too many.

    Raises:
        InputError: ``UNREADABLE`` or ``TOO_LARGE``.
    """
    if width < 1 or height < 1:
        raise InputError(Status.UNREADABLE, f"{name} has no pixels: it is {width} x {height}.")
    if width * height > max_pixels:
        raise InputError(
            Status.TOO_LARGE,
            f"{name} is {width} x {height} = {width * height:,} pixels; at most {max_pixels:,} "
            "are decoded. Scale it down first.",
        )


def orient(array: NDArray[_Scalar], orientation: int) -> NDArray[_Scalar]:
    """Turn a stored image as its EXIF orientation says.

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
        found = os.stat(name)  # noqa: PTH116 - Path("") would be the current folder
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, OSError) and error.errno not in _NOT_THERE:
            raise InputError(Status.UNREADABLE, f"{name} cannot be read: {error}.") from error
        address = re.match("[a-z][a-z0-9+]+:/", name, re.IGNORECASE)
        hint = " Addresses are not fetched; download it first." if address else ""
        raise InputError(Status.MISSING_FILE, f"{name!r} does not exist.{hint}") from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(Status.UNREADABLE, f"{name} is a folder; an image file was wanted.")
    if not stat.S_ISREG(found.st_mode):  # reading a pipe could wait for ever
        raise InputError(Status.UNREADABLE, f"{name} is not a regular file.")
    if found.st_size == 0:
        raise InputError(Status.UNREADABLE, f"{name} is empty (0 bytes); fetch or write it again.")


def _open(file: BinaryIO, name: str) -> Image.Image:
    try:
        return Image.open(file, formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            Status.TOO_LARGE, f"{name} is above Pillow's Image.MAX_IMAGE_PIXELS: {error}"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        # Decoders meet damaged files with exceptions of many types.
        file.seek(0)
        start = file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head", b"{", b"[")):
            reason = "it holds text (HTML, XML or JSON), perhaps the error page of a download"
        elif isinstance(error, UnidentifiedImageError):
            reason = f"it is none of {', '.join(_formats())}, or its header is damaged"
        else:
            reason = f"its header is damaged ({error})"
        raise InputError(
            Status.UNREADABLE, f"{name} is not an image that can be read: {reason}."
        ) from error


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Image.init()  # WebP and AVIF depend on how Pillow was built
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _version(file: BinaryIO) -> tuple[int, int]:
    """Size and time of the last change of an open file."""
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def _decode_file(file: BinaryIO, name: str, max_pixels: int) -> Decoded:
    image = _open(file, name)
    check_size(*image.size, name, max_pixels)
    try:
        note = _frame_note(image)
    except MemoryError:
        raise
    except Exception as error:  # as in _open; which frame it stands at now is not known
        raise _damaged(name, error) from error
    return _load(image, name, max_pixels, note)


def _load(image: Image.Image, name: str, max_pixels: int, frame_note: list[str]) -> Decoded:
    check_size(*image.size, name, max_pixels)
    notes = list(frame_note)
    orientation = _orientation(image)
    if orientation is None:
        notes.append("damaged exif ignored")
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error
    # Pillow's TIFF decoder turns the pixels itself, others leave it to the reader.
    pending = _orientation(image)
    if (orientation or 1) != 1:
        notes.append("exif rotated")
    return Decoded(image, orientation or 1, pending or 1, tuple(notes))


def _damaged(name: str, error: Exception) -> InputError:
    return InputError(
        Status.UNREADABLE,
        f"{name} cannot be decoded, it is truncated or damaged: "
        f"{type(error).__name__}: {error}. Write it again.",
    )


def _frame_note_if_open(image: Image.Image) -> list[str]:
    try:
        return _frame_note(image)
    except Exception:  # of many types; a damaged file shows itself when it is loaded
        return []


def _frame_note(image: Image.Image) -> list[str]:
    """A note on an animation; counting its frames moves, and discards pixels."""
    # The further pictures of a JPEG (MPO) are depth or gain maps, not frames.
    if image.format == "MPO":
        return []
    frames, frame = getattr(image, "n_frames", 1), image.tell()
    if frames == 1:
        return []
    return [f"{'first frame' if frame == 0 else f'frame {frame + 1}'} of {frames}"]


def _orientation(image: Image.Image) -> int | None:
    """EXIF orientation in 1..8; None if the EXIF data is damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:  # the data may be whole: without it the image would lie on its side
        raise
    except Exception:  # as above; a photograph with damaged EXIF is still a photograph
        return None
    # 0 and values above 8 occur in the wild and mean nothing.
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
