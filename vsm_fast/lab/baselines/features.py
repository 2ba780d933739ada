"""Feature baselines: simpler comparisons on the network that VSM uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vsm_fast.errors import Status
from vsm_fast.images.subjects import prepare_subject
from vsm_fast.lab.pairs.pairs import ControlledPair, Mask, Pixels
from vsm_fast.scorer import VSMScorer

_BATCH = 8  # images per forward pass


@dataclass(frozen=True)
class CellFeatures:
    """Features of the grid cells of one subject; unit-length rows, float32 [N, C] each.

    ``raw`` concatenates the backbone's levels, each resized to the grid and normalised.
    """

    raw: Tensor
    semantic: Tensor
    visual: Tensor


class SubjectFeatures:
    """Feature extraction with the scorer's network and framing, and a cache of the last batch.

    The baselines of one evaluation share an instance: each image passes the network once.
    """

    def __init__(self, scorer: VSMScorer) -> None:
        self._scorer = scorer
        self._pairs: tuple[ControlledPair, ...] = ()
        self._features: list[CellFeatures | None] = []

    def __call__(
        self, pairs: Sequence[ControlledPair]
    ) -> list[tuple[CellFeatures | None, CellFeatures | None]]:
        """Return (generated, reference) features per pair; None for an image without a subject."""
        if [*map(id, pairs)] != [*map(id, self._pairs)]:
            images = [(pair.altered_1, pair.mask_1) for pair in pairs]
            images += [(pair.original_2, pair.mask_2) for pair in pairs]
            self._features = []
            for start in range(0, len(images), _BATCH):
                self._features += self._extract(images[start : start + _BATCH])
            self._pairs = tuple(pairs)
        count = len(pairs)
        return list(zip(self._features[:count], self._features[count:], strict=True))

    @torch.inference_mode()
    def _extract(self, images: Sequence[tuple[Pixels, Mask]]) -> list[CellFeatures | None]:
        config, network = self._scorer.config, self._scorer.network
        subjects = [prepare_subject(pixels, mask, "image", config) for pixels, mask in images]
        pixels = [s.pixels for s in subjects if s.status is Status.OK and s.pixels is not None]
        if not pixels:
            return [None] * len(images)
        batch = torch.stack(pixels).to(self._scorer.device)
        levels = network.backbone(batch.to(network.semantic.mixing_weights.dtype))
        resized = [
            F.interpolate(
                level.float(), size=config.aggregation.grid, mode="bilinear", align_corners=False
            )
            for level in levels
        ]
        # Each level has unit length before concatenation: all levels count equally.
        raw = torch.cat([F.normalize(level, dim=1) for level in resized], dim=1)
        raw.div_(float(len(resized)) ** 0.5)
        maps = zip(raw, network.semantic(levels), network.visual(levels), strict=True)
        features: list[CellFeatures | None] = []
        for subject in subjects:
            if subject.cell_mask is None or subject.pixels is None:
                features.append(None)
                continue
            cells = torch.from_numpy(subject.cell_mask).flatten()
            rows = (image.flatten(1).T.float().cpu()[cells] for image in next(maps))
            features.append(CellFeatures(*rows))
        return features


@dataclass
class FeatureBaseline:
    """Baseline that maps the generated and the reference features to a scalar."""

    name: str
    features: SubjectFeatures
    compare: Callable[[CellFeatures, CellFeatures], Tensor]

    def __call__(self, pairs: Sequence[ControlledPair]) -> NDArray[np.float64]:
        """Return the value of each pair; NaN where an image has no subject."""
        values = np.full(len(pairs), np.nan)
        for row, (generation, reference) in enumerate(self.features(pairs)):
            if generation is not None and reference is not None:
                values[row] = self.compare(generation, reference)
        return values


def global_cosine(branch: str) -> Callable[[CellFeatures, CellFeatures], Tensor]:
    """Return the cosine of the mean features, the comparison of CLIP-I and DINO.

    Args:
        branch: ``"raw"`` (the backbone), ``"semantic"`` or ``"visual"`` (the descriptors).
    """

    def cosine(generation: CellFeatures, reference: CellFeatures) -> Tensor:
        one, two = (getattr(side, branch).mean(0) for side in (generation, reference))
        return F.cosine_similarity(one, two, dim=0)

    return cosine


def patch_nearest(generation: CellFeatures, reference: CellFeatures) -> Tensor:
    """Return the mean, over generated cells, of the best cosine with a reference cell.

    Uses the backbone's raw features: patch matching as with DINO, without VSM's two feature
    spaces, its threshold and its one-to-one rule.
    """
    return (generation.raw @ reference.raw.T).amax(1).mean()
