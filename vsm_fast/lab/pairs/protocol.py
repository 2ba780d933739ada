"""The benchmark: controlled pairs as the project's own figures are measured on.

Pairs of *different photographs* of subjects that were held back, a part altered by a share of
the subject that is uniform up to 0.6, one pair in eight unaltered, and pairs of two subjects.
Subjects, kinds and unaltered pairs are drawn in equal numbers and independently of each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeVar, overload

import numpy as np

from vsm_fast.errors import PairingError
from vsm_fast.lab.pairs.alterations import KINDS, alter, random_part
from vsm_fast.lab.pairs.framing import frame_photograph
from vsm_fast.lab.pairs.pairs import ControlledPair, Mask, Pixels
from vsm_fast.lab.pairs.photographs import Photograph

MAX_SHARE = 0.6
MIN_SHARE = 0.01  # smaller parts are a few pixels wide and vanish in their soft edge
UNALTERED_EVERY = 8
OTHERS_EVERY = 4  # one pair of two subjects for so many pairs of one

_T = TypeVar("_T")


class Benchmark(Sequence[ControlledPair]):
    """The pairs of the benchmark by number; each is made when it is asked for.

    ``count`` pairs of one subject, then ``count // 4`` of two. Which pair a number stands for
    depends on ``count`` and ``seed`` too, so that a smaller benchmark is no part of a larger one.

    Args:
        photos: Of held-back subjects; those without a mask are skipped.
        donors: uint8 [H, W, 3], what alterations paste.
        kinds: Alterations, of ``vsm_fast.lab.pairs.alterations.KINDS``.
        count: Pairs of one subject.
        seed: Of all draws.
        size: Side of the images in pixels.

    Raises:
        PairingError: A subject has fewer than two masked photographs, or there is no subject,
            no donor, or only one subject for pairs of two.
        ValueError: A count below 1 or an unknown kind.

    Source: arXiv 2509.21989, evaluation, for the oracle; the mix of pairs is this project's.
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
    ) -> None:
        self._subjects = _by_subject(photos)
        _check(self._subjects, donors, kinds, count)
        self._donors, self._count, self._seed, self._size = donors, count, seed, size
        # SeedSequence keeps the plan's draws apart from those of the pairs.
        plan = np.random.default_rng((seed, 0))
        self._names = _balanced(sorted(self._subjects), count, plan)
        self._kinds = _balanced(list(kinds), count, plan)
        self._unaltered = _balanced([True] + [False] * (UNALTERED_EVERY - 1), count, plan)
        self._others = _balanced(sorted(self._subjects), count // OTHERS_EVERY, plan)

    def __len__(self) -> int:
        return self._count + len(self._others)

    @overload
    def __getitem__(self, number: int) -> ControlledPair: ...
    @overload
    def __getitem__(self, number: slice) -> list[ControlledPair]: ...
    def __getitem__(self, number: int | slice) -> ControlledPair | list[ControlledPair]:
        if isinstance(number, slice):
            return [self[place] for place in range(len(self))[number]]
        number = range(len(self))[number]  # refuses what is out of range
        if number < self._count:
            return self._of_one_subject(number)
        return self._of_two_subjects(number - self._count)

    def _of_one_subject(self, number: int) -> ControlledPair:
        rng = np.random.default_rng((self._seed, 1, number))
        name = self._names[number]
        first, second = _two(self._subjects[name], rng)
        kind = "none" if self._unaltered[number] else self._kinds[number]
        return self._pair(f"{name}-{number:04d}", number, (first, second), kind, rng)

    def _of_two_subjects(self, number: int) -> ControlledPair:
        rng = np.random.default_rng((self._seed, 2, number))
        name = self._others[number]
        other = str(rng.choice([subject for subject in sorted(self._subjects) if subject != name]))
        first, second = (_any(self._subjects[subject], rng) for subject in (other, name))
        return self._pair(
            f"{name}-other-{number:04d}", number, (first, second), "other subject", rng
        )

    def _pair(
        self,
        name: str,
        number: int,
        photos: tuple[Photograph, Photograph],
        kind: str,
        rng: np.random.Generator,
    ) -> ControlledPair:
        original_1, mask_1 = frame_photograph(photos[0], rng, self._size)
        original_2, mask_2 = frame_photograph(photos[1], rng, self._size)
        altered, part = original_1, np.zeros_like(mask_1)
        provenance: dict[str, object] = {
            "protocol": "benchmark", "seed": self._seed, "number": number, "count": self._count,
            "photographs": [f"{photo.subject}/{photo.name}" for photo in photos],
        }  # fmt: skip
        if kind == "other subject":
            part = mask_1
        elif kind != "none":
            share = float(rng.uniform(MIN_SHARE, MAX_SHARE))
            altered, part = _altered(kind, original_1, mask_1, share, self._donors, rng)
            provenance["share"] = share
        return ControlledPair(
            id=name,
            subject=photos[1].subject,
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


def benchmark_pairs(
    photos: Sequence[Photograph],
    donors: Sequence[Pixels],
    kinds: Sequence[str],
    count: int,
    seed: int,
    *,
    size: int = 256,
) -> Iterator[ControlledPair]:
    """The pairs of the benchmark, in an order that depends on ``count`` and ``seed`` only.

    Arguments and errors are those of :class:`Benchmark`.

    Yields:
        Pairs with view ``"photo"``: view 1 is altered by a share of the subject uniform in
        [0.01, 0.6], in one of eight pairs not at all; view 2 is another photograph. Then pairs of
        two subjects.
    """
    yield from Benchmark(photos, donors, kinds, count, seed, size=size)


def is_masked(photo: Photograph) -> bool:
    """Whether the benchmark can use a photograph."""
    return photo.mask is not None and bool(photo.mask.any())


def _by_subject(photos: Sequence[Photograph]) -> dict[str, list[Photograph]]:
    subjects: defaultdict[str, list[Photograph]] = defaultdict(list)
    for photo in photos:
        if is_masked(photo):
            subjects[photo.subject].append(photo)
    return dict(subjects)


def _check(
    subjects: dict[str, list[Photograph]],
    donors: Sequence[Pixels],
    kinds: Sequence[str],
    count: int,
) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if count < 1 or not kinds or unknown:
        raise ValueError(
            f"wanted at least 1 pair and kinds of {', '.join(KINDS)}; got {count} and "
            f"{', '.join(kinds) or 'no kind'}."
        )
    single = sorted(name for name, photos in subjects.items() if len(photos) < 2)
    if not subjects or single:
        raise PairingError(
            "the benchmark pairs different photographs of one subject, so each subject needs at "
            f"least two with a mask; {', '.join(single) or 'no photograph'} has not. "
            "Leave such subjects out."
        )
    if len(subjects) < 2 and count >= OTHERS_EVERY:
        raise PairingError(
            f"pairs of two subjects need a second subject; got only {next(iter(subjects))}."
        )
    if not donors:
        raise PairingError("alterations need at least one donor picture; got none.")


def _balanced(choices: Sequence[_T], count: int, rng: np.random.Generator) -> list[_T]:
    """``count`` choices in random order, each about equally often."""
    turns = np.arange(count) % len(choices)
    return [choices[turn] for turn in rng.permutation(turns)]


def _any(photos: Sequence[Photograph], rng: np.random.Generator) -> Photograph:
    return photos[int(rng.integers(len(photos)))]


def _two(photos: Sequence[Photograph], rng: np.random.Generator) -> tuple[Photograph, Photograph]:
    first, second = rng.choice(len(photos), 2, replace=False)
    return photos[int(first)], photos[int(second)]


def _altered(
    kind: str,
    pixels: Pixels,
    mask: Mask,
    share: float,
    donors: Sequence[Pixels],
    rng: np.random.Generator,
) -> tuple[Pixels, Mask]:
    part = random_part(rng, mask, area_share=(share, share))
    donor = donors[int(rng.integers(len(donors)))]
    altered, changed = alter(kind, pixels, part, mask, rng, donor=donor)
    return altered, changed & mask
