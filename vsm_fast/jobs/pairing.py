"""Pairing: from paths on the command line or a manifest to rows of references and generations.

Nothing is ever paired by sort order: two folders that happen to hold equally many files
would pair wrongly without anybody noticing.
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
from vsm_fast.jobs.records import Notes, some


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


def pair_paths(
    refs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    gens: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    ref_masks: str | os.PathLike[str] | None = None,
    gen_masks: str | os.PathLike[str] | None = None,
) -> Pairing:
    """Pair references and generations given as files or folders.

    Files or flat folders: one reference is paired with every generation, also with those in
    sub-folders; several are paired by equal file stems. Folders with sub-folders: a level of
    sub-folders of the generations that is named like the references (their sub-folders, or their
    files) is the subject, and the other level, if there is one, the generator; every generation
    is paired with each reference of its subject. Names are compared in NFC.

    ``NAME_mask.*`` beside ``NAME.*`` is its mask, never an image. Hidden files, and those that
    are no images by their suffix, are left out and counted.

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
    notes = Notes()
    places = [None if masks is None else Path(masks) for masks in (ref_masks, gen_masks)]
    skip = [place for place in places if place is not None]
    ref_paths, gen_paths = _paths(refs), _paths(gens)
    ref_side = read_side("references", ref_paths, skip, notes)
    again = gen_paths == ref_paths  # what is left out there is counted already
    gen_side = read_side("generations", gen_paths, skip, Notes() if again else notes)
    pairs = _paired(ref_side, gen_side, notes)

    lone: dict[Path, bool] = {}
    ref_found = find_masks(ref_side, [pair.ref for pair in pairs], places[0], lone)
    gen_found = find_masks(gen_side, [pair.gen for pair in pairs], places[1], lone)
    _refuse_shared_masks(ref_found, gen_found)
    for mask in (mask for mask, unused in lone.items() if unused):
        notes.leave_out("mask(s) of no image", str(mask))
    repeated = Counter(pair.gen for pair in pairs)
    rows = []
    for subject, generator, ref, gen in pairs:
        name = gen_side.name(gen)
        if repeated[gen] > 1:
            short = ref_side.name(ref)
            name += f"@{short.partition('/')[2] if ref_side.nested else short}"
        rows.append(PairRow(name, subject, ref, gen, ref_found[ref], gen_found[gen], generator))
    return Pairing(tuple(rows), notes.sentences())


class _Pair(NamedTuple):
    subject: str
    generator: str
    ref: Path
    gen: Path


def _paths(given: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(given, (str, os.PathLike)):
        return [Path(given)]
    return [Path(path) for path in given]


def _paired(refs: Side, gens: Side, notes: Notes) -> list[_Pair]:
    if not gens.nested:
        if refs.nested:
            raise PairingError(
                "the references have one sub-folder for each subject and the generations have "
                "none. Lay both out alike, or list the pairs in a manifest."
            )
        return _by_stem(refs, gens, gens.images, "")
    subjects = defaultdict(list)
    for ref in refs.images:
        subjects[refs.folders(ref)[0] if refs.nested else stem_of(ref.name)].append(ref)
    levels = [{_level(gens, gen, level) for gen in gens.images} for level in (0, 1)]
    fitting = [level for level in (0, 1) if levels[level] == subjects.keys()]
    if len(fitting) == 2 and len(subjects) > 1:
        raise PairingError(
            f"generations: both levels of sub-folders are called {some(sorted(subjects))}, so "
            "that either could be the subject. Rename the generators."
        )
    if fitting:
        return _by_subject(subjects, gens, fitting[0], notes)
    if refs.nested:
        nearer = max((0, 1), key=lambda level: len(levels[level] & subjects.keys()))
        raise PairingError(
            "both sides need sub-folders of the same names: "
            f"{_only({'references': {*subjects}, 'generations': levels[nearer]})}."
        )
    generators = defaultdict(list)
    for gen in gens.images:
        generators[_level(gens, gen, 0)].append(gen)
    return [
        pair
        for generator, images in generators.items()
        for pair in _by_stem(refs, gens, images, generator)
    ]


def _level(side: Side, image: Path, level: int) -> str:
    """Name of the sub-folder at a level, empty where an image lies higher."""
    folders = side.folders(image)
    return folders[level] if level < len(folders) else ""


def _by_subject(
    subjects: Mapping[str, list[Path]], gens: Side, level: int, notes: Notes
) -> list[_Pair]:
    """Each generation with all references of the subject that its sub-folder names."""
    pairs = []
    there: dict[str, set[str]] = defaultdict(set)
    for gen in gens.images:
        subject, generator = (_level(gens, gen, place) for place in (level, 1 - level))
        there[generator].add(subject)
        pairs += [_Pair(subject, generator, ref, gen) for ref in subjects[subject]]
    for generator, has in there.items():
        if generator and (lacking := sorted(subjects.keys() - has)):
            notes.say(f"generator {generator} has no generation of {some(lacking)}")
    return sorted(pairs, key=lambda pair: pair.subject)  # stable: else in the order of the files


def _by_stem(refs: Side, gens: Side, images: Sequence[Path], generator: str) -> list[_Pair]:
    """Generations with the one reference, or with those of the same names."""
    if len(refs.images) == 1:
        return [_Pair("", generator, refs.images[0], gen) for gen in images]
    ref_stems, gen_stems = _stems(refs.what, refs.images), _stems(gens.what, images)
    if ref_stems.keys() != gen_stems.keys():
        raise PairingError(
            f"{len(ref_stems)} references and {len(gen_stems)} generations"
            f"{generator and f' of {generator}'} pair up by equal file names (without suffix), "
            f"and they differ: {_only({refs.what: {*ref_stems}, gens.what: {*gen_stems}})}. "
            "Rename them, give one reference, use one sub-folder for each subject, or list the "
            "pairs in a manifest."
        )
    return [_Pair("", generator, ref_stems[stem], gen) for stem, gen in gen_stems.items()]


def _only(sides: Mapping[str, set[str]]) -> str:
    """The names that only one of two sides has."""
    common = set.intersection(*sides.values())
    alone = {what: sorted(names - common - {""}) for what, names in sides.items()}
    return "; ".join(
        f"{some(names)} only among the {what}" for what, names in alone.items() if names
    )


def _stems(what: str, images: Sequence[Path]) -> dict[str, Path]:
    stems = {image: stem_of(image.name) for image in images}
    twice = [stem for stem, n in Counter(stems.values()).items() if n > 1]
    if twice:
        raise PairingError(
            f"{what}: several files are called {some(twice)} apart from folder and suffix, "
            "so they cannot be paired by name. Rename them, or list the pairs in a manifest."
        )
    return {stem: image for image, stem in stems.items()}


def _refuse_shared_masks(refs: dict[Path, Path | None], gens: dict[Path, Path | None]) -> None:
    """One mask cannot fit two different images; it would be a guess whose it is."""
    owners = {os.path.realpath(mask): image for image, mask in refs.items() if mask}
    for image, mask in gens.items():
        owner = owners.get(os.path.realpath(mask)) if mask else None
        if owner is not None and os.path.realpath(owner) != os.path.realpath(image):
            raise PairingError(
                f"{mask} would be the mask of both {owner} and {image}. Keep the masks of "
                "references and generations in two folders: --ref-masks and --gen-masks."
            )
