"""Uploaded images: from a form to files under names of our own, within limits."""

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

MaskChoice = Literal["auto", "whole"]  # of images without a mask: find the subject, or all of it
SIDES = ("reference", "generation")
_NAME_LENGTH = 120
_FORM_OVERHEAD = 64 * 1024  # bytes of boundaries and headers that a form may add to its files


@dataclass(frozen=True)
class Limits:
    """What one request may hold, and how long it may take to arrive.

    Attributes:
        file_bytes: Of one file.
        all_bytes: Of all files together.
        files: How many, masks included.
        references: How many of them on the side of the references, masks included.
        seconds: Until all have arrived.
    """

    file_bytes: int = 32 * 2**20
    all_bytes: int = 256 * 2**20
    files: int = 64
    references: int = 8
    seconds: float = 60


@dataclass(frozen=True)
class UploadedImage:
    """An image of a form.

    Attributes:
        name: What its sender calls it, to be shown and for nothing else.
        path: Where it is, under a name of ours.
        mask: Where its mask is, if one was sent; else how to find one, if that was asked for.
    """

    name: str
    path: Path
    mask: Path | AutoMask | None


async def receive_images(
    request: Request, folder: Path, limits: Limits, masks: MaskChoice
) -> Mapping[str, list[UploadedImage]]:
    """Read the form of a request, its images into files of a folder.

    ``NAME_mask.png`` is the mask of ``NAME.jpg`` of the same side. For images without one the
    form's field ``masks`` decides.

    Args:
        request: The request.
        folder: For the files.
        limits: Of the form.
        masks: Counts where the form has no such field.

    Returns:
        The images of each of ``SIDES``, at least one each.

    Raises:
        HTTPException: 400 (no such form), 408, 413; its detail says what was wanted.
    """
    bounded = Request(request.scope, _bounded(request, limits.all_bytes + _FORM_OVERHEAD))
    try:
        with anyio.fail_after(limits.seconds):
            form = await bounded.form(max_files=limits.files, max_fields=1)
    except TimeoutError:
        raise HTTPException(408, f"The upload took over {limits.seconds:g} seconds.") from None
    except MultiPartException as error:
        raise HTTPException(400, f"Not a form that can be read: {error.message}") from None
    try:
        stored = await _stored(form, folder, limits, masks)
    finally:
        await form.close()
    for side, images in stored.items():
        if not images:
            raise HTTPException(400, f"No image came as {side}.")
    return stored


async def _stored(
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
            raise HTTPException(400, "The form may hold files reference and generation, and masks.")
    if choice not in get_args(MaskChoice):
        raise HTTPException(400, f"masks must be {' or '.join(get_args(MaskChoice))}.")
    _check(files, limits)
    found = AutoMask(method="grabcut") if choice == "auto" else None
    try:
        if found is not None:
            found.load()
        return {
            side: await anyio.to_thread.run_sync(_store, listed, folder / side, found)
            for side, listed in files.items()
        }
    except (ImportError, PairingError) as error:
        raise HTTPException(400, str(error)) from None


def _bounded(request: Request, limit: int) -> Callable[[], Awaitable[Any]]:
    """What the request receives, until it is more than ``limit`` bytes, whatever it announced."""
    announced = request.headers.get("content-length", "0")
    too_much = HTTPException(413, f"A request may hold {limit / 2**20:.0f} MiB.")
    if not announced.isdecimal() or int(announced) > limit:
        raise too_much
    received = 0

    async def receive() -> Any:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_much
        return message

    return receive


def _check(files: Mapping[str, list[UploadFile]], limits: Limits) -> None:
    if len(files["reference"]) > limits.references:
        raise HTTPException(413, f"At most {limits.references} references, masks included.")
    for file in (file for listed in files.values() for file in listed):
        if (file.size or 0) > limits.file_bytes:
            raise HTTPException(
                413,
                f"{shown_name(file.filename)} has {(file.size or 0) / 2**20:.0f} MiB; at most "
                f"{limits.file_bytes / 2**20:g} MiB a file.",
            )


def _store(files: list[UploadFile], folder: Path, masks: AutoMask | None) -> list[UploadedImage]:
    """Write the files under their numbers: their own names never reach the file system.

    Raises:
        PairingError: It would be a guess which mask belongs to which image.
    """
    paths = {  # by a name of its own for each, of which only the last part is compared
        f"{number}/{_last_part(file.filename)}": folder / f"{number:03d}"
        for number, file in enumerate(files)
    }
    images = [name for name in paths if not is_mask_name(name)]
    try:
        found = match_masks(images, [name for name in paths if is_mask_name(name)])
        of = {image: found.of(image) for image in images}
    except PairingError as error:
        raise PairingError(_printable(re.sub(r"\d+/", "", str(error)))) from None
    for name, owners in found.owners.items():
        if not owners:
            raise PairingError(
                f"{shown_name(name)} is named like a mask of an image that did not come with it. "
                "Add the image, or rename the file."
            )
    folder.mkdir()
    for file, path in zip(files, paths.values(), strict=True):
        with path.open("wb") as target:
            shutil.copyfileobj(file.file, target)
    return [
        UploadedImage(shown_name(image), paths[image], masks if mask is None else paths[mask])
        for image, mask in of.items()
    ]


def _last_part(name: str | None) -> str:
    return PureWindowsPath(name or "").name  # knows both kinds of slashes


def shown_name(name: str | None) -> str:
    """The last part of a file name, printable and short."""
    return _printable(_last_part(name))[-_NAME_LENGTH:] or "unnamed"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
