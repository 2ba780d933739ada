"""Images of one side (references or generations) and their mask files."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vsm_fast.errors import PairingError
from vsm_fast.images.mask_names import MASK_ENDING, is_mask_name, match_masks
from vsm_fast.images.storage import beside
from vsm_fast.jobs.records import Notes, is_hidden, repeated, some

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")


@dataclass(frozen=True)
class Side:
    """Images of one side.

    Attributes:
        label: ``"references"`` or ``"generations"``.
        root: Folder that image names are relative to; None = files of several folders.
        images: Image files, in a stable order.
        nested: Whether the images lie in sub-folders of ``root``.
    """

    label: str
    root: Path | None
    images: tuple[Path, ...]
    nested: bool = False

    def name(self, image: Path) -> str:
        """Return the unique name of an image, with its suffix."""
        return (image.relative_to(self.root) if self.root else image).as_posix()

    def folders(self, image: Path) -> tuple[str, ...]:
        """Return the names of an image's sub-folders in NFC, outermost first."""
        if not self.nested:
            return ()
        return tuple(unicodedata.normalize("NFC", self.name(image)).split("/")[:-1])


def read_side(label: str, paths: Sequence[Path], masks: Collection[Path], notes: Notes) -> Side:
    """List the images of one side.

    Args:
        label: Label of the :class:`Side`.
        paths: One folder, flat or with sub-folders; or files.
        masks: Mask folders, which contain no images.
        notes: Takes notes on skipped files.

    Raises:
        PairingError: If there is no image, or the paths are ambiguous.
    """
    if not paths:
        raise PairingError(f"no {label} were given; pass a folder, or one or more image files.")
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise PairingError(f"{label}: {some(missing)} does not exist.")
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise PairingError(
            f"{label}: pass one folder, or files only; got {len(paths)} paths and {folders[0]} is "
            "a folder."
        )
    if folders:
        return _read_folder(label, folders[0], {os.path.realpath(path) for path in masks}, notes)
    if twice := repeated(paths):
        raise PairingError(f"{label}: {some(twice)} is listed more than once.")
    images = {path for part in _split_masks(paths) for path in part}
    files = tuple(path for path in paths if path in images)
    return Side(label, files[0].parent if len(files) == 1 else None, files)


def _read_folder(label: str, root: Path, masks: Collection[str], notes: Notes) -> Side:
    images, folders = _images_in(root, notes)
    folders = [path for path in folders if os.path.realpath(path) not in masks]
    if images and folders:
        raise PairingError(
            f"{label}: {root} contains both images ({some(images)}) and sub-folders "
            f"({some(folders)}). Keep either images, or one sub-folder per subject."
        )
    if not images and not folders:
        raise PairingError(
            f"{label}: {root} contains no images; expected files ending in "
            f"{', '.join(IMAGE_SUFFIXES)}."
        )

    def walk(folder: Path, above: tuple[str, ...] = ()) -> list[Path]:
        real = os.path.realpath(folder)
        if real in above:  # a link to a parent folder
            return []
        files, inner = _images_in(folder, notes)
        return files + [image for path in inner for image in walk(path, (*above, real))]

    inside = {folder: walk(folder) for folder in folders}
    empty = [folder.name for folder, files in inside.items() if not files]
    if empty:
        raise PairingError(f"{label}: no images in {root} in sub-folder {some(empty)}.")
    images += [image for files in inside.values() for image in files]
    return Side(label, root, tuple(images), bool(folders))


def _images_in(folder: Path, notes: Notes) -> tuple[list[Path], list[Path]]:
    """Return the images and sub-folders of a folder."""
    files, folders = _entries(folder, notes)
    images, unmatched = _split_masks(files)
    for mask in unmatched:
        notes.leave_out("mask(s) without an image", str(mask))
    return images, folders


def _entries(folder: Path, notes: Notes) -> tuple[list[Path], list[Path]]:
    """Return the files with an image suffix and the folders of a folder, sorted by name."""
    files, folders = [], []
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            notes.leave_out("hidden or system file(s)", str(path))
        elif path.is_dir():
            folders.append(path)
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            notes.leave_out("file(s) without an image suffix", str(path))
        elif path.is_file():
            files.append(path)
    return files, folders


def _split_masks(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return the images, and the masks whose image is not among the paths."""
    images, unmatched = [], []
    for folder, files in _by_folder(paths).items():
        masks = [path.name for path in files if is_mask_name(path.name)]
        others = [path for path in files if not is_mask_name(path.name)]
        owners = match_masks((path.name for path in others), masks).owners
        images += others
        unmatched += [folder / mask for mask in masks if not owners[mask]]
    return images, unmatched


def _by_folder(paths: Iterable[Path]) -> Mapping[Path, list[Path]]:
    folders = defaultdict(list)
    for path in paths:
        folders[path.parent].append(path)
    return folders


def find_masks(
    side: Side, images: Iterable[Path], place: Path | None, unused: dict[Path, bool]
) -> dict[Path, Path | None]:
    """Return the mask file of each image.

    Args:
        side: Side of the images.
        images: Some images of the side.
        place: Mask folder laid out like the side, or one mask file; None = beside the images.
        unused: Receives each mask of a mask folder, and whether no image uses it.

    Raises:
        PairingError: If a mask folder lacks a mask, or the owner of a mask is ambiguous.
    """
    distinct = list(dict.fromkeys(images))
    if place is not None and place.is_file():
        if len(distinct) != 1:
            raise PairingError(
                f"{place} is one mask for {len(distinct)} {side.label}; pass a folder of masks."
            )
        return {distinct[0]: place}
    if place is not None and not place.is_dir():
        raise PairingError(f"masks of the {side.label}: {place} does not exist.")
    real = {os.path.realpath(image) for image in side.images}
    masks: dict[Path, Path | None] = {}
    for folder, here in _by_folder(distinct).items():
        where = folder
        if place is not None:
            inner = folder.relative_to(side.root).as_posix() if side.root else ""
            where = Path(beside(str(place / MASK_ENDING), inner))
        files = _entries(where, Notes())[0] if where.is_dir() else []
        files = [path for path in files if os.path.realpath(path) not in real]
        candidates = [path for path in files if place is not None or is_mask_name(path.name)]
        others = [path for path in files if place is None and not is_mask_name(path.name)]
        matches = match_masks(
            map(str, [*here, *others]), map(str, candidates), bare=place is not None
        )
        owned = {image: matches.of(str(image)) for image in here}
        masks |= {image: None if mask is None else Path(mask) for image, mask in owned.items()}
        if place is not None:
            for path in candidates:
                unused[path] = unused.get(path, True) and str(path) not in owned.values()
    lost = [image for image, mask in masks.items() if mask is None]
    if lost and place is not None:
        raise PairingError(
            f"{place} has no mask for {len(lost)} of {len(distinct)} {side.label}: "
            f"{some(lost)}. Expected NAME.png or NAME{MASK_ENDING}.png, in the same sub-folders as "
            "the images."
        )
    return masks
