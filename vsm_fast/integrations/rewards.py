"""VSM as a reward: scores of tensor batches on their device, without gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vsm_fast.descriptors import Descriptors
from vsm_fast.errors import PairingError
from vsm_fast.images.inputs import Images, Masks
from vsm_fast.matching.match import match
from vsm_fast.matching.scoring import count
from vsm_fast.scorer import VSMScorer
from vsm_fast.torch_state import pinned


class VSMReward:
    """Reward for generated tensors, scored against references whose descriptors it keeps.

    Images, features, descriptors and scores stay on the scorer's device. Scores equal those of
    :meth:`VSMScorer.score` up to rounding, which can move a point across a threshold.

    Args:
        scorer: The model.
        references: Images as in :meth:`VSMScorer.describe`, or their descriptors.
        ref_masks: Subject masks of the reference images.
        semantic_threshold: In [-1, 1]; None = the model's.
        visual_threshold: In [-1, 1]; None = the model's.
        undefined: Reward without a score: no matched point, an empty mask, or NaN or Inf among the
            pixels. The default NaN cannot be mistaken for "inconsistent".

    Attributes:
        scorer: The model.
        references: Descriptors of the references.

    Raises:
        InputError: If a reference or its mask is unusable.
        PairingError: If the masks do not match the references in number, or accompany descriptors.
        ModelError: If the descriptors belong to another model.
        ValueError: If a threshold is outside [-1, 1].

    Source: arXiv 2509.21989, the definition of VSM.

    Example:
        >>> import torch
        >>> from vsm_fast import VSMScorer
        >>> image = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
        >>> reward = VSMReward(VSMScorer.from_pretrained("tiny"), references=[image])
        >>> reward(torch.stack([image, image]))
        tensor([1., 1.])
    """

    @pinned()
    def __init__(
        self,
        scorer: VSMScorer,
        references: Images | Descriptors,
        ref_masks: Masks = None,
        *,
        semantic_threshold: float | None = None,
        visual_threshold: float | None = None,
        undefined: float = math.nan,
    ) -> None:
        self.scorer = scorer
        self._semantic, self._visual = scorer.thresholds(semantic_threshold, visual_threshold)
        self._undefined = undefined
        if not isinstance(references, Descriptors):
            references = scorer.describe(references, ref_masks)
        elif ref_masks is not None:
            raise PairingError(
                "ref_masks cannot be applied to descriptors. Pass the masks to describe() instead."
            )
        self.references = scorer.ready(references)

    @pinned()
    def __call__(
        self,
        generations: Tensor | Sequence[Tensor],
        masks: Tensor | Sequence[Tensor] | None = None,
        *,
        reference: Sequence[int] | Tensor | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Score a batch.

        Args:
            generations: Generated images, [B, 3, H, W] or tensors [3, H, W] of any sizes; float in
                [0, 1] or uint8.
            masks: Subject masks, bool or uint8 [B, H, W] or tensors [H, W]; None = whole images.
            reference: Position of each image's reference in ``references``, [B]. None: a single
                reference serves all images, several pair up in order.
            batch_size: Images per forward pass; None chooses.

        Returns:
            float32 [B] in [0, 1] on the scorer's device, 1 = consistent; ``undefined`` without a
            score.

        Raises:
            InputError: If images or masks have another type or shape, or finite values beyond
                [0, 1].
            PairingError: If images and references cannot be paired.
        """
        count_all, references = len(generations), len(self.references)
        if reference is not None:
            chosen = torch.as_tensor(reference).cpu()
            if chosen.shape != (count_all,) or (count_all and chosen.is_floating_point()):
                raise PairingError(
                    f"reference must be {count_all} whole numbers, one per generated image; got "
                    f"{chosen.dtype} {list(chosen.shape)}."
                )
            if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < references:
                raise PairingError(
                    f"reference must lie in [0, {references}); got {int(chosen.min())} to "
                    f"{int(chosen.max())}."
                )
        elif references == 1:
            chosen = torch.zeros(count_all, dtype=torch.int64)
        elif references == count_all:
            chosen = torch.arange(count_all)
        else:
            raise PairingError(
                f"cannot pair {count_all} generations with {references} references. Choose them "
                "with reference=[...]."
            )
        pairs = torch.stack([torch.arange(count_all), chosen.long()], dim=1)
        described = self.scorer.describe_tensors(generations, masks, batch_size=batch_size)
        thresholds = [self._visual]
        matches = match(
            described, self.references, pairs, self._semantic, visual_thresholds=thresholds
        )
        n_matched, n_passed = count(matches, thresholds).unbind(1)
        score = n_passed.float() / n_matched.float()
        return score.where(n_matched > 0, self._undefined)
