"""Workloads of the matching benchmarks: descriptors that resemble a network's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from vsm_fast.descriptors import Descriptors


@dataclass(frozen=True)
class Shape:
    """One reference and its generated images: ``points`` cells of a square grid each."""

    generations: int
    side: int
    points: int
    channels: int


SHAPES = {
    "2304x384": Shape(1, 48, 2304, 384),
    "600_of_2304x384": Shape(1, 48, 600, 384),  # a subject on a quarter of its image
    "576x384": Shape(1, 24, 576, 384),
    "32_of_576x128": Shape(32, 24, 576, 128),
}


@dataclass(frozen=True)
class Workload:
    """One reference and its generated images."""

    source: Descriptors
    target: Descriptors

    @property
    def pairs(self) -> Tensor:
        """Every generated image with the reference, int64 [P, 2]."""
        images = torch.arange(len(self.source))
        return torch.stack([images, torch.zeros_like(images)], dim=1)

    @property
    def comparisons(self) -> int:
        """Number of compared point pairs, over all images and both branches."""
        return 2 * len(self.source.semantic) * len(self.target.semantic)

    def branches(self) -> list[tuple[Tensor, Tensor]]:
        """Return (source points, target points) per image and branch."""
        return [
            (mine[self.source.rows(image)], theirs)
            for image in range(len(self.source))
            for mine, theirs in (
                (self.source.semantic, self.target.semantic),
                (self.source.visual, self.target.visual),
            )
        ]


def make_workload(name: str) -> Workload:
    """Return the workload of a shape; deterministic."""
    shape = SHAPES[name]
    return Workload(_describe(shape, shape.generations, 0), _describe(shape, 1, 1))


def _describe(shape: Shape, images: int, seed: int) -> Descriptors:
    """Return unit descriptors, smooth over the grid, of roughly connected subjects."""
    generator = torch.Generator().manual_seed(seed)
    side = shape.side

    def smooth(channels: int) -> Tensor:
        field = torch.zeros(images, channels, side, side)
        for coarse in (side // 8, side // 4, side // 2):
            level = torch.randn(images, channels, coarse, coarse, generator=generator)
            field += interpolate(level, size=(side, side), mode="bilinear")
        return field

    def branch() -> Tensor:
        noise = torch.randn(images, shape.channels, side, side, generator=generator)
        return normalize(smooth(shape.channels) + 0.3 * noise, dim=1)

    semantic, visual = branch(), branch()
    # A disc with a wavy edge: the cells nearest to the centre by a perturbed distance.
    axis = torch.linspace(-1, 1, side)
    distance = (axis[:, None] ** 2 + axis**2).sqrt() + 0.1 * smooth(1)[:, 0]
    nearest = distance.flatten(1).topk(shape.points, largest=False).indices
    masks = torch.zeros(images, side * side, dtype=torch.bool).scatter_(1, nearest, True)
    return Descriptors.pack(semantic, visual, masks.view(images, side, side))
