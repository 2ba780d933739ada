"""Procedural subjects as an input of ``make-pairs``: exact points, no external data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recipes.tiny.procedural import (
    correspondence,
    make_subject,
    render,
    sample_cameras,
    sample_light,
)
from vsm_fast.lab.pairs.pair_inputs import MaskOf, TwoViews
from vsm_fast.lab.pairs.pairs import Pixels, points_of_flow

_STRIDE = 4


class ProceduralSubjects:
    """Textured solids, a new one each time, rendered from two views.

    Args:
        size: Side of the renderings in pixels.
    """

    name = "procedural"

    def __init__(self, size: int = 256) -> None:
        self._size = size

    def draw(self, rng: np.random.Generator, donors: Sequence[Pixels], mask_of: MaskOf) -> TwoViews:
        """Two renderings of a new subject."""
        return self._rendered(rng)

    def _rendered(self, rng: np.random.Generator) -> TwoViews:
        subject = make_subject(rng)
        cameras = sample_cameras(rng)
        views = [render(subject, camera, sample_light(rng), self._size, None) for camera in cameras]
        masks = views[0].mask, views[1].mask
        flow = correspondence(views[0], views[1], cameras[1])
        name = f"procedural-{rng.integers(2**32):08x}"
        return TwoViews(
            name,
            "rendering",
            (views[0].pixels, views[1].pixels),
            masks,
            (name, name),
            points_of_flow(flow, *masks, _STRIDE),
        )

    def pictures(self) -> list[Pixels]:
        """Renderings of a few subjects: textures to paste."""
        return [self._rendered(np.random.default_rng(n)).pixels[0] for n in range(8)]
