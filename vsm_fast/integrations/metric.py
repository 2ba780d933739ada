"""VSM as a TorchMetrics metric."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from vsm_fast.descriptors import Descriptors
from vsm_fast.extras import required
from vsm_fast.identity import ModelIdentity, require_same_model
from vsm_fast.integrations.rewards import VSMReward
from vsm_fast.model.location import lasting_name
from vsm_fast.scorer import VSMScorer, cached_scorer
from vsm_fast.torch_state import pinned

if TYPE_CHECKING:
    from torchmetrics import Metric
else:
    required("torchmetrics", "VisualSemanticMatching")
    from torchmetrics import Metric

TensorImages = Tensor | Sequence[Tensor]
Reduction = Literal["mean", "none"]


@pinned()
def visual_semantic_matching(
    preds: TensorImages,
    target: TensorImages | Descriptors,
    preds_mask: TensorImages | None = None,
    target_mask: TensorImages | None = None,
    *,
    model: str | os.PathLike[str] | VSMScorer = "tiny",
    reduction: Reduction = "mean",
    semantic_threshold: float | None = None,
    visual_threshold: float | None = None,
) -> Tensor:
    """Score generated images against references: :class:`VisualSemanticMatching` of one batch.

    Args:
        preds: Generated images, [B, 3, H, W] or tensors [3, H, W]; float in [0, 1] or uint8.
        target: References, one per image or one for all; or descriptors of ``VSMScorer.describe``.
        preds_mask: Subject masks of ``preds``, bool or uint8 [B, H, W] or tensors [H, W]; None =
            the whole images.
        target_mask: Subject masks of ``target``.
        model: Name or folder of a model, loaded on the device of ``preds`` and cached; or a scorer.
        reduction: ``"mean"`` over the pairs with a score, or ``"none"``.
        semantic_threshold: In [-1, 1]; None = the model's.
        visual_threshold: In [-1, 1]; None = the model's.

    Returns:
        float32 [] or [B] in [0, 1], 1 = consistent; NaN if undefined.

    Raises:
        InputError: If images or masks have another type or shape, or finite values beyond [0, 1].
        PairingError: If images cannot be paired.
        ModelError: If the model is missing or altered.
        ValueError: If a threshold is outside [-1, 1], or ``reduction`` is unknown.

    Source: arXiv 2509.21989, the definition of VSM.

    Example:
        >>> import torch
        >>> images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
        >>> visual_semantic_matching(preds=images, target=images)
        tensor(1.)
        >>> visual_semantic_matching(preds=images, target=images, reduction="none")
        tensor([1., 1.])
    """
    _check_reduction(reduction)
    if isinstance(model, VSMScorer):
        scorer = model
    else:
        first = preds if isinstance(preds, Tensor) else next(iter(preds), torch.empty(0))
        scorer = cached_scorer(model, device=str(first.device))
    scores = _scores(
        scorer, preds, target, preds_mask, target_mask, semantic_threshold, visual_threshold
    )
    return scores.nanmean() if reduction == "mean" else scores


class VisualSemanticMatching(Metric):
    """Visual Semantic Matching of generated images with references of their subject.

    ``VSM`` is the share of the points ``j`` of a generated image with a semantic match in its
    reference whose best visual similarity ``v_j`` to any point of the reference exceeds ``τ_v``.

    ``forward`` and ``update`` take generated images first, as in TorchMetrics
    (``VSMScorer.score(refs, gens)`` takes references first; pass both by name):

    - ``preds``: generated images, [B, 3, H, W] or tensors [3, H, W]; float in [0, 1] or uint8;
    - ``target``: references, one per image or one for all; or descriptors of
      ``VSMScorer.describe``, computed once;
    - ``preds_mask``, ``target_mask``: their subject masks, bool or uint8 [B, H, W] or tensors
      [H, W]; None = the whole images.

    ``forward`` and ``compute`` return the mean over the pairs with a score, float32 [] in [0, 1],
    1 = consistent; with ``reduction="none"`` every score, [pairs].

    A pair is undefined if no point matches, a mask is empty, or pixels contain NaN or Inf. It never
    counts as 0: the mean omits it, the state ``n_undefined`` counts it, and its single score is
    NaN. The mean is NaN if no pair has a score. A warning is issued once.

    The weights are not part of the metric's state: the metric moves with its module, copies share
    one network, and checkpoints do not grow. Processes exchange only sums.

    Args:
        model: Name or folder of a model, loaded on first use on the metric's device; or a scorer,
            which stays on its device. Replacing the folder later is an error, because a mean
            belongs to one model.
        reduction: ``"mean"``, or ``"none"`` to keep every score.
        semantic_threshold: In [-1, 1]; None = the model's.
        visual_threshold: In [-1, 1]; None = the model's.
        **kwargs: Options of ``torchmetrics.Metric``.

    Attributes:
        score_sum: float32 [], sum of the scores.
        n_scored: int64 [], pairs with a score.
        n_undefined: int64 [], pairs without a score; of all processes inside
            ``with metric.sync_context():``.
        scores: float32 tensors, only with ``reduction="none"``.

    Raises:
        ImportError: If torchmetrics is not installed.
        ValueError: If ``reduction`` is unknown; in ``update`` also if a threshold is outside
            [-1, 1].

    Source: arXiv 2509.21989, the definition of VSM.

    Example:
        >>> import torch
        >>> from vsm_fast import VisualSemanticMatching
        >>> images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
        >>> metric = VisualSemanticMatching("tiny")
        >>> metric(preds=images, target=images)
        tensor(1.)
        >>> metric.update(preds=1 - images, target=images)
        >>> bool(metric.compute() < 1), metric.n_undefined
        (True, tensor(0))
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    score_sum: Tensor
    n_scored: Tensor
    n_undefined: Tensor
    scores: list[Tensor] | Tensor  # one tensor after an exchange between processes

    @pinned()
    def __init__(
        self,
        model: str | os.PathLike[str] | VSMScorer = "tiny",
        *,
        reduction: Reduction = "mean",
        semantic_threshold: float | None = None,
        visual_threshold: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_reduction(reduction)
        self.reduction = reduction
        self._model = _Shared(model) if isinstance(model, VSMScorer) else lasting_name(model)
        self._identity: ModelIdentity | None = None
        self._thresholds = semantic_threshold, visual_threshold
        self.add_state("score_sum", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("n_scored", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("n_undefined", default=torch.tensor(0), dist_reduce_fx="sum")
        if reduction == "none":
            self.add_state("scores", default=[], dist_reduce_fx="cat")

    @property
    def scorer(self) -> VSMScorer:
        """The scorer, on the metric's device unless the caller supplied it.

        Raises:
            ModelError: If its folder was replaced since the last use.
        """
        if isinstance(self._model, _Shared):
            return self._model.scorer
        scorer = cached_scorer(self._model, device=str(self.device))
        require_same_model(self._identity, scorer.identity)
        self._identity = scorer.identity
        return scorer

    @pinned()
    def update(
        self,
        preds: TensorImages,
        target: TensorImages | Descriptors,
        preds_mask: TensorImages | None = None,
        target_mask: TensorImages | None = None,
    ) -> None:
        """Score a batch and add it to the state.

        Args:
            preds: Generated images.
            target: References, one per image or one for all; or descriptors.
            preds_mask: Subject masks of ``preds``; None = the whole images.
            target_mask: Subject masks of ``target``; None = the whole images.

        Raises:
            InputError: If images or masks have another type or shape, or finite values beyond
                [0, 1].
            PairingError: If images cannot be paired.
        """
        scores = _scores(self.scorer, preds, target, preds_mask, target_mask, *self._thresholds)
        scores = scores.to(self.score_sum.device)
        undefined = scores.isnan()
        # Not in place: tensors that reset() creates in inference mode are immutable outside it.
        self.score_sum = self.score_sum + scores.nansum()
        self.n_scored = self.n_scored + (~undefined).sum()
        self.n_undefined = self.n_undefined + undefined.sum()
        if self.reduction == "none":
            assert isinstance(self.scores, list)
            self.scores.append(scores)

    @pinned()
    def compute(self) -> Tensor:
        """Return the mean, or every score; see the class."""
        if self.n_undefined > 0:
            from torchmetrics.utilities import rank_zero_warn

            rank_zero_warn(
                "VisualSemanticMatching: some pairs have no score. The mean omits them, and "
                "n_undefined counts them.",
                UserWarning,
            )
        if self.reduction == "mean":
            return self.score_sum / self.n_scored
        parts = [self.scores] if isinstance(self.scores, Tensor) else self.scores
        return torch.cat([self.score_sum.new_empty(0), *parts])

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value, or a series of values.

        Args:
            val: Result of ``forward`` or ``compute``, or a list of results; None computes.
            ax: A matplotlib axis to draw on.

        Returns:
            A matplotlib figure and its axis.

        Raises:
            ModuleNotFoundError: If matplotlib is not installed.

        Example:
            >>> import torch
            >>> from vsm_fast import VisualSemanticMatching
            >>> metric = VisualSemanticMatching("tiny")
            >>> figure, axis = metric.plot([torch.tensor(0.4), torch.tensor(0.7)])
            >>> axis.get_ylabel()
            'VisualSemanticMatching'
        """
        return self._plot(val, ax)


@dataclass(frozen=True)
class _Shared:
    """Scorer shared by copies of a metric."""

    scorer: VSMScorer

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be 'mean' or 'none'; got {reduction!r}.")


def _scores(
    scorer: VSMScorer,
    preds: TensorImages,
    target: TensorImages | Descriptors,
    preds_mask: TensorImages | None,
    target_mask: TensorImages | None,
    semantic_threshold: float | None,
    visual_threshold: float | None,
) -> Tensor:
    """Return float32 [B], NaN if undefined."""
    if not isinstance(target, Descriptors):
        target, target_mask = scorer.describe_tensors(target, target_mask), None
    reward = VSMReward(
        scorer,
        target,
        target_mask,
        semantic_threshold=semantic_threshold,
        visual_threshold=visual_threshold,
    )
    return reward(preds, preds_mask)
