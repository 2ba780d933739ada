"""Pairing: from paths on the command line or a manifest to rows of references and generations.

Nothing is ever paired by sort order: two folders that happen to hold equally many files
would pair wrongly without anybody noticing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vsm_fast.errors import PairingError
from vsm_fast.images.automatic_masks import AutoMask
from vsm_fast.images.stored import ImageLocation

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
MASK_ENDING = "_mask"


@dataclass(frozen=True)
class PairRow:
    """One pair to score.

    Attributes:
        id: unique name of the pair.
        subject: name of its subject, ``""`` when there are no subjects.
        ref: the reference image.
        gen: the generated image.
        ref_mask: subject mask of the reference; None = alpha channel or whole image; an
            ``AutoMask`` finds it.
        gen_mask: the same for the generated image.
        generator: name of what generated it, ``""`` when it is not known.
    """

    id: str
    subject: str
    ref: ImageLocation
    gen: ImageLocation
    ref_mask: ImageLocation | AutoMask | None = None
    gen_mask: ImageLocation | AutoMask | None = None
    generator: str = ""


@dataclass(frozen=True)
class Pairing:
    """Rows to score, and what was passed over on the way.

    Attributes:
        rows: the pairs, in a stable order.
        notes: sentences for the user, such as columns or masks that nothing uses.
    """

    rows: tuple[PairRow, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Side:
    """The images of one side: flat, or by subject (then ``flat`` is empty)."""

    what: str
    root: Path | None
    flat: tuple[Path, ...] = ()
    subjects: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    unused_masks: tuple[Path, ...] = ()

    def name(self, image: Path) -> str:
        """Name of an image inside its side, with its suffix, which keeps it unique."""
        return (image.relative_to(self.root) if self.root else image).as_posix()


def pair_paths(
    refs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    gens: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    ref_masks: str | os.PathLike[str] | None = None,
    gen_masks: str | os.PathLike[str] | None = None,
) -> Pairing:
    """Pair references and generations given as files or folders.

    Folders with sub-folders: each sub-folder is a subject, both sides need the same ones, and
    every generation is paired with each reference of its subject. Files or flat folders: one
    reference is paired with every generation; several are paired by equal file stems. Hidden
    files are passed over, and ``NAME_mask.*`` beside ``NAME.*`` is its mask, never an image.

    Args:
        refs: one folder, or one or more image files.
        gens: the same for the generated images.
        ref_masks: folder of masks laid out like ``refs``, named ``NAME.*`` or ``NAME_mask.*``;
            or one mask file when there is one reference file.
        gen_masks: the same for the generated images. It may be the same folder.

    Raises:
        PairingError: the images cannot be paired, or a mask cannot be assigned, without
            guessing.
    """
    skip = [Path(folder) for folder in (ref_masks, gen_masks) if folder is not None]
    ref_side = _read_side("references", _paths(refs), skip)
    gen_side = _read_side("generations", _paths(gens), skip)
    triples = _by_subject(ref_side, gen_side) if ref_side.subjects else _flat(ref_side, gen_side)

    ref_found = _find_masks(ref_side, [ref for _, ref, _ in triples], ref_masks)
    gen_found = _find_masks(gen_side, [gen for _, _, gen in triples], gen_masks)
    _refuse_shared_masks(ref_found, gen_found)
    repeated = Counter(gen for _, _, gen in triples)
    rows = []
    for subject, ref, gen in triples:
        name = gen_side.name(gen)
        if repeated[gen] > 1:
            name += f"@{ref_side.name(ref).removeprefix(subject + '/')}"
        rows.append(PairRow(name, subject, ref, gen, ref_found[ref], gen_found[gen]))
    unused = sorted({*ref_side.unused_masks, *gen_side.unused_masks})
    notes = [f"{path} is named like a mask of an image that is not there; it is not used"
             for path in unused]  # fmt: skip
    return Pairing(tuple(rows), tuple(notes))


def _paths(given: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(given, (str, os.PathLike)):
        return [Path(given)]
    return [Path(path) for path in given]


def _read_side(what: str, paths: list[Path], skip: list[Path]) -> _Side:
    """List the images of one side."""
    if not paths:
        raise PairingError(f"no {what} were given; give a folder, or one or more image files.")
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise PairingError(f"{what}: {_some(missing)} does not exist.")
    folders = [path for path in paths if path.is_dir()]
    if folders and len(paths) > 1:
        raise PairingError(
            f"{what}: give one folder, or files only; got {len(paths)} paths and "
            f"{folders[0]} is a folder."
        )
    if not folders:
        return _Side(what, paths[0].parent if len(paths) == 1 else None, _distinct(what, paths))
    return _read_folder(what, folders[0], skip)


def _distinct(what: str, paths: list[Path]) -> tuple[Path, ...]:
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise PairingError(f"{what}: {_some(twice)} is given more than once.")
    return tuple(paths)


def _read_folder(what: str, root: Path, skip: list[Path]) -> _Side:
    """List a folder: flat, or one sub-folder a subject."""
    files, folders = _entries(root)
    # A folder of masks inside the folder of images is not a subject.
    folders = [path for path in folders if not any(_same(path, other) for other in skip)]
    images, unused = _split_masks(files)
    if images and folders:
        raise PairingError(
            f"{what}: {root} holds both images ({_some(images)}) and sub-folders "
            f"({_some(folders)}). Keep either images, or one sub-folder for each subject."
        )
    if not folders:
        if not images:
            raise PairingError(
                f"{what}: {root} holds no images; wanted files ending in "
                f"{', '.join(IMAGE_SUFFIXES)}."
            )
        return _Side(what, root, tuple(images), unused_masks=tuple(unused))
    subjects = {}
    for folder in folders:
        found, extra = _walk(folder, ())
        unused += extra
        subjects[folder.name] = tuple(found)
    empty = [name for name, found in subjects.items() if not found]
    if empty:
        raise PairingError(f"{what}: no images in {root} for subject {_some(empty)}.")
    return _Side(what, root, subjects=subjects, unused_masks=tuple(unused))


def _walk(folder: Path, above: tuple[str, ...]) -> tuple[list[Path], list[Path]]:
    """Images and unused masks below a folder; a link back to a folder above is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return [], []
    files, folders = _entries(folder)
    images, unused = _split_masks(files)
    for inner in folders:
        more_images, more_unused = _walk(inner, (*above, real))
        images += more_images
        unused += more_unused
    return images, unused


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Image files and folders in a folder, sorted by name, hidden ones left out."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = [path for path in entries if path.is_dir()]
    files = [path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    return files, folders


def _split_masks(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Images, and masks whose image is not there."""
    images = [path for path in files if not path.stem.endswith(MASK_ENDING)]
    stems = {path.stem for path in images}
    masks = [path for path in files if path.stem.endswith(MASK_ENDING)]
    return images, [path for path in masks if path.stem.removesuffix(MASK_ENDING) not in stems]


def _by_subject(refs: _Side, gens: _Side) -> list[tuple[str, Path, Path]]:
    if not gens.subjects:
        raise PairingError(
            "the references have one sub-folder for each subject and the generations have none. "
            "Lay both out alike, or list the pairs in a manifest."
        )
    only_refs = sorted(refs.subjects.keys() - gens.subjects.keys())
    only_gens = sorted(gens.subjects.keys() - refs.subjects.keys())
    if only_refs or only_gens:
        parts = [
            f"{_some(names)} only on the side of the {side.what}"
            for side, names in ((refs, only_refs), (gens, only_gens))
            if names
        ]
        raise PairingError(f"both sides need sub-folders of the same names: {'; '.join(parts)}.")
    return [
        (subject, ref, gen)
        for subject in sorted(refs.subjects)
        for gen in gens.subjects[subject]
        for ref in refs.subjects[subject]
    ]


def _flat(refs: _Side, gens: _Side) -> list[tuple[str, Path, Path]]:
    if gens.subjects:
        raise PairingError(
            "the generations have one sub-folder for each subject and the references have none. "
            "Lay both out alike, or list the pairs in a manifest."
        )
    if len(refs.flat) == 1:
        return [("", refs.flat[0], gen) for gen in gens.flat]
    by_stem = {side.what: _stems(side) for side in (refs, gens)}
    ref_stems, gen_stems = by_stem[refs.what], by_stem[gens.what]
    if ref_stems.keys() != gen_stems.keys():
        alone = [
            f"{_some(sorted(mine.keys() - other.keys()))} only among the {side.what}"
            for side, mine, other in ((refs, ref_stems, gen_stems), (gens, gen_stems, ref_stems))
            if mine.keys() - other.keys()
        ]
        raise PairingError(
            f"{len(refs.flat)} references and {len(gens.flat)} generations pair up by equal file "
            f"names (without suffix), and they differ: {'; '.join(alone)}. Rename them, give one "
            "reference, use one sub-folder for each subject, or list the pairs in a manifest."
        )
    return [("", ref_stems[stem], gen) for stem, gen in gen_stems.items()]


def _stems(side: _Side) -> dict[str, Path]:
    twice = [stem for stem, n in Counter(path.stem for path in side.flat).items() if n > 1]
    if twice:
        raise PairingError(
            f"{side.what}: several files are called {_some(twice)} apart from folder and suffix, "
            "so they cannot be paired by name. Rename them, or list the pairs in a manifest."
        )
    return {path.stem: path for path in side.flat}


def _find_masks(
    side: _Side, images: Iterable[Path], masks: str | os.PathLike[str] | None
) -> dict[Path, Path | None]:
    """The mask of each image: from the folder of masks if given, else beside the image."""
    distinct = list(dict.fromkeys(images))
    if masks is None:
        return {image: _mask_in(image.parent, image, MASK_ENDING) for image in distinct}
    place = Path(masks)
    if place.is_file():
        if len(distinct) != 1:
            raise PairingError(
                f"{place} is one mask for {len(distinct)} {side.what}; give a folder of masks."
            )
        return {distinct[0]: place}
    if not place.is_dir():
        raise PairingError(f"masks of the {side.what}: {place} does not exist.")
    found: dict[Path, Path | None] = {}
    for image in distinct:
        inner = image.relative_to(side.root).parent if side.root else Path()
        found[image] = _mask_in(place / inner, image, "", MASK_ENDING)
    lost = [image for image, mask in found.items() if mask is None]
    if lost:
        raise PairingError(
            f"{place} holds no mask for {len(lost)} of {len(distinct)} {side.what}: "
            f"{_some(lost)}. Wanted NAME.png or NAME{MASK_ENDING}.png, in sub-folders like the "
            "images'."
        )
    return found


def _mask_in(folder: Path, image: Path, *endings: str) -> Path | None:
    """The one file in ``folder`` named as the mask of ``image``; never the image itself."""
    names = [f"{image.stem}{ending}{suffix}" for ending in endings for suffix in IMAGE_SUFFIXES]
    found = [path for name in names if (path := folder / name).is_file()]
    found = [path for path in found if not _same(path, image)]
    if len(found) > 1:
        raise PairingError(f"{image} has more than one mask: {_some(found)}. Keep one.")
    return found[0] if found else None


def _refuse_shared_masks(refs: dict[Path, Path | None], gens: dict[Path, Path | None]) -> None:
    """One mask cannot fit two different images; it would be a guess whose it is."""
    owners = {os.path.realpath(mask): image for image, mask in refs.items() if mask}
    for image, mask in gens.items():
        owner = owners.get(os.path.realpath(mask)) if mask else None
        if owner is not None and not _same(owner, image):
            raise PairingError(
                f"{mask} would be the mask of both {owner} and {image}. Keep the masks of "
                "references and generations in two folders: --ref-masks and --gen-masks."
            )


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _some(names: Sequence[object]) -> str:
    """At most five names, and how many more there are."""
    text = ", ".join(str(name) for name in names[:5])
    return text if len(names) <= 5 else f"{text} and {len(names) - 5} more"
