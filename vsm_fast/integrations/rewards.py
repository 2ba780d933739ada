"""VSM as a reward: scores of batches of tensors, on their device and without gradients."""

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
    """Scores generated tensors against references, which are described once.

    Images, features, descriptors and scores stay on the scorer's device; no image is decoded,
    resized or compared on the CPU. Scores are those of :meth:`VSMScorer.score` but for rounding:
    a point at a threshold may fall on its other side.

    Args:
        scorer: The model.
        references: As for :meth:`VSMScorer.describe`, or what it returned.
        ref_masks: Their subject masks; only with images.
        semantic_threshold: In [-1, 1]; None = the model's.
        visual_threshold: In [-1, 1]; None = the model's.
        undefined: Reward where there is no score: no point matched, an empty mask, or NaN or Inf
            among the pixels. NaN by default, so that nobody takes "no answer" for "inconsistent"
            unawares.

    Attributes:
        scorer: The model.
        references: Descriptors of the references.

    Raises:
        InputError: A reference or its mask cannot be used.
        PairingError: Masks that are not as many as the references, or for described ones.
        ModelError: The references were described by another model.
        ValueError: A threshold outside [-1, 1].

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
                "ref_masks came with references that are described already; pass the masks to "
                "describe() instead."
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
            generations: [B, 3, H, W], or tensors [3, H, W] of any sizes; float in [0, 1] or uint8.
            masks: bool or uint8 [B, H, W], or tensors [H, W]: the generated subjects; None = the
                whole images.
            reference: Position in ``references`` of each generation's, [B]. None: the only one, or
                as many references as generations pair up.
            batch_size: Images per forward pass; None chooses.

        Returns:
            float32 [B] in [0, 1] on the scorer's device, 1 = consistent; ``undefined`` where there
            is no score.

        Raises:
            InputError: Images or masks of another type or shape, or finite values beyond [0, 1].
            PairingError: Generations that do not pair up with the references.
        """
        pairs = self._pairs(len(generations), reference)
        described = self.scorer.describe_tensors(generations, masks, batch_size=batch_size)
        thresholds = [self._visual]
        matches = match(
            described, self.references, pairs, self._semantic, visual_thresholds=thresholds
        )
        n_matched, n_passed = count(matches, thresholds).unbind(1)
        score = n_passed.float() / n_matched.float()
        return score.where(n_matched > 0, self._undefined)

    def _pairs(self, generations: int, reference: Sequence[int] | Tensor | None) -> Tensor:
        """int64 [B, 2]: (generation, reference) positions."""
        references = len(self.references)
        if reference is not None:
            chosen = torch.as_tensor(reference).cpu()
            if chosen.shape != (generations,) or (generations and chosen.is_floating_point()):
                raise PairingError(
                    f"reference must be {generations} whole numbers, one a generation; got "
                    f"{chosen.dtype} {list(chosen.shape)}."
                )
            if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < references:
                raise PairingError(
                    f"reference must lie in [0, {references}); got {int(chosen.min())} to "
                    f"{int(chosen.max())}."
                )
        elif references == 1:
            chosen = torch.zeros(generations, dtype=torch.int64)
        elif references == generations:
            chosen = torch.arange(generations)
        else:
            raise PairingError(
                f"cannot pair {generations} generations with {references} references: say which "
                "with reference=[...]."
            )
        return torch.stack([torch.arange(generations), chosen.long()], dim=1)
