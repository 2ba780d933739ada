"""The benchmark as a job of ``make-pairs``: subjects and donors are sub-folders of one folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vsm_fast.errors import PairingError
from vsm_fast.lab.pairs.alterations import KINDS
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.lab.pairs.photographs import Photograph, load_photographs
from vsm_fast.lab.pairs.protocol import OTHERS_EVERY, Benchmark, is_masked


@dataclass(frozen=True)
class BenchmarkJob:
    """The pairs of ``vsm_fast.lab.pairs.protocol``; equal jobs make equal pictures.

    Attributes:
        source: Folder with a sub-folder per subject, ``NAME_mask.png`` beside each photograph
            that takes part.
        count: Pairs of one subject; ``count // 4`` pairs of two subjects follow them.
        seed: Of all draws.
        subjects: Sub-folders of the held-back subjects; all when empty.
        donors_from: Sub-folders whose photographs, masked or not, lend textures; their order
            decides which is drawn. All that are not ``subjects`` when empty.
        excluded: Sub-folders to leave out of both.
        kinds: Alterations; all when empty.
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
        """Pairs of one subject and of two."""
        return self.count + self.count // OTHERS_EVERY

    def maker(self) -> BenchmarkMaker:
        """Read the photographs.

        Raises:
            PairingError: The source is no such folder, a named subject is not in it or has no
                masked photograph, or one that the benchmark refuses.
            ValueError: An unknown kind.
        """
        root = Path(self.source)
        subjects, donors_from = self._chosen(root)
        photographs = load_photographs(root, subjects)
        usable = _by_subject(photo for photo in photographs if is_masked(photo))
        maskless = [name for name in self.subjects if name not in usable]
        if maskless:
            raise PairingError(
                f"no photograph of {', '.join(maskless)} has a mask: NAME_mask.png beside NAME.jpg "
                "is wanted, for at least two of each subject."
            )
        donors = load_photographs(root, donors_from)
        pairs = Benchmark(
            photographs,
            [photo.pixels for photo in donors],
            self.kinds or KINDS,
            self.count,
            self.seed,
            size=self.size,
        )
        return BenchmarkMaker(
            pairs,
            {
                "photographs": usable,
                "without_mask": len(photographs) - sum(usable.values()),
                "donors": _by_subject(donors),
            },
        )

    def _chosen(self, root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The sub-folders of the subjects and of the donors."""
        found = (
            sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        )
        if not found:
            raise PairingError(
                f"the benchmark wants a folder with a sub-folder of photographs per subject; "
                f"{root} is none."
            )
        named = (*self.subjects, *self.donors_from, *self.excluded)
        unknown = [name for name in dict.fromkeys(named) if name not in found]
        if unknown:
            raise PairingError(
                f"{root} has no sub-folder {', '.join(unknown)}; it has {', '.join(found)}."
            )
        left = [name for name in found if name not in self.excluded]
        subjects = _without(self.subjects or left, self.excluded)
        donors = _without(self.donors_from or left, self.excluded)
        if not self.donors_from:
            donors = _without(donors, subjects)
        if not subjects or not donors:
            raise PairingError(
                f"no sub-folder of {root} is left for the {'donors' if subjects else 'subjects'}; "
                "name some of them as subjects and others as those to take donors from."
            )
        return subjects, donors


class BenchmarkMaker:
    """Makes the pairs of a benchmark job.

    Args:
        pairs: The benchmark.
        inputs: What was read, for the record.
    """

    def __init__(self, pairs: Sequence[ControlledPair], inputs: Mapping[str, Any]) -> None:
        self._pairs, self.inputs = pairs, inputs

    def make(self, number: int) -> tuple[ControlledPair, list[str]]:
        """Pair ``number``; the benchmark rejects none."""
        return self._pairs[number], []


def _without(names: Iterable[str], others: Sequence[str]) -> tuple[str, ...]:
    """Each name once, in its order, if it is not one of the others."""
    return tuple(name for name in dict.fromkeys(names) if name not in others)


def _by_subject(photographs: Iterable[Photograph]) -> dict[str, int]:
    """How many photographs each subject has."""
    return dict(Counter(photo.subject for photo in photographs))
