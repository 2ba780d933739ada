"""What the matching benchmarks match: descriptors like those of a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from vsm_fast.descriptors import Descriptors


@dataclass(frozen=True)
class Shape:
    """One reference and its generations: images of ``points`` of the cells of a square grid."""

    generations: int
    side: int
    points: int
    channels: int


SHAPES = {
    "2304x384": Shape(1, 48, 2304, 384),
    "600_of_2304x384": Shape(1, 48, 600, 384),  # a subject that fills a quarter of its image
    "576x384": Shape(1, 24, 576, 384),
    "32_of_576x128": Shape(32, 24, 576, 128),
}


@dataclass(frozen=True)
class Workload:
    """One reference and its generations."""

    source: Descriptors
    target: Descriptors

    @property
    def pairs(self) -> Tensor:
        """int64 [P, 2], every generation with the reference."""
        images = torch.arange(len(self.source))
        return torch.stack([images, torch.zeros_like(images)], dim=1)

    @property
    def comparisons(self) -> int:
        """Points times points, over all images and both branches."""
        return 2 * len(self.source.semantic) * len(self.target.semantic)

    def branches(self) -> list[tuple[Tensor, Tensor]]:
        """(source points, target points) of each image and branch."""
        return [
            (mine[self.source.rows(image)], theirs)
            for image in range(len(self.source))
            for mine, theirs in (
                (self.source.semantic, self.target.semantic),
                (self.source.visual, self.target.visual),
            )
        ]


def make_workload(name: str) -> Workload:
    """The workload of a shape, always the same."""
    shape = SHAPES[name]
    return Workload(_describe(shape, shape.generations, 0), _describe(shape, 1, 1))


def _describe(shape: Shape, images: int, seed: int) -> Descriptors:
    """Unit descriptors, smooth over the grid, of subjects in one piece or nearly so."""
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
    # A disc with a wavy edge: the cells nearest to the centre, their distance disturbed.
    axis = torch.linspace(-1, 1, side)
    distance = (axis[:, None] ** 2 + axis**2).sqrt() + 0.1 * smooth(1)[:, 0]
    nearest = distance.flatten(1).topk(shape.points, largest=False).indices
    masks = torch.zeros(images, side * side, dtype=torch.bool).scatter_(1, nearest, True)
    return Descriptors.pack(semantic, visual, masks.view(images, side, side))
