"""Sources of two views of a subject: folders of photographs, single images, Subjects200K."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vsm_fast.errors import PairingError
from vsm_fast.images.loading import load_image
from vsm_fast.images.masks import subject_mask
from vsm_fast.lab.pairs.pair_shards import decode_picture
from vsm_fast.lab.pairs.pairs import Mask, Pixels, points_of_flow
from vsm_fast.lab.pairs.photographs import SUFFIXES, Photograph, load_photographs, photographs_in
from vsm_fast.lab.pairs.warps import colour_jitter, random_warp, replace_background

_LEAST_QUALITY = 5  # in every column of ``quality_assessment``
_MOST_PADDING = 0.06  # of a half's width, around each image of Subjects200K


@dataclass(frozen=True, eq=False)
class TwoViews:
    """Two unaltered views of one subject.

    Attributes:
        subject: Its name.
        view: As in ``ControlledPair``.
        pixels: uint8 [H, W, 3] per view.
        masks: bool [H, W] per view.
        origins: Provenance of each view.
        points: float32 [N, 4] as in ``ControlledPair``, if the geometry is known.
    """

    subject: str
    view: str
    pixels: tuple[Pixels, Pixels]
    masks: tuple[Mask, Mask]
    origins: tuple[str, str]
    points: NDArray[np.float32] | None = None


# Segments an image without a mask: (uint8 [H, W, 3], subject name, origin) -> bool [H, W].
MaskOf = Callable[[Pixels, str, str], Mask]


class PairInput(Protocol):
    """Source of two views."""

    def draw(self, rng: np.random.Generator, donors: Sequence[Pixels], mask_of: MaskOf) -> TwoViews:
        """Draw two views; all randomness comes from ``rng``."""
        ...

    def pictures(self) -> list[Pixels]:
        """Return images that lend textures and backgrounds, uint8 [H, W, 3] each."""
        ...


class Photographs:
    """Photographs by subject; a subject's only photograph is paired with its warp."""

    def __init__(self, by_subject: Mapping[str, Sequence[Photograph]]) -> None:
        self._by_subject = by_subject

    @classmethod
    def of_folders(
        cls, root: Path, subjects: Sequence[str] = (), excluded: Sequence[str] = ()
    ) -> Photographs:
        """Load ``SUBJECT/NAME.jpg``, with optional masks ``SUBJECT/NAME_mask.png``.

        Reads ``subjects``, or all sub-folders if empty, without ``excluded``.
        """
        by_subject: dict[str, list[Photograph]] = {}
        for photograph in load_photographs(root, tuple(subjects)):
            if photograph.subject not in excluded:
                by_subject.setdefault(photograph.subject, []).append(photograph)
        if not by_subject:
            raise PairingError(f"{root}: every subject is excluded. Leave at least one.")
        return cls(by_subject)

    @classmethod
    def of_images(cls, paths: Sequence[Path]) -> Photographs:
        """Load images of one subject each, with optional masks ``NAME_mask.png`` beside them."""
        alone: dict[str, list[Photograph]] = {}
        for path in paths:
            image = load_image(path)
            mask_path = path.with_name(f"{path.stem}_mask.png")
            subject = subject_mask(mask_path if mask_path.exists() else None, image)
            mask = None if subject.origin == "whole image" else subject.pixels
            alone[path.name] = [Photograph(path.stem, path.stem, image.pixels, mask)]
        return cls(alone)

    def draw(self, rng: np.random.Generator, donors: Sequence[Pixels], mask_of: MaskOf) -> TwoViews:
        """Draw two photographs of a random subject, or one and its warp."""
        names = sorted(self._by_subject)
        photographs = self._by_subject[names[int(rng.integers(len(names)))]]
        first = photographs[int(rng.integers(len(photographs)))]
        others = [photo for photo in photographs if photo is not first]
        if not others:
            return _warped_views(first, rng, donors, mask_of)
        second = others[int(rng.integers(len(others)))]
        return TwoViews(
            first.subject,
            "photo",
            (first.pixels, second.pixels),
            (_mask(first, mask_of), _mask(second, mask_of)),
            (first.origin, second.origin),
        )

    def pictures(self) -> list[Pixels]:
        """Return all photographs."""
        return [photo.pixels for photos in self._by_subject.values() for photo in photos]


class Subjects200K:
    """Pairs side by side in one image, in the Parquet layout of ``Yuanshi/Subjects200K``.

    A row has ``image`` (an encoded file), ``description.item`` (the subject's name) and optionally
    ``quality_assessment``: rows with a score below 5 are skipped, rows without scores accepted.
    Each half is one view; uniform borders are trimmed.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [pq.ParquetFile(path) for path in paths]
        self._paths = list(paths)
        self._places: list[tuple[int, int, int, str]] = []  # file, row group, row, subject
        for number, (file, path) in enumerate(zip(self._files, paths, strict=True)):
            names = file.schema_arrow.names
            if "image" not in names:
                raise PairingError(
                    f"{path} does not have the layout of Subjects200K: it lacks the column "
                    f"'image'; it has {', '.join(names)}."
                )
            columns = [name for name in ("description", "quality_assessment") if name in names]
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                rows = file.read_row_group(group, columns).to_pylist() if columns else [{}] * count
                for position, row in enumerate(rows):
                    scores = (row.get("quality_assessment") or {}).values()
                    if all(score is None or score >= _LEAST_QUALITY for score in scores):
                        name = (row.get("description") or {}).get("item") or "subject"
                        self._places.append((number, group, position, str(name)))
        if not self._places:
            raise PairingError(
                f"no pair of quality {_LEAST_QUALITY} or better in {paths[0].parent}."
            )

    def draw(self, rng: np.random.Generator, donors: Sequence[Pixels], mask_of: MaskOf) -> TwoViews:
        """Draw the two halves of a random row, in random order."""
        place = self._places[int(rng.integers(len(self._places)))]
        halves, origin = self._halves(place)
        sides = [(halves[0], f"{origin}:left"), (halves[1], f"{origin}:right")]
        if rng.random() < 0.5:
            sides.reverse()
        (first, origin_1), (second, origin_2) = sides
        name = place[3]
        masks = mask_of(first, name, origin_1), mask_of(second, name, origin_2)
        return TwoViews(name, "photo", (first, second), masks, (origin_1, origin_2))

    def pictures(self) -> list[Pixels]:
        """Return one view of each of the first 16 rows."""
        return [self._halves(place)[0][0] for place in self._places[:16]]

    def _halves(self, place: tuple[int, int, int, str]) -> tuple[list[Pixels], str]:
        """Return both images of a row and its origin."""
        number, group, position, _ = place
        column = self._files[number].read_row_group(group, ["image"])["image"]
        picture = decode_picture(column[position].as_py())
        if picture is None:
            raise PairingError(f"{self._paths[number].name}: row {position} has no image.")
        middle = picture.shape[1] // 2
        halves = [_trimmed(picture[:, :middle]), _trimmed(picture[:, middle:])]
        return halves, f"{self._paths[number].name}:{group}:{position}"


def _trimmed(half: Pixels) -> Pixels:
    """Remove padding: outer rows and columns of one colour."""
    most = max(1, round(_MOST_PADDING * half.shape[1]))

    def padding(lines: Pixels) -> int:
        flat = [int(np.ptp(line.reshape(-1, 3), axis=0).max()) <= 6 for line in lines[:most]]
        return flat.index(False) if False in flat else most

    top, bottom = padding(half), padding(half[::-1])
    columns = half.transpose(1, 0, 2)
    left, right = padding(columns), padding(columns[::-1])
    return half[top : half.shape[0] - bottom, left : half.shape[1] - right]


def _warped_views(
    photograph: Photograph, rng: np.random.Generator, donors: Sequence[Pixels], mask_of: MaskOf
) -> TwoViews:
    """Pair an image with its warp, often on another background and relit; points are exact."""
    pixels, mask = photograph.pixels, _mask(photograph, mask_of)
    warp = random_warp(rng, mask.shape, strength=rng.uniform(0.3, 1.0))
    second, mask_2 = warp.image(pixels), warp.mask(mask)
    if donors and rng.random() < 0.6:
        second = replace_background(second, mask_2, donors[int(rng.integers(len(donors)))])
    second = colour_jitter(rng, second, rng.uniform(0.0, 1.0))
    points = points_of_flow(warp.flow(), mask, mask_2)
    origins = (photograph.origin, "warp")
    return TwoViews(photograph.subject, "warp", (pixels, second), (mask, mask_2), origins, points)


def _mask(photograph: Photograph, mask_of: MaskOf) -> Mask:
    if photograph.mask is not None:
        return photograph.mask
    return mask_of(photograph.pixels, photograph.subject, photograph.origin)


def open_source(
    source: str | os.PathLike[str], subjects: Sequence[str] = (), excluded: Sequence[str] = ()
) -> PairInput:
    """Open a folder with a sub-folder per subject, Parquet files of Subjects200K, or images.

    Raises:
        PairingError: If the path is none of these.
    """
    root = Path(source)
    if not root.exists():
        hint = ""
        if root == Path("procedural"):
            hint = " Procedural subjects are no longer part of make-pairs."
        raise PairingError(
            f"--source {root} does not exist.{hint} Give photographs: a folder with a sub-folder "
            "per subject, a folder of images or of Parquet files of Subjects200K, or one such file."
        )
    if root.is_dir():
        shards = sorted(root.rglob("*.parquet"))
        images = photographs_in(root)
        if shards:
            return Subjects200K(shards)
        if images and not subjects:
            return Photographs.of_images(images)
        return Photographs.of_folders(root, subjects, excluded)
    if root.suffix.lower() == ".parquet":
        return Subjects200K([root])
    if root.suffix.lower() in SUFFIXES:
        return Photographs.of_images([root])
    raise PairingError(f"--source {root} is neither an image nor a Parquet file.")
