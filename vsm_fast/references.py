"""Described references with what is known of their images, to keep between calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vsm_fast.descriptors import Descriptors
from vsm_fast.images.subjects import Subject


@dataclass(frozen=True)
class References:
    """Reference images that were described; bad ones too, with the reason.

    Attributes:
        descriptors: Of ``N`` images; a bad one has an empty range.
        subjects: [N], without pixels.
        names: [N], what tables call them.
    """

    descriptors: Descriptors
    subjects: Sequence[Subject]
    names: Sequence[str]

    def __post_init__(self) -> None:
        lengths = {len(self.descriptors), len(self.subjects), len(self.names)}
        if len(lengths) != 1:
            raise ValueError(
                f"descriptors, subjects and names must be equally many; got "
                f"{len(self.descriptors)}, {len(self.subjects)} and {len(self.names)}."
            )

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> References:
        """One of them, in memory of its own."""
        one = self.descriptors.select([index])
        return References(one, [self.subjects[index]], [self.names[index]])

    @property
    def nbytes(self) -> int:
        """Bytes of the descriptors."""
        return self.descriptors.semantic.nbytes + self.descriptors.visual.nbytes

    @staticmethod
    def cat(parts: Sequence[References]) -> References:
        """Join references that one model described; at least one part."""
        return References(
            Descriptors.cat([part.descriptors for part in parts]),
            [subject for part in parts for subject in part.subjects],
            [name for part in parts for name in part.names],
        )
