"""Pairing of references and generations from paths.

Images are never paired by sort order: two folders with equally many files would pair wrongly
without a sign of it.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vsm_fast.errors import PairingError
from vsm_fast.images.automatic_masks import AutoMask
from vsm_fast.images.mask_names import stem_of
from vsm_fast.images.storage import ImageLocation
from vsm_fast.jobs.folders import Side, find_masks, read_side
from vsm_fast.jobs.records import Notes, repeated, some


@dataclass(frozen=True)
class PairRow:
    """One pair to score.

    Attributes:
        id: Unique name of the pair.
        subject: Name of its subject, ``""`` without subjects.
        ref: Reference image.
        gen: Generated image.
        ref_mask: Subject mask of the reference; None = alpha channel or whole image; an
            ``AutoMask`` finds it.
        gen_mask: Subject mask of the generated image, with the same choices.
        generator: Name of the generator, ``""`` if unknown.
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
    """Pairs to score.

    Attributes:
        rows: Pairs, in a stable order.
        notes: Sentences for the user, such as unused columns or masks.
    """

    rows: tuple[PairRow, ...]
    notes: tuple[str, ...] = ()


PathOrPaths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def pair_paths(
    refs: PathOrPaths,
    gens: PathOrPaths,
    *,
    ref_masks: str | os.PathLike[str] | None = None,
    gen_masks: str | os.PathLike[str] | None = None,
) -> Pairing:
    """Pair references and generations from files or folders.

    Files or flat folders: a single reference pairs with every generation, including those in
    sub-folders; several references pair by file stem. Folders with sub-folders: the level of the
    generations' sub-folders that is named like the references (their sub-folders, or their files)
    is the subject; the other level, if present, is the generator. Every generation pairs with each
    reference of its subject. Names are compared in NFC.

    ``NAME_mask.*`` beside ``NAME.*`` is its mask, never an image. Hidden files, and files without
    an image suffix, are skipped and counted.

    Args:
        refs: One folder, or one or more image files.
        gens: Generated images, in the same form.
        ref_masks: Folder of masks laid out like ``refs``, named ``NAME.*`` or ``NAME_mask.*``;
            or one mask file for a single reference.
        gen_masks: Masks of ``gens``, in the same form. It may be the same folder.

    Raises:
        PairingError: If a pair or the owner of a mask is ambiguous.
    """
    notes = Notes()
    places = [None if masks is None else Path(masks) for masks in (ref_masks, gen_masks)]
    skip = [place for place in places if place is not None]
    ref_paths, gen_paths = (
        [Path(side)] if isinstance(side, (str, os.PathLike)) else [Path(path) for path in side]
        for side in (refs, gens)
    )
    ref_side = read_side("references", ref_paths, skip, notes)
    # Files skipped in a folder that is both sides are counted once.
    gen_side = read_side(
        "generations", gen_paths, skip, Notes() if gen_paths == ref_paths else notes
    )
    pairs = _pair_sides(ref_side, gen_side, notes)

    unused: dict[Path, bool] = {}
    masks_of_refs = find_masks(ref_side, [pair.ref for pair in pairs], places[0], unused)
    masks_of_gens = find_masks(gen_side, [pair.gen for pair in pairs], places[1], unused)
    _refuse_shared_masks(masks_of_refs, masks_of_gens)
    for mask in (mask for mask, is_unused in unused.items() if is_unused):
        notes.leave_out("mask(s) without an image", str(mask))
    count = Counter(pair.gen for pair in pairs)
    rows = []
    for subject, generator, ref, gen in pairs:
        name = gen_side.name(gen)
        if count[gen] > 1:
            short = ref_side.name(ref)
            name += f"@{short.partition('/')[2] if ref_side.nested else short}"
        masks = masks_of_refs[ref], masks_of_gens[gen]
        rows.append(PairRow(name, subject, ref, gen, *masks, generator))
    return Pairing(tuple(rows), notes.sentences())


class _Pair(NamedTuple):
    subject: str
    generator: str
    ref: Path
    gen: Path


def _pair_sides(refs: Side, gens: Side, notes: Notes) -> list[_Pair]:
    if not gens.nested:
        if refs.nested:
            raise PairingError(
                "the references have one sub-folder per subject and the generations have none. "
                "Lay both out alike, or list the pairs in a manifest."
            )
        return _pair_by_stem(refs, gens, gens.images, "")
    subjects = defaultdict(list)
    for ref in refs.images:
        subjects[refs.folders(ref)[0] if refs.nested else stem_of(ref.name)].append(ref)
    levels = [{_level(gens, gen, level) for gen in gens.images} for level in (0, 1)]
    subject_levels = [level for level in (0, 1) if levels[level] == subjects.keys()]
    if len(subject_levels) == 2 and len(subjects) > 1:
        raise PairingError(
            f"generations: both levels of sub-folders are named {some(sorted(subjects))}, so the "
            "subject level is ambiguous. Rename the generators."
        )
    if subject_levels:
        return _pair_by_subject(subjects, gens, subject_levels[0], notes)
    if refs.nested:
        nearer = max((0, 1), key=lambda level: len(levels[level] & subjects.keys()))
        names = {"references": {*subjects}, "generations": levels[nearer]}
        raise PairingError(f"both sides need sub-folders of the same names: {_unshared(names)}.")
    generators = defaultdict(list)
    for gen in gens.images:
        generators[_level(gens, gen, 0)].append(gen)
    return [
        pair
        for generator, images in generators.items()
        for pair in _pair_by_stem(refs, gens, images, generator)
    ]


def _level(side: Side, image: Path, level: int) -> str:
    """Return the name of an image's sub-folder at a level, empty for a shallower image."""
    folders = side.folders(image)
    return folders[level] if level < len(folders) else ""


def _pair_by_subject(
    subjects: Mapping[str, list[Path]], gens: Side, level: int, notes: Notes
) -> list[_Pair]:
    pairs = []
    subjects_of: dict[str, set[str]] = defaultdict(set)
    for gen in gens.images:
        subject, generator = (_level(gens, gen, place) for place in (level, 1 - level))
        subjects_of[generator].add(subject)
        pairs += [_Pair(subject, generator, ref, gen) for ref in subjects[subject]]
    for generator, names in subjects_of.items():
        if generator and (missing := sorted(subjects.keys() - names)):
            notes.say(f"generator {generator} has no generation of {some(missing)}")
    return sorted(pairs, key=lambda pair: pair.subject)  # stable: files keep their order


def _pair_by_stem(refs: Side, gens: Side, images: Sequence[Path], generator: str) -> list[_Pair]:
    """Pair generations with a single reference, or with references of the same stem."""
    if len(refs.images) == 1:
        return [_Pair("", generator, refs.images[0], gen) for gen in images]
    ref_stems, gen_stems = _stems(refs.label, refs.images), _stems(gens.label, images)
    if ref_stems.keys() != gen_stems.keys():
        raise PairingError(
            f"{len(ref_stems)} references and {len(gen_stems)} generations"
            f"{generator and f' of {generator}'} must have equal file names (without suffix), but "
            f"they differ: {_unshared({refs.label: {*ref_stems}, gens.label: {*gen_stems}})}. "
            "Rename them, pass one reference, use one sub-folder per subject, or list the pairs in "
            "a manifest."
        )
    return [_Pair("", generator, ref_stems[stem], gen) for stem, gen in gen_stems.items()]


def _unshared(sides: Mapping[str, set[str]]) -> str:
    """Return the names that only one of two sides has, as text."""
    common = set.intersection(*sides.values())
    alone = {label: sorted(names - common - {""}) for label, names in sides.items()}
    return "; ".join(
        f"{some(names)} only among the {label}" for label, names in alone.items() if names
    )


def _stems(label: str, images: Sequence[Path]) -> dict[str, Path]:
    stems = {image: stem_of(image.name) for image in images}
    if twice := repeated(stems.values()):
        raise PairingError(
            f"{label}: several files are named {some(twice)} apart from folder and suffix, so they "
            "cannot be paired by name. Rename them, or list the pairs in a manifest."
        )
    return {stem: image for image, stem in stems.items()}


def _refuse_shared_masks(refs: dict[Path, Path | None], gens: dict[Path, Path | None]) -> None:
    """Refuse one mask for two different images: its owner is ambiguous."""
    owners = {os.path.realpath(mask): image for image, mask in refs.items() if mask}
    for image, mask in gens.items():
        owner = owners.get(os.path.realpath(mask)) if mask else None
        if owner is not None and os.path.realpath(owner) != os.path.realpath(image):
            raise PairingError(
                f"{mask} would be the mask of both {owner} and {image}. Keep the masks of "
                "references and generations in two folders: --ref-masks and --gen-masks."
            )
