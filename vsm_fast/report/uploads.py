"""Uploads: from a multipart form to temporary files, within limits."""

from __future__ import annotations

import re
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, get_args

import anyio
import anyio.to_thread
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from vsm_fast.errors import PairingError
from vsm_fast.images.automatic_masks import AutoMask
from vsm_fast.images.mask_names import is_mask_name, match_masks

MaskChoice = Literal["auto", "whole"]  # without a mask: find the subject, or use the whole image
SIDES = ("reference", "generation")
_MAX_NAME = 120
_FORM_OVERHEAD = 64 * 1024  # bytes of boundaries and headers that a form adds to its files


@dataclass(frozen=True)
class Limits:
    """Limits of one request.

    Attributes:
        file_bytes: Bytes per file.
        all_bytes: Bytes of all files together.
        files: Number of files, masks included.
        references: Number of reference files, masks included.
        seconds: Time for the upload.
    """

    file_bytes: int = 32 * 2**20
    all_bytes: int = 256 * 2**20
    files: int = 64
    references: int = 8
    seconds: float = 60


@dataclass(frozen=True)
class UploadedImage:
    """Uploaded image.

    Attributes:
        name: Name of the upload, for display only.
        path: Temporary file.
        mask: Temporary file of its mask; else how to find one, if requested.
    """

    name: str
    path: Path
    mask: Path | AutoMask | None


async def receive_images(
    request: Request, folder: Path, limits: Limits, masks: MaskChoice
) -> Mapping[str, list[UploadedImage]]:
    """Read the form of a request and store its images in a folder.

    ``NAME_mask.png`` is the mask of ``NAME.jpg`` of the same side. For images without a mask, the
    form field ``masks`` decides.

    Args:
        request: Request.
        folder: Folder for the files.
        limits: Limits of the form.
        masks: Default of the form field.

    Returns:
        The images of each of ``SIDES``, at least one each.

    Raises:
        HTTPException: With 400 (invalid form), 408 or 413; the detail gives the reason.
    """
    bounded = Request(request.scope, _bounded(request, limits.all_bytes + _FORM_OVERHEAD))
    try:
        with anyio.fail_after(limits.seconds):
            form = await bounded.form(max_files=limits.files, max_fields=1)
    except TimeoutError:
        raise HTTPException(408, f"The upload took over {limits.seconds:g} seconds.") from None
    except MultiPartException as error:
        raise HTTPException(400, f"The form cannot be read: {error.message}") from None
    try:
        stored = await _store_form(form, folder, limits, masks)
    finally:
        await form.close()
    for side, images in stored.items():
        if not images:
            raise HTTPException(400, f"The form has no {side} image.")
    return stored


def _bounded(request: Request, limit: int) -> Callable[[], Awaitable[Any]]:
    """Return the receive function of a request, limited to ``limit`` bytes in any case."""
    announced = request.headers.get("content-length", "0")
    too_large = HTTPException(413, f"A request may have {limit / 2**20:.0f} MiB.")
    if not announced.isdecimal() or int(announced) > limit:
        raise too_large
    received = 0

    async def receive() -> Any:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large
        return message

    return receive


async def _store_form(
    form: FormData, folder: Path, limits: Limits, masks: MaskChoice
) -> dict[str, list[UploadedImage]]:
    files: dict[str, list[UploadFile]] = {side: [] for side in SIDES}
    choice: object = masks
    for field, value in form.multi_items():
        if field == "masks":
            choice = value
        elif field in files and isinstance(value, UploadFile):
            files[field].append(value)
        else:
            raise HTTPException(400, "A form has files reference and generation, and masks.")
    if choice not in get_args(MaskChoice):
        raise HTTPException(400, f"masks must be {' or '.join(get_args(MaskChoice))}.")
    if len(files["reference"]) > limits.references:
        raise HTTPException(413, f"At most {limits.references} references, masks included.")
    for file in (file for listed in files.values() for file in listed):
        if (file.size or 0) > limits.file_bytes:
            name, size = shown_name(file.filename), (file.size or 0) / 2**20
            limit = limits.file_bytes / 2**20
            raise HTTPException(413, f"{name} has {size:.0f} MiB; the limit is {limit:g} MiB.")
    finder = AutoMask(method="grabcut") if choice == "auto" else None
    try:
        if finder is not None:
            finder.load()
        return {
            side: await anyio.to_thread.run_sync(_store, listed, folder / side, finder)
            for side, listed in files.items()
        }
    except (ImportError, PairingError) as error:
        raise HTTPException(400, str(error)) from None


def _store(files: list[UploadFile], folder: Path, finder: AutoMask | None) -> list[UploadedImage]:
    """Write files under their numbers: uploaded names never reach the file system.

    Raises:
        PairingError: If the owner of a mask is ambiguous.
    """
    paths = {  # unique names; only the last part is compared
        f"{number}/{_last_part(file.filename)}": folder / f"{number:03d}"
        for number, file in enumerate(files)
    }
    images = [name for name in paths if not is_mask_name(name)]
    try:
        matches = match_masks(images, [name for name in paths if is_mask_name(name)])
        masks = {image: matches.of(image) for image in images}
    except PairingError as error:
        raise PairingError(_printable(re.sub(r"\d+/", "", str(error)))) from None
    for name, owners in matches.owners.items():
        if not owners:
            raise PairingError(
                f"{shown_name(name)} is named like a mask, but its image is missing. Add the "
                "image, or rename the file."
            )
    folder.mkdir()
    for file, path in zip(files, paths.values(), strict=True):
        with path.open("wb") as target:
            shutil.copyfileobj(file.file, target)
    return [
        UploadedImage(shown_name(image), paths[image], finder if mask is None else paths[mask])
        for image, mask in masks.items()
    ]


def _last_part(name: str | None) -> str:
    return PureWindowsPath(name or "").name  # splits at both kinds of slashes


def shown_name(name: str | None) -> str:
    """Return the last part of a file name, printable and short."""
    return _printable(_last_part(name))[-_MAX_NAME:] or "unnamed"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
