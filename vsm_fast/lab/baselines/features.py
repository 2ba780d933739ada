"""Baselines on the model's own features: what VSM adds to the network it runs on."""

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
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.scorer import VSMScorer

_BATCH = 8  # images per forward pass


@dataclass(frozen=True)
class CellFeatures:
    """Features of the grid cells of one subject; rows of unit length, float32 [N, C] each.

    Attributes:
        raw: The backbone's levels, each resized to the grid and normalised, side by side.
        semantic: Semantic descriptors.
        visual: Visual descriptors.
    """

    raw: Tensor
    semantic: Tensor
    visual: Tensor


class SubjectFeatures:
    """Runs the network on both images of each pair; remembers the batch it saw last.

    The baselines of one evaluation share one, so that each image is described once for them.

    Args:
        scorer: Whose network and framing to use.
    """

    def __init__(self, scorer: VSMScorer) -> None:
        self._scorer = scorer
        self._pairs: tuple[ControlledPair, ...] = ()
        self._features: list[CellFeatures | None] = []

    def __call__(
        self, pairs: Sequence[ControlledPair]
    ) -> list[tuple[CellFeatures | None, CellFeatures | None]]:
        """(generation, reference) of each pair; None for an image without a subject."""
        seen = len(pairs) == len(self._pairs)
        if not (seen and all(a is b for a, b in zip(pairs, self._pairs, strict=True))):
            images = [(pair.altered_1, pair.mask_1) for pair in pairs]
            images += [(pair.original_2, pair.mask_2) for pair in pairs]
            self._features = []
            for start in range(0, len(images), _BATCH):
                self._features += self._describe(images[start : start + _BATCH])
            self._pairs = tuple(pairs)
        count = len(pairs)
        return list(zip(self._features[:count], self._features[count:], strict=True))

    @torch.inference_mode()
    def _describe(
        self, images: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]]
    ) -> list[CellFeatures | None]:
        config, network = self._scorer.config, self._scorer.network
        subjects = [prepare_subject(pixels, mask, "image", config) for pixels, mask in images]
        pixels = [s.pixels for s in subjects if s.status is Status.OK and s.pixels is not None]
        if not pixels:
            return [None] * len(images)
        batch = torch.stack(pixels).to(self._scorer.device)
        levels = network.backbone(batch.to(network.semantic.mixing_weights.dtype))
        semantic, visual = network.semantic(levels), network.visual(levels)
        raw = _side_by_side(levels, config.aggregation.grid)
        described: list[CellFeatures | None] = []
        row = 0
        for subject in subjects:
            if subject.cell_mask is None or subject.pixels is None:
                described.append(None)
                continue
            cells = torch.from_numpy(subject.cell_mask).flatten()
            maps = (maps[row].flatten(1).T.float().cpu() for maps in (raw, semantic, visual))
            described.append(CellFeatures(*(rows[cells] for rows in maps)))
            row += 1
        return described


def _side_by_side(levels: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """Levels on one grid, [B, sum of channels, h, w], unit length: every level counts alike."""
    resized = [
        F.interpolate(level.float(), size=grid, mode="bilinear", align_corners=False)
        for level in levels
    ]
    joined = torch.cat([F.normalize(level, dim=1) for level in resized], dim=1)
    return joined.div_(float(len(resized)) ** 0.5)


class GlobalCosine:
    """Cosine of the mean features of the two subjects, as CLIP-I and DINO compare images.

    Args:
        features: Shared by the baselines.
        branch: ``"raw"`` (the backbone), ``"semantic"`` or ``"visual"`` (the descriptors).
    """

    def __init__(self, features: SubjectFeatures, branch: str) -> None:
        self._features, self._branch = features, branch
        self.name = "feature-cosine" if branch == "raw" else f"{branch}-cosine"

    def __call__(self, pairs: Sequence[ControlledPair]) -> NDArray[np.float64]:
        """See :class:`vsm_fast.lab.baselines.Baseline`."""

        def cosine(generation: CellFeatures, reference: CellFeatures) -> Tensor:
            one, two = (getattr(side, self._branch).mean(0) for side in (generation, reference))
            return F.cosine_similarity(one, two, dim=0)

        return _each(self._features(pairs), cosine)


class PatchNearest:
    """Mean, over the generation's cells, of the best cosine with any cell of the reference.

    On the backbone's raw features: patch matching as it is done with DINO, without VSM's two
    spaces, threshold and one-to-one rule.

    Args:
        features: Shared by the baselines.
    """

    name = "patch-nearest"

    def __init__(self, features: SubjectFeatures) -> None:
        self._features = features

    def __call__(self, pairs: Sequence[ControlledPair]) -> NDArray[np.float64]:
        """See :class:`vsm_fast.lab.baselines.Baseline`."""
        return _each(
            self._features(pairs),
            lambda generation, reference: (generation.raw @ reference.raw.T).amax(1).mean(),
        )


def _each(
    sides: Sequence[tuple[CellFeatures | None, CellFeatures | None]],
    compare: Callable[[CellFeatures, CellFeatures], Tensor],
) -> NDArray[np.float64]:
    values = [
        float("nan") if generation is None or reference is None
        else float(compare(generation, reference))
        for generation, reference in sides
    ]  # fmt: skip
    return np.array(values, np.float64)
