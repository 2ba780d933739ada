"""The images of one side: those of a folder, or files; and the masks that belong to them."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vsm_fast.errors import PairingError
from vsm_fast.images.mask_names import MASK_ENDING, is_mask_name, match_masks
from vsm_fast.images.storage import beside
from vsm_fast.jobs.records import Notes, is_hidden, some

IMAGE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".avif",
)


@dataclass(frozen=True)
class Side:
    """The images of one side.

    Attributes:
        what: ``"references"`` or ``"generations"``.
        root: Folder that names start from; None = files of several folders.
        images: In a stable order.
        nested: Whether they lie in sub-folders of ``root``.
    """

    what: str
    root: Path | None
    images: tuple[Path, ...]
    nested: bool = False

    def name(self, image: Path) -> str:
        """Name of an image inside its side, with its suffix, which keeps it unique."""
        return (image.relative_to(self.root) if self.root else image).as_posix()

    def folders(self, image: Path) -> tuple[str, ...]:
        """Names in NFC of the sub-folders that an image is in, from the outermost on."""
        if not self.nested:
            return ()
        return tuple(unicodedata.normalize("NFC", self.name(image)).split("/")[:-1])


def read_side(what: str, paths: Sequence[Path], masks: Collection[Path], notes: Notes) -> Side:
    """List the images of one side.

    Args:
        what: Of :class:`Side`.
        paths: One folder, flat or of sub-folders; or files.
        masks: Folders of masks, which hold no images.
        notes: Told of files that are left out.

    Raises:
        PairingError: There is none, or the paths have no clear meaning.
    """
    if not paths:
        raise PairingError(f"no {what} were given; give a folder, or one or more image files.")
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise PairingError(f"{what}: {some(missing)} does not exist.")
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise PairingError(
            f"{what}: give one folder, or files only; got {len(paths)} paths and "
            f"{folders[0]} is a folder."
        )
    if folders:
        return _read_folder(what, folders[0], {os.path.realpath(folder) for folder in masks}, notes)
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise PairingError(f"{what}: {some(twice)} is given more than once.")
    kept = {path for found in _without_masks(paths) for path in found}
    images = tuple(path for path in paths if path in kept)
    return Side(what, images[0].parent if len(images) == 1 else None, images)


def _read_folder(what: str, root: Path, masks: Collection[str], notes: Notes) -> Side:
    images, folders = _images_in(root, notes)
    folders = [path for path in folders if os.path.realpath(path) not in masks]
    if images and folders:
        raise PairingError(
            f"{what}: {root} holds both images ({some(images)}) and sub-folders "
            f"({some(folders)}). Keep either images, or one sub-folder for each subject."
        )
    if not images and not folders:
        raise PairingError(
            f"{what}: {root} holds no images; wanted files ending in {', '.join(IMAGE_SUFFIXES)}."
        )
    inside = {folder: _walk(folder, (), notes) for folder in folders}
    empty = [folder.name for folder, found in inside.items() if not found]
    if empty:
        raise PairingError(f"{what}: no images in {root} in sub-folder {some(empty)}.")
    images += [image for found in inside.values() for image in found]
    return Side(what, root, tuple(images), bool(folders))


def _walk(folder: Path, above: tuple[str, ...], notes: Notes) -> list[Path]:
    """Images below a folder; a link back to a folder above is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return []
    images, folders = _images_in(folder, notes)
    for inner in folders:
        images += _walk(inner, (*above, real), notes)
    return images


def _images_in(folder: Path, notes: Notes) -> tuple[list[Path], list[Path]]:
    """Images and sub-folders in a folder."""
    files, folders = _entries(folder, notes)
    images, lone = _without_masks(files)
    for mask in lone:
        notes.leave_out("mask(s) of no image", str(mask))
    return images, folders


def _entries(folder: Path, notes: Notes) -> tuple[list[Path], list[Path]]:
    """Files with the suffix of an image and folders in a folder, sorted by name."""
    files, folders = [], []
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            notes.leave_out("hidden or system file(s)", str(path))
        elif path.is_dir():
            folders.append(path)
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            notes.leave_out("file(s) without the suffix of an image", str(path))
        elif path.is_file():
            files.append(path)
    return files, folders


def _without_masks(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Images, and masks whose image is not among the paths."""
    images, lone = [], []
    for folder, here in _by_folder(paths).items():
        masks = [path.name for path in here if is_mask_name(path.name)]
        found = [path for path in here if not is_mask_name(path.name)]
        owners = match_masks((path.name for path in found), masks).owners
        images += found
        lone += [folder / mask for mask in masks if not owners[mask]]
    return images, lone


def _by_folder(paths: Iterable[Path]) -> Mapping[Path, list[Path]]:
    folders = defaultdict(list)
    for path in paths:
        folders[path.parent].append(path)
    return folders


def find_masks(
    side: Side, images: Iterable[Path], place: Path | None, unused: dict[Path, bool]
) -> dict[Path, Path | None]:
    """The mask of each image.

    Args:
        side: Of the images.
        images: Some of the side's.
        place: Folder of masks laid out like the side, or one mask file; None = beside the images.
        unused: Takes up the masks of a folder, and whether none of the images has them.

    Raises:
        PairingError: A mask is missing in a folder of masks, or it would be a guess whose it is.
    """
    distinct = list(dict.fromkeys(images))
    if place is not None and place.is_file():
        if len(distinct) != 1:
            raise PairingError(
                f"{place} is one mask for {len(distinct)} {side.what}; give a folder of masks."
            )
        return {distinct[0]: place}
    if place is not None and not place.is_dir():
        raise PairingError(f"masks of the {side.what}: {place} does not exist.")
    real = {os.path.realpath(image) for image in side.images}
    found: dict[Path, Path | None] = {}
    for folder, here in _by_folder(distinct).items():
        where = folder
        if place is not None:
            inner = folder.relative_to(side.root).as_posix() if side.root else ""
            where = Path(beside(str(place / MASK_ENDING), inner))
        files = _entries(where, Notes())[0] if where.is_dir() else []
        files = [path for path in files if os.path.realpath(path) not in real]
        masks = [path for path in files if place is not None or is_mask_name(path.name)]
        others = [path for path in files if place is None and not is_mask_name(path.name)]
        names = match_masks(map(str, [*here, *others]), map(str, masks), bare=place is not None)
        here_found = {image: names.of(str(image)) for image in here}
        found |= {image: None if mask is None else Path(mask) for image, mask in here_found.items()}
        if place is not None:
            used = {*here_found.values()}
            unused |= {path: unused.get(path, True) and str(path) not in used for path in masks}
    lost = [image for image, mask in found.items() if mask is None]
    if lost and place is not None:
        raise PairingError(
            f"{place} holds no mask for {len(lost)} of {len(distinct)} {side.what}: "
            f"{some(lost)}. Wanted NAME.png or NAME{MASK_ENDING}.png, in sub-folders like the "
            "images'."
        )
    return found
