"""The benchmark: the controlled pairs behind the project's own figures, and its job.

Most pairs are two *different photographs* of a held-out subject with an altered part, its share
of the subject uniform up to 0.6. One in eight is unaltered. Pairs of two subjects follow. Subjects,
alterations and unaltered pairs are balanced and drawn independently.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from vsm_fast.errors import PairingError
from vsm_fast.lab.pairs.alterations import KINDS, alter, random_part
from vsm_fast.lab.pairs.pairs import ControlledPair, Pixels
from vsm_fast.lab.pairs.photographs import Photograph, frame_photograph, load_photographs

MAX_SHARE = 0.6
MIN_SHARE = 0.01  # smaller parts are a few pixels wide and vanish in their soft edge
UNALTERED_EVERY = 8
OTHERS_EVERY = 4  # pairs of one subject per pair of two subjects

_T = TypeVar("_T")


class Benchmark(Sequence[ControlledPair]):
    """The pairs of the benchmark by number, created on access.

    ``count`` pairs of one subject come first, then ``count // 4`` pairs of two subjects. View 1 is
    altered, view 2 is another photograph. Every pair depends on ``count`` and ``seed``: a smaller
    benchmark is not a prefix of a larger one.

    Args:
        photos: Photographs of held-out subjects; those without a mask are skipped.
        donors: Sources of texture for alterations, uint8 [H, W, 3].
        kinds: Alterations from ``vsm_fast.lab.pairs.alterations.KINDS``.
        count: Pairs of one subject.
        seed: Seed of all draws.
        size: Side of the images in pixels.
        inputs: Record of the loaded photographs, JSON values; kept as an attribute.

    Raises:
        PairingError: If a subject has fewer than two photographs with a mask, or there are no
            subjects, no donors, or a single subject for pairs of two.
        ValueError: If the count is below 1 or a kind is unknown.

    Source: arXiv 2509.21989, evaluation, for the oracle. The mix of pairs is this project's.
    """

    def __init__(
        self,
        photos: Sequence[Photograph],
        donors: Sequence[Pixels],
        kinds: Sequence[str],
        count: int,
        seed: int,
        *,
        size: int = 256,
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if count < 1 or not kinds or unknown:
            raise ValueError(
                f"the benchmark needs at least 1 pair and kinds of {', '.join(KINDS)}; got "
                f"{count} and {', '.join(kinds) or 'no kind'}."
            )
        subjects: defaultdict[str, list[Photograph]] = defaultdict(list)
        for photo in photos:
            if photo.masked:
                subjects[photo.subject].append(photo)
        single = sorted(name for name, images in subjects.items() if len(images) < 2)
        if not subjects or single:
            raise PairingError(
                "the benchmark pairs different photographs of a subject, so every subject needs "
                f"two with a mask. Too few: {', '.join(single) or 'no photograph has a mask'}. "
                "Leave such subjects out, or add masks."
            )
        if len(subjects) < 2 and count >= OTHERS_EVERY:
            raise PairingError(
                f"pairs of two subjects need a second subject; got only {next(iter(subjects))}."
            )
        if not donors:
            raise PairingError("alterations need at least one donor image; got none.")
        self._subjects, self._donors = dict(subjects), donors
        self._count, self._seed, self._size = count, seed, size
        self.inputs: Mapping[str, Any] = inputs or {}
        # SeedSequence keeps the draws of the plan apart from those of the pairs.
        plan = np.random.default_rng((seed, 0))
        names = sorted(subjects)
        self._names = _balanced(names, count, plan)
        self._kinds = _balanced(list(kinds), count, plan)
        self._unaltered = _balanced([True] + [False] * (UNALTERED_EVERY - 1), count, plan)
        self._others = _balanced(names, count // OTHERS_EVERY, plan)

    def __len__(self) -> int:
        return self._count + len(self._others)

    def make(self, number: int) -> tuple[ControlledPair, list[str]]:
        """Return pair ``number``; the benchmark rejects no pair."""
        return self[number], []

    def __getitem__(self, number: int) -> ControlledPair:  # type: ignore[override]
        number = range(len(self))[number]  # checks the bounds
        two_subjects = number >= self._count
        if two_subjects:
            number -= self._count
            name, kind = self._others[number], "other subject"
            rng = np.random.default_rng((self._seed, 2, number))
            other = str(
                rng.choice([subject for subject in sorted(self._subjects) if subject != name])
            )
            photos = [
                self._subjects[subject][int(rng.integers(len(self._subjects[subject])))]
                for subject in (other, name)
            ]
        else:
            name = self._names[number]
            kind = "none" if self._unaltered[number] else self._kinds[number]
            rng = np.random.default_rng((self._seed, 1, number))
            candidates = self._subjects[name]
            photos = [candidates[int(n)] for n in rng.choice(len(candidates), 2, replace=False)]
        original_1, mask_1 = frame_photograph(photos[0], rng, self._size)
        original_2, mask_2 = frame_photograph(photos[1], rng, self._size)
        altered, part = original_1, mask_1 if two_subjects else np.zeros_like(mask_1)
        provenance: dict[str, object] = {
            "protocol": "benchmark", "seed": self._seed, "number": number, "count": self._count,
            "photographs": [photo.origin for photo in photos],
        }  # fmt: skip
        if kind in KINDS:
            share = float(rng.uniform(MIN_SHARE, MAX_SHARE))
            region = random_part(rng, mask_1, area_share=(share, share))
            donor = self._donors[int(rng.integers(len(self._donors)))]
            altered, part = alter(kind, original_1, region, mask_1, rng, donor=donor)
            part &= mask_1
            provenance["share"] = share
        return ControlledPair(
            id=f"{name}-other-{number:04d}" if two_subjects else f"{name}-{number:04d}",
            subject=name,
            view="photo",
            kind=kind,
            original_1=original_1,
            original_2=original_2,
            altered_1=altered,
            mask_1=mask_1,
            mask_2=mask_2,
            part_1=part,
            provenance=provenance,
        )


def _balanced(choices: Sequence[_T], count: int, rng: np.random.Generator) -> list[_T]:
    """Draw ``count`` choices in random order, all about equally often."""
    return [choices[n] for n in rng.permutation(np.arange(count) % len(choices))]


@dataclass(frozen=True)
class BenchmarkJob:
    """The benchmark as a job of ``make-pairs``; equal jobs make equal images.

    Attributes:
        source: Folder with a sub-folder per subject; a photograph takes part if it has a
            ``NAME_mask.png``.
        count: Pairs of one subject; ``count // 4`` pairs of two subjects follow.
        seed: Seed of all draws.
        subjects: Sub-folders of the held-out subjects; all if empty.
        donors_from: Sub-folders of photographs that lend textures, with or without masks; their
            order is part of the job. All but ``subjects`` if empty.
        excluded: Sub-folders to leave out of both.
        kinds: Alterations; all if empty.
        size: Side of the images in pixels.
    """

    protocol: ClassVar[str] = "benchmark"
    growing: ClassVar[bool] = False  # a larger benchmark draws other pairs

    source: str
    count: int
    seed: int = 0
    subjects: tuple[str, ...] = ()
    donors_from: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    size: int = 256

    def __post_init__(self) -> None:
        if self.size < 64:
            raise ValueError(f"size must be at least 64 pixels; got {self.size}.")

    @property
    def total(self) -> int:
        """Return the number of pairs of one and two subjects."""
        return self.count + self.count // OTHERS_EVERY

    def open(self) -> Benchmark:
        """Load the photographs.

        Raises:
            PairingError: If the source is not such a folder, a named subject is missing or has no
                photograph with a mask, or the benchmark refuses the photographs.
            ValueError: If a kind is unknown.
        """
        root = Path(self.source)
        folders = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        if not folders:
            raise PairingError(
                f"{root} is not a folder with sub-folders. The benchmark needs one sub-folder of "
                "photographs per subject."
            )
        named = (*self.subjects, *self.donors_from, *self.excluded)
        unknown = [name for name in dict.fromkeys(named) if name not in folders]
        if unknown:
            raise PairingError(
                f"{root} has no sub-folder {', '.join(unknown)}; it has {', '.join(folders)}."
            )

        def without(names: Sequence[str], *others: Sequence[str]) -> tuple[str, ...]:
            return tuple(n for n in dict.fromkeys(names) if not any(n in other for other in others))

        subjects = without(self.subjects or folders, self.excluded)
        donors_from = without(self.donors_from, self.excluded)
        if not self.donors_from:
            donors_from = without(folders, self.excluded, subjects)
        if not subjects or not donors_from:
            raise PairingError(
                f"no sub-folder of {root} remains for the {'donors' if subjects else 'subjects'}. "
                "Select subjects and the folders to take donors from."
            )
        photographs, donors = (load_photographs(root, names) for names in (subjects, donors_from))
        usable = Counter(photo.subject for photo in photographs if photo.masked)
        maskless = [name for name in self.subjects if name not in usable]
        if maskless:
            raise PairingError(
                f"no photograph of {', '.join(maskless)} has a mask. Add NAME_mask.png beside "
                "NAME.jpg for at least two photographs of each subject."
            )
        return Benchmark(
            photographs,
            [photo.pixels for photo in donors],
            self.kinds or KINDS,
            self.count,
            self.seed,
            size=self.size,
            inputs={
                "photographs": dict(usable),
                "without_mask": len(photographs) - usable.total(),
                "donors": dict(Counter(photo.subject for photo in donors)),
            },
        )
