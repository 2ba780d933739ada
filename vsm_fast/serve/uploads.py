"""Uploaded images: from a form to files under names of our own, within limits."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import anyio
import anyio.to_thread
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

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
        mask: Where its mask is, if one was sent.
    """

    name: str
    path: Path
    mask: Path | None


async def receive_images(
    request: Request, folder: Path, limits: Limits
) -> Mapping[str, list[UploadedImage]]:
    """Read the form of a request, its images into files of a folder.

    ``NAME_mask.png`` is the mask of ``NAME.jpg`` of the same side.

    Returns:
        The images of each of ``SIDES``, at least one each.

    Raises:
        HTTPException: 400 (no such form), 408, 413; its detail says what was wanted.
    """
    bounded = Request(request.scope, _bounded(request, limits.all_bytes + _FORM_OVERHEAD))
    try:
        with anyio.fail_after(limits.seconds):
            form = await bounded.form(max_files=limits.files, max_fields=0)
    except TimeoutError:
        raise HTTPException(408, f"The upload took over {limits.seconds:g} seconds.") from None
    except MultiPartException as error:
        raise HTTPException(400, f"Not a form that can be read: {error.message}") from None
    try:
        stored = await _stored(form, folder, limits)
    finally:
        await form.close()
    for side, images in stored.items():
        if not images:
            raise HTTPException(400, f"No image came as {side}.")
    return stored


async def _stored(form: FormData, folder: Path, limits: Limits) -> dict[str, list[UploadedImage]]:
    files: dict[str, list[UploadFile]] = {side: [] for side in SIDES}
    for field, file in form.multi_items():
        if field not in files or not isinstance(file, UploadFile):
            raise HTTPException(400, "The form may hold files reference and generation only.")
        files[field].append(file)
    _check(files, limits)
    return {
        side: await anyio.to_thread.run_sync(_store, listed, folder / side)
        for side, listed in files.items()
    }


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


def _store(files: list[UploadFile], folder: Path) -> list[UploadedImage]:
    """Write the files under their numbers: their own names never reach the file system."""
    folder.mkdir()
    names = [shown_name(file.filename) for file in files]
    paths = [folder / str(number) for number in range(len(files))]
    for file, path in zip(files, paths, strict=True):
        with path.open("wb") as target:
            shutil.copyfileobj(file.file, target)
    stems = [PureWindowsPath(name).stem for name in names]
    masks = {stem: path for stem, path in zip(stems, paths, strict=True) if stem.endswith("_mask")}
    images = [
        UploadedImage(name, path, masks.get(f"{stem}_mask"))
        for name, stem, path in zip(names, stems, paths, strict=True)
    ]
    owners = {f"{stem}_mask" for stem in stems}
    return [
        image for image, stem in zip(images, stems, strict=True)
        if not (stem in masks and stem in owners)
    ]  # fmt: skip


def shown_name(name: str | None) -> str:
    """The last part of a file name, printable and short."""
    last = PureWindowsPath(name or "").name  # knows both kinds of slashes
    text = "".join(character if character.isprintable() else "?" for character in last)
    return text[-_NAME_LENGTH:] or "unnamed"
