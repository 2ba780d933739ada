"""Where the two views of a subject come from: folders, Subjects200K, single images, renderings."""

from __future__ import annotations

import os
from collections.abc import Sequence
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

_POINT_STRIDE = 4
_MOST_PADDING = 0.06  # of a half's width, around each image of Subjects200K


@dataclass(frozen=True, eq=False)
class TwoViews:
    """Two views of one subject before anything is altered.

    Attributes:
        subject: Its name.
        view: As in ``ControlledPair``.
        pixels: uint8 [H, W, 3] of both views.
        masks: bool [H, W] of both.
        origins: What each view is, for the provenance.
        points: float32 [N, 4] as in ``ControlledPair``, when the geometry is known.
    """

    subject: str
    view: str
    pixels: tuple[Pixels, Pixels]
    masks: tuple[Mask, Mask]
    origins: tuple[str, str]
    points: NDArray[np.float32] | None = None


class MaskOf(Protocol):
    """Finds the subject where an input does not know it."""

    def __call__(self, pixels: Pixels, subject: str, origin: str) -> Mask:
        """Bool [H, W]; ``origin`` names the image, whose mask is the same each time."""
        ...


class PairInput(Protocol):
    """Something that two views can be drawn from, again and again."""

    name: str

    def draw(self, rng: np.random.Generator, donors: Sequence[Pixels], mask_of: MaskOf) -> TwoViews:
        """Two views; all randomness comes from ``rng``."""
        ...

    def pictures(self) -> list[Pixels]:
        """Pictures that can lend textures and backgrounds, uint8 [H, W, 3] each."""
        ...


class PhotographFolder:
    """Photographs in one sub-folder per subject; a subject with one of them is warped.

    Args:
        root: ``SUBJECT/NAME.jpg``, masks ``SUBJECT/NAME_mask.png`` where there are any.
        subjects: Sub-folders to read; all when empty.
        excluded: Sub-folders to leave out.
    """

    name = "folder"

    def __init__(
        self, root: Path, subjects: Sequence[str] = (), excluded: Sequence[str] = ()
    ) -> None:
        photographs = load_photographs(root, tuple(subjects))
        self._by_subject: dict[str, list[Photograph]] = {}
        for photograph in photographs:
            if photograph.subject not in excluded:
                self._by_subject.setdefault(photograph.subject, []).append(photograph)
        if not self._by_subject:
            raise PairingError(f"{root}: every subject is excluded; leave at least one.")

    def draw(self, rng: np.random.Generator, donors: Sequence[Pixels], mask_of: MaskOf) -> TwoViews:
        """Two photographs of a random subject, or one and its warp."""
        names = sorted(self._by_subject)
        photographs = self._by_subject[names[int(rng.integers(len(names)))]]
        first = photographs[int(rng.integers(len(photographs)))]
        others = [photo for photo in photographs if photo is not first]
        if not others:
            return warped_views(first, rng, donors, mask_of)
        second = others[int(rng.integers(len(others)))]
        return TwoViews(
            first.subject,
            "photo",
            (first.pixels, second.pixels),
            (_mask(first, mask_of), _mask(second, mask_of)),
            (_origin(first), _origin(second)),
        )

    def pictures(self) -> list[Pixels]:
        """All photographs."""
        return [photo.pixels for photos in self._by_subject.values() for photo in photos]


class SingleImages:
    """Images of which no second view exists: it is a warp of the first.

    Args:
        paths: Image files, masks ``NAME_mask.png`` beside them where there are any.
    """

    name = "images"

    def __init__(self, paths: Sequence[Path]) -> None:
        self._photographs = []
        for path in paths:
            image = load_image(path)
            mask_path = path.with_name(f"{path.stem}_mask.png")
            found = subject_mask(mask_path if mask_path.exists() else None, image)
            mask = None if found.origin == "whole image" else found.pixels
            self._photographs.append(Photograph(path.stem, path.stem, image.pixels, mask))
        if not self._photographs:
            raise PairingError("no image was given; --source takes a folder or an image file.")

    def draw(self, rng: np.random.Generator, donors: Sequence[Pixels], mask_of: MaskOf) -> TwoViews:
        """A random image and its warp."""
        chosen = self._photographs[int(rng.integers(len(self._photographs)))]
        return warped_views(chosen, rng, donors, mask_of)

    def pictures(self) -> list[Pixels]:
        """All images."""
        return [photo.pixels for photo in self._photographs]


class Subjects200K:
    """Pairs side by side in one image, in the Parquet layout of ``Yuanshi/Subjects200K``.

    A row has ``image`` (an encoded file), ``description.item`` (the subject's name) and, if
    scored, ``quality_assessment``. Each half is one view; borders of one colour are trimmed.

    Args:
        paths: Parquet files.
        least_quality: Rows with a lower score in any column of ``quality_assessment`` are
            left out; rows without scores are kept.
    """

    name = "subjects200k"

    def __init__(self, paths: Sequence[Path], least_quality: int = 5) -> None:
        self._files = [pq.ParquetFile(path) for path in paths]
        self._paths = list(paths)
        self._places: list[tuple[int, int, int, str]] = []
        for number, file in enumerate(self._files):
            for group in range(file.num_row_groups):
                self._collect(number, group, least_quality)
        if not self._places:
            raise PairingError(
                f"no pair of quality {least_quality} or better in {paths[0].parent}."
            )

    def _collect(self, number: int, group: int, least_quality: int) -> None:
        file, path = self._files[number], self._paths[number]
        if "image" not in file.schema_arrow.names:
            raise PairingError(
                f"{path} is not in the layout of Subjects200K: it lacks the column 'image'; "
                f"it has {', '.join(file.schema_arrow.names)}."
            )
        wanted = [n for n in ("description", "quality_assessment") if n in file.schema_arrow.names]
        count = file.metadata.row_group(group).num_rows
        rows = file.read_row_group(group, wanted).to_pylist() if wanted else [{}] * count
        for position, row in enumerate(rows):
            scores = (row.get("quality_assessment") or {}).values()
            if all(score is None or score >= least_quality for score in scores):
                name = (row.get("description") or {}).get("item") or "subject"
                self._places.append((number, group, position, str(name)))

    def draw(self, rng: np.random.Generator, donors: Sequence[Pixels], mask_of: MaskOf) -> TwoViews:
        """The two halves of a random row, in random order."""
        place = self._places[int(rng.integers(len(self._places)))]
        halves, name, origin = self._halves(place)
        sides = [(halves[0], f"{origin}:left"), (halves[1], f"{origin}:right")]
        if rng.random() < 0.5:
            sides.reverse()
        (first, origin_1), (second, origin_2) = sides
        masks = mask_of(first, name, origin_1), mask_of(second, name, origin_2)
        return TwoViews(name, "photo", (first, second), masks, (origin_1, origin_2))

    def _halves(self, place: tuple[int, int, int, str]) -> tuple[list[Pixels], str, str]:
        """Both images of a row, the subject's name, and where the row is."""
        number, group, position, name = place
        column = self._files[number].read_row_group(group, ["image"])["image"]
        picture = decode_picture(column[position].as_py())
        if picture is None:
            raise PairingError(f"{self._paths[number].name}: row {position} has no image.")
        middle = picture.shape[1] // 2
        halves = [_trimmed(picture[:, :middle]), _trimmed(picture[:, middle:])]
        return halves, name, f"{self._paths[number].name}:{group}:{position}"

    def pictures(self) -> list[Pixels]:
        """A view of each of the first rows, enough to lend textures."""
        return [self._halves(place)[0][0] for place in self._places[:16]]


def _trimmed(half: Pixels) -> Pixels:
    """Without the padding around an image: whole rows and columns of one colour at its rim."""
    most = max(1, round(_MOST_PADDING * half.shape[1]))

    def padding(lines: NDArray[np.uint8]) -> int:
        flat = [int(np.ptp(line.reshape(-1, 3), axis=0).max()) <= 6 for line in lines[:most]]
        return flat.index(False) if False in flat else most

    top, bottom = padding(half), padding(half[::-1])
    columns = half.transpose(1, 0, 2)
    left, right = padding(columns), padding(columns[::-1])
    return half[top : half.shape[0] - bottom, left : half.shape[1] - right]


def warped_views(
    photograph: Photograph, rng: np.random.Generator, donors: Sequence[Pixels], mask_of: MaskOf
) -> TwoViews:
    """An image and its warp, often on another background, in other light; points are exact."""
    pixels, mask = photograph.pixels, _mask(photograph, mask_of)
    warp = random_warp(rng, mask.shape, strength=rng.uniform(0.3, 1.0))
    second, mask_2 = warp.image(pixels), warp.mask(mask)
    if donors and rng.random() < 0.6:
        second = replace_background(second, mask_2, donors[int(rng.integers(len(donors)))])
    second = colour_jitter(rng, second, rng.uniform(0.0, 1.0))
    return TwoViews(
        photograph.subject,
        "warp",
        (pixels, second),
        (mask, mask_2),
        (_origin(photograph), "warp"),
        points_of_flow(warp.flow(), mask, mask_2, _POINT_STRIDE),
    )


def _origin(photograph: Photograph) -> str:
    return f"{photograph.subject}/{photograph.name}"


def _mask(photograph: Photograph, mask_of: MaskOf) -> Mask:
    if photograph.mask is not None:
        return photograph.mask
    return mask_of(photograph.pixels, photograph.subject, _origin(photograph))


def open_source(
    source: str | os.PathLike[str],
    subjects: Sequence[str] = (),
    excluded: Sequence[str] = (),
    least_quality: int = 5,
) -> PairInput:
    """The input that a path is: sub-folders of subjects, Parquet files, images.

    Raises:
        PairingError: There is nothing of that kind.
    """
    root = Path(source)
    if root.is_file() and root.suffix.lower() in SUFFIXES:
        return SingleImages([root])
    if root.is_file() and root.suffix.lower() == ".parquet":
        return Subjects200K([root], least_quality)
    if not root.is_dir():
        raise PairingError(
            f"--source {root} does not exist; give a folder with a sub-folder per subject, a "
            "folder of images or of Subjects200K's Parquet files, one such file, or 'procedural'."
        )
    shards = sorted(root.rglob("*.parquet"))
    if shards:
        return Subjects200K(shards, least_quality)
    images = photographs_in(root)
    if images and not subjects:
        return SingleImages(images)
    return PhotographFolder(root, subjects, excluded)
