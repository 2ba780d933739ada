"""Normalisation of the images, masks and pairs that callers pass."""

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
from vsm_fast.images.storage import StoredImage

Images = ImageSource | Sequence[ImageSource]
Masks = Mask | Sequence[Mask]

_NAMED = (str, os.PathLike, StoredImage)


def image_list(images: Images, side: str) -> list[ImageSource]:
    """Return images as a list; a single image becomes a list of one.

    An array or tensor with one axis more than an image is a batch: [B, H, W, 3], [B, 3, H, W]. An
    array of strings is a list of paths. Paths of bytes are decoded.

    Args:
        images: Images as passed by the caller.
        side: Name of the argument in errors.

    Raises:
        TypeError: If it has no order (a set), no images (a dictionary, a number), or is a folder.
    """
    return _listed(images, 4, side)


def mask_list(masks: Masks, count: int, side: str) -> list[Mask]:
    """Return one mask, ``AutoMask`` or None per image.

    A single ``AutoMask``, or the string ``"auto"`` instead of a list, applies to every image. In a
    list a string is always a path: ``["auto"]`` or ``Path("auto")`` is a file called ``auto``.

    Raises:
        PairingError: If the number of masks differs from the number of images.
        TypeError: If the masks are not listed, as in :func:`image_list`.
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
    if isinstance(values, str | bytes | os.PathLike) and os.path.isdir(values):  # noqa: PTH112 - bytes and NULs too
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
            f"{name} is a sparse or nested tensor. Pass to_dense(), or a list of its images."
        )
    elif isinstance(values, np.ndarray | torch.Tensor):
        listed = list(values) if values.ndim == batch_axes else [values]
    elif isinstance(values, Set | Mapping) or not isinstance(values, Iterable):
        raise TypeError(
            f"{name} is a {type(values).__name__}, which has no order or no images. Pass a list in "
            "the order of the results."
        )
    else:
        listed = list(values)
    return [
        os.fsdecode(v) if isinstance(v, bytes | os.PathLike) and type(os.fspath(v)) is bytes else v
        for v in listed
    ]


def image_names(images: Sequence[ImageSource] | Descriptors, side: str) -> list[str]:
    """Return a name per image: its path, or side and position like ``gen[3]``."""
    if isinstance(images, Descriptors):
        names = [subject.name for subject in images.subjects] or [""] * len(images)
    else:
        names = [str(_key(image)) if isinstance(image, _NAMED) else "" for image in images]
    return [name or f"{side}[{position}]" for position, name in enumerate(names)]


def pair_up(pairs: ArrayLike | None, references: int, generations: int) -> NDArray[np.int64]:
    """Return the pairs to score, int64 [P, 2]: (reference, generated image) positions.

    Args:
        pairs: Requested pairs. None: one reference against every generated image, or lists of equal
            length in order.
        references: Number of references.
        generations: Number of generated images.

    Raises:
        PairingError: If the lists cannot be paired, or a position is out of range.
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
    requested = np.asarray(pairs)
    if requested.size == 0:
        return np.empty((0, 2), np.int64)
    if requested.ndim != 2 or requested.shape[1] != 2 or requested.dtype.kind not in "iu":
        raise PairingError(
            f"pairs must be integers [P, 2] of (reference, generation); got {requested.dtype} "
            f"{list(requested.shape)}."
        )
    if requested.min() < 0 or (requested >= [references, generations]).any():
        raise PairingError(
            f"pairs must lie in [0, {references}) x [0, {generations}); got "
            f"{requested.min(0).tolist()} to {requested.max(0).tolist()}."
        )
    return requested.astype(np.int64)


def distinct(
    images: Sequence[ImageSource], masks: Sequence[Mask]
) -> tuple[list[int], NDArray[np.int64]]:
    """Find the distinct images by the locations of image and mask; pixels count as distinct.

    Args:
        images: Sources of images.
        masks: One per image: a source, ``AutoMask``, or None.

    Returns:
        Positions of the D distinct images, and int64 [len(images)]: the index of each image among
        these D.
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
    return image if isinstance(image, StoredImage) else os.fspath(image)
