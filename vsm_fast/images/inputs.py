"""What callers may pass as images, masks and pairs, brought into one form."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from vsm_fast.descriptors import Descriptors
from vsm_fast.errors import PairingError
from vsm_fast.images.automatic_masks import AutoMask
from vsm_fast.images.loading import ImageSource
from vsm_fast.images.masks import Mask
from vsm_fast.images.stored import StoredImage

Images = ImageSource | Sequence[ImageSource]
Masks = Mask | Sequence[Mask]

_NAMED = (str, os.PathLike, StoredImage)


def image_list(images: Images, side: str) -> list[ImageSource]:
    """A list of images; a single one becomes a list of one.

    An array or tensor with one axis more than an image is a batch: [B, H, W, 3], [B, 3, H, W].
    An array of texts is a list of paths. Paths of bytes are decoded.

    Args:
        images: As callers pass it.
        side: What to call it in an error.

    Raises:
        TypeError: It has no order (a set), no images (a dictionary, a number), or is a folder.
    """
    return _listed(images, 4, side)


def mask_list(masks: Masks, count: int, side: str) -> list[Mask]:
    """One mask, ``AutoMask`` or None per image.

    One ``AutoMask`` or the text ``"auto"`` in the place of the list is for every image. In a list
    a text is always a path, so that a file called ``auto`` is ``["auto"]`` or ``Path("auto")``.

    Raises:
        PairingError: There are not as many masks as images.
        TypeError: As :func:`image_list`.
    """
    if isinstance(masks, str) and masks == "auto":
        masks = AutoMask()
    if masks is None or isinstance(masks, AutoMask):
        return [masks] * count
    listed: list[Mask] = _listed(masks, 3, f"{side}_masks")
    if len(listed) != count:
        raise PairingError(
            f"{side}_masks needs one entry (or None) per image: got {len(listed)} masks for "
            f"{count} images."
        )
    return listed


def _listed(values: Any, batch_axes: int, name: str) -> list[Any]:
    """One image or mask, a batch of them in one array, or any sequence, as a list."""
    if isinstance(values, str | bytes | os.PathLike) and os.path.isdir(values):  # noqa: PTH112 - takes any name
        raise TypeError(
            f"{name} is the folder {os.fsdecode(values)!r}. List its files, as in "
            "sorted(Path(folder).glob('*.png')), or pair two folders by vsm-fast score --refs DIR "
            "--gens DIR."
        )
    listed: list[Any]
    if isinstance(values, (*_NAMED, bytes, Image.Image)):
        listed = [values]
    elif isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "USO":
        listed = values.tolist()
    elif isinstance(values, torch.Tensor) and (values.is_nested or values.layout != torch.strided):
        raise TypeError(
            f"{name} is one sparse or nested tensor. Pass to_dense(), or a list of its images."
        )
    elif isinstance(values, np.ndarray | torch.Tensor):
        listed = list(values) if values.ndim == batch_axes else [values]
    elif isinstance(values, Set | Mapping) or not isinstance(values, Iterable):
        raise TypeError(
            f"{name} is a {type(values).__name__}, which has no order or is no image. Pass a list, "
            "in the order that the results shall have."
        )
    else:
        listed = list(values)
    return [
        os.fsdecode(v) if isinstance(v, bytes | os.PathLike) and type(os.fspath(v)) is bytes else v
        for v in listed
    ]


def image_names(images: Sequence[ImageSource] | Descriptors, side: str) -> list[str]:
    """A name per image: its path, or side and position, like ``gen[3]``."""
    if isinstance(images, Descriptors):
        known = [subject.name for subject in images.subjects] or [""] * len(images)
        return [name or f"{side}[{i}]" for i, name in enumerate(known)]
    return [
        str(_key(image)) if isinstance(image, _NAMED) else f"{side}[{i}]"
        for i, image in enumerate(images)
    ]


def pair_up(pairs: ArrayLike | None, references: int, generations: int) -> NDArray[np.int64]:
    """The pairs to score, int64 [P, 2]: (reference, generation) positions.

    Args:
        pairs: The pairs wanted, or None: one reference against every generation, or lists of
            equal length in order.
        references: Number of references.
        generations: Number of generations.

    Raises:
        PairingError: The lists do not pair up, or a position is out of range.
    """
    if pairs is None:
        if references == generations:
            return np.stack([np.arange(generations)] * 2, axis=1)
        if references == 1 or generations == 0:
            return np.stack([np.zeros(generations, np.int64), np.arange(generations)], axis=1)
        raise PairingError(
            f"cannot pair {references} references with {generations} generations: pass one "
            "reference, lists of equal length, or pairs=[(reference, generation), ...]."
        )
    wanted = np.asarray(pairs)
    if wanted.size == 0:
        return np.empty((0, 2), np.int64)
    if wanted.ndim != 2 or wanted.shape[1] != 2 or wanted.dtype.kind not in "iu":
        raise PairingError(
            f"pairs must be integers [P, 2] of (reference, generation); got {wanted.dtype} "
            f"{list(wanted.shape)}."
        )
    if wanted.min() < 0 or (wanted >= [references, generations]).any():
        raise PairingError(
            f"pairs must lie in [0, {references}) x [0, {generations}); got "
            f"{wanted.min(0).tolist()} to {wanted.max(0).tolist()}."
        )
    return wanted.astype(np.int64)


def distinct(
    images: Sequence[ImageSource], masks: Sequence[Mask]
) -> tuple[list[int], NDArray[np.int64]]:
    """Which images differ, as far as their names tell: by where they and their masks are.

    Args:
        images: Sources of images; pixels are taken to differ.
        masks: One per image, or ``AutoMask``, or None.

    Returns:
        Positions of the first of each, and int64 [len(images)]: for every image the index of the
        equal one among these.
    """
    seen: dict[object, int] = {}
    first: list[int] = []
    places = np.empty(len(images), np.int64)
    for position, (image, mask) in enumerate(zip(images, masks, strict=True)):
        key: object = position
        if isinstance(image, _NAMED):
            if isinstance(mask, _NAMED):
                key = (_key(image), _key(mask))
            elif mask is None or isinstance(mask, AutoMask):
                key = (_key(image), mask)
        places[position] = seen.setdefault(key, len(first))
        if places[position] == len(first):
            first.append(position)
    return first, places


def _key(image: str | os.PathLike[str] | StoredImage) -> str | StoredImage:
    """Equal for images that are the same by their names; as text, the name."""
    return image if isinstance(image, StoredImage) else os.fspath(image)
