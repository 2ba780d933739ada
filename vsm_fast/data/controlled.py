"""Controlled pairs of real photographs with a known share of altered subject area.

A pair is a reference photograph and a "generation": another photograph of the same subject,
or a warp of the reference, with a part of the subject altered. The oracle of a pair is
``1 - area(altered part) / area(subject)`` (arXiv 2509.21989, evaluation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vsm_fast.data.alterations import alter, random_part
from vsm_fast.data.photographs import Photograph
from vsm_fast.data.triplets import frame_photograph
from vsm_fast.data.warps import colour_jitter, random_warp, replace_background


@dataclass(frozen=True)
class ControlledPair:
    """One pair; images are uint8 [S, S, 3], masks bool [S, S].

    Attributes:
        view: ``"photo"`` (two photographs) or ``"warp"`` (one photograph and its warp).
        kind: The alteration, ``"none"`` for a consistent pair, ``"other subject"``.
        oracle: In [0, 1]; 1 = consistent.
    """

    subject: str
    view: str
    kind: str
    oracle: float
    reference: NDArray[np.uint8]
    reference_mask: NDArray[np.bool_]
    generation: NDArray[np.uint8]
    generation_mask: NDArray[np.bool_]
    part: NDArray[np.bool_]


def controlled_pairs(
    photos: Sequence[Photograph],
    donors: Sequence[NDArray[np.uint8]],
    kinds: Sequence[str],
    *,
    repeats: int,
    seed: int,
    size: int = 256,
) -> Iterator[ControlledPair]:
    """Controlled pairs of every masked photograph, in a fixed order.

    A quarter is consistent, a quarter about half altered (share 0.45 to 0.55), the rest
    altered by a share uniform in [0.05, 0.6]. Views alternate between warp and photograph.

    Args:
        photos: Of all subjects; those without a mask are skipped.
        donors: uint8 [H, W, 3], textures for alterations and backgrounds of warps.
        kinds: Alterations to draw from.
        repeats: Pairs per photograph.
        seed: Seed of all choices.
        size: Side of the images in pixels.
    """
    masked = [photo for photo in photos if photo.mask is not None]
    for number, photo in enumerate(masked):
        siblings = [p for p in masked if p.subject == photo.subject and p.name != photo.name]
        for repeat in range(repeats):
            rng = np.random.default_rng((seed, number, repeat))
            base, mask = frame_photograph(photo, rng, size)
            view = "photo" if siblings and repeat % 2 else "warp"
            if view == "photo":
                other = siblings[int(rng.integers(len(siblings)))]
                reference, reference_mask = frame_photograph(other, rng, size)
            else:
                warp = random_warp(rng, (size, size), strength=rng.uniform(0.2, 1.0))
                reference, reference_mask = warp.image(base), warp.mask(mask)
                background = donors[int(rng.integers(len(donors)))]
                reference = replace_background(reference, reference_mask, background)
                reference = colour_jitter(rng, reference, 0.5)
            generation, part, kind = _altered(base, mask, donors, kinds, repeat // 2, rng)
            oracle = 1 - np.count_nonzero(part) / np.count_nonzero(mask)
            yield ControlledPair(
                photo.subject, view, kind, oracle, reference, reference_mask, generation, mask, part
            )


def other_subject_pairs(
    photos: Sequence[Photograph], *, count: int, seed: int, size: int = 256
) -> Iterator[ControlledPair]:
    """Pairs of photographs of two different subjects (oracle 0)."""
    masked = [photo for photo in photos if photo.mask is not None]
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        first = masked[int(rng.integers(len(masked)))]
        others = [photo for photo in masked if photo.subject != first.subject]
        second = others[int(rng.integers(len(others)))]
        reference, reference_mask = frame_photograph(first, rng, size)
        generation, mask = frame_photograph(second, rng, size)
        yield ControlledPair(
            first.subject, "photo", "other subject", 0.0, reference, reference_mask,
            generation, mask, mask,
        )  # fmt: skip


def _altered(
    pixels: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    donors: Sequence[NDArray[np.uint8]],
    kinds: Sequence[str],
    turn: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], str]:
    """(picture, altered part, kind) for one turn of the mix of shares."""
    if turn % 4 == 0:
        return pixels, np.zeros_like(mask), "none"
    share = (0.45, 0.55) if turn % 4 == 1 else (0.05, 0.6)
    kind = str(rng.choice(list(kinds)))
    wanted = random_part(rng, mask, area_share=share)
    donor = donors[int(rng.integers(len(donors)))]
    altered, part = alter(kind, pixels, wanted, mask, rng, donor=donor)
    return altered, part & mask, kind
