"""Controlled pairs for training: warps, renderings and pairs of photographs.

``warp_pair`` and ``rendered_pair`` have exact correspondence and an exactly altered view 2.
``photograph_pair`` has realistic second views, but neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from recipes.tiny.mild_alterations import MILD_KINDS, alter_mildly
from recipes.tiny.rendering import (
    ProceduralSubject,
    View,
    alter_subject,
    correspondence,
    render,
    sample_cameras,
    sample_light,
)
from recipes.tiny.subjects import make_subject
from vsm_fast.lab.pairs.alterations import alter, random_part
from vsm_fast.lab.pairs.pairs import ControlledPair, Mask, Pixels, points_of_flow
from vsm_fast.lab.pairs.photographs import Photograph, frame_photograph
from vsm_fast.lab.pairs.warps import colour_jitter, random_warp, replace_background

_SHARE = (0.04, 0.65)


@dataclass(frozen=True)
class Donors:
    """Sources of textures and backgrounds, uint8 [H, W, 3] each."""

    pictures: Sequence[Pixels]

    def crop(self, rng: np.random.Generator, size: int) -> Pixels:
        """Draw a square of a random picture, uint8 [size, size, 3]."""
        picture = self.pictures[int(rng.integers(len(self.pictures)))]
        height, width = picture.shape[:2]
        side = max(1, int(rng.uniform(0.4, 1.0) * min(height, width)))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop = picture[top : top + side, left : left + side]
        return np.asarray(cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA))


def warp_pair(
    photo: Photograph,
    rng: np.random.Generator,
    donors: Donors,
    kinds: Sequence[str],
    size: int,
    name: str,
) -> ControlledPair:
    """Pair a photograph with its warp, often on another background and relit.

    Args:
        photo: A photograph with a mask.
        rng: Source of all randomness.
        donors: Textures and backgrounds.
        kinds: Alterations to draw from ``KINDS`` and ``MILD_KINDS``.
        size: Side of the images in pixels.
        name: Id of the pair.
    """
    base, mask_1 = frame_photograph(photo, rng, size)
    warp = random_warp(rng, (size, size), strength=rng.uniform(0.3, 1.0))
    altered, part, kind = _alter_some(base, mask_1, rng, donors, kinds)
    views = [warp.image(base), warp.image(altered)]
    mask_2 = warp.mask(mask_1)
    if rng.random() < 0.6:
        background = donors.crop(rng, size)
        views = [replace_background(view, mask_2, background) for view in views]
    views = _relit(rng, views)
    points = points_of_flow(warp.flow(), mask_1, mask_2)
    first, second = _exposed(rng, [base, altered]), _exposed(rng, views)
    return ControlledPair(
        id=name, subject=photo.subject, view="warp", kind=kind, original_1=first[0],
        original_2=second[0], altered_1=first[1], mask_1=mask_1, mask_2=mask_2, part_1=part,
        altered_2=second[1], points=points, provenance={"photographs": [photo.name]},
    )  # fmt: skip


def photograph_pair(
    photos: tuple[Photograph, Photograph],
    rng: np.random.Generator,
    donors: Donors,
    kinds: Sequence[str],
    size: int,
    name: str,
) -> ControlledPair:
    """Pair two photographs of one subject; arguments as for ``warp_pair``."""
    base, mask_1 = frame_photograph(photos[0], rng, size)
    other, mask_2 = frame_photograph(photos[1], rng, size)
    altered, part, kind = _alter_some(base, mask_1, rng, donors, kinds)
    first, second = _exposed(rng, [base, altered]), _exposed(rng, _relit(rng, [other]))
    return ControlledPair(
        id=name, subject=photos[0].subject, view="photo", kind=kind, original_1=first[0],
        original_2=second[0], altered_1=first[1], mask_1=mask_1, mask_2=mask_2, part_1=part,
        provenance={"photographs": [photo.name for photo in photos]},
    )  # fmt: skip


def rendered_pair(
    rng: np.random.Generator, donors: Donors, kinds: Sequence[str], size: int, name: str
) -> ControlledPair:
    """Pair two renderings of a procedural subject.

    Half of the pairs alter the surface before rendering, half the first image.
    """
    subject = make_subject(rng, donors.pictures)
    cameras, lights = sample_cameras(rng), (sample_light(rng), sample_light(rng))
    grounds = [donors.crop(rng, size) if rng.random() < 0.8 else None for _ in cameras]

    def views(shown: ProceduralSubject) -> list[View]:
        return [
            render(shown, camera, light, size, ground)
            for camera, light, ground in zip(cameras, lights, grounds, strict=True)
        ]

    originals = views(subject)
    flow = correspondence(originals[0], originals[1], cameras[1])
    pictures_2 = [originals[1].pixels]
    if rng.random() < 0.5:
        repainted, _ = alter_subject(subject, rng, donors.pictures, view=originals[0])
        again = views(repainted)
        altered, part, kind = again[0].pixels, again[0].altered & originals[0].mask, "rendered"
        pictures_2.append(again[1].pixels)
    else:
        altered, part, kind = _alter_some(
            originals[0].pixels, originals[0].mask, rng, donors, kinds
        )
    first = _exposed(rng, [originals[0].pixels, altered])
    second = _exposed(rng, pictures_2)
    masks = originals[0].mask, originals[1].mask
    return ControlledPair(
        id=name, subject=name, view="rendering", kind=kind, original_1=first[0],
        original_2=second[0], altered_1=first[1], mask_1=masks[0], mask_2=masks[1], part_1=part,
        altered_2=second[1] if len(second) > 1 else None,
        points=points_of_flow(flow, *masks),
    )  # fmt: skip


def _alter_some(
    pixels: Pixels, mask: Mask, rng: np.random.Generator, donors: Donors, kinds: Sequence[str]
) -> tuple[Pixels, Mask, str]:
    """Alter a random part; return image, part and kind."""
    part = random_part(rng, mask, area_share=_SHARE)
    kind = str(rng.choice(list(kinds)))
    donor = donors.crop(rng, len(pixels))
    if kind in MILD_KINDS:
        return alter_mildly(kind, pixels, part, rng, donor), part & mask, kind
    altered, part = alter(kind, pixels, part, mask, rng, donor=donor)
    return altered, part & mask, kind


def _exposed(rng: np.random.Generator, pictures: Sequence[Pixels]) -> list[Pixels]:
    """Change the exposure of all images of a view alike: it must not reveal the alteration."""
    seed, strength = int(rng.integers(2**32)), rng.uniform(0.0, 1.0)
    return [colour_jitter(np.random.default_rng(seed), view, strength) for view in pictures]


def _relit(rng: np.random.Generator, pictures: Sequence[Pixels]) -> list[Pixels]:
    """Light all images of a view alike, varying smoothly across them."""
    if rng.random() < 0.4:
        return list(pictures)
    height, width = pictures[0].shape[:2]
    coarse = rng.normal(0, 1, (3, 3)).astype(np.float32)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    light = np.exp(np.clip(field * rng.uniform(0, 0.28), -0.6, 0.6))[..., None]
    if rng.random() < 0.3:
        light = light * (1 + rng.normal(0, 0.03, 3).astype(np.float32) * field[..., None])
    return [np.clip(view * light, 0, 255).astype(np.uint8) for view in pictures]
