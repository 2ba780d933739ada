"""VSM as a TorchMetrics metric, for training and validation loops."""

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
        target: References, as many, or one for all; or what ``VSMScorer.describe`` returned.
        preds_mask: The generated subjects, bool or uint8 [B, H, W] or tensors [H, W]; None = the
            whole images.
        target_mask: The reference subjects.
        model: A model's name or folder, loaded where ``preds`` are and kept; or a scorer.
        reduction: ``"mean"`` over the pairs that have a score, or ``"none"``.
        semantic_threshold: In [-1, 1]; None = the model's.
        visual_threshold: In [-1, 1]; None = the model's.

    Returns:
        float32 [] or [B] in [0, 1], 1 = consistent; NaN where undefined.

    Raises:
        InputError: Images or masks of another type or shape, or finite values beyond [0, 1].
        PairingError: Images that do not pair up.
        ModelError: The model is missing or altered.
        ValueError: A threshold outside [-1, 1], or another reduction.

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
    scorer = model if isinstance(model, VSMScorer) else _load(model, _device(preds))
    scores = _scores(
        scorer, preds, target, preds_mask, target_mask, semantic_threshold, visual_threshold
    )
    return scores.nanmean() if reduction == "mean" else scores


class VisualSemanticMatching(Metric):
    r"""Visual Semantic Matching of generated images with references of their subject.

    With :math:`J` the points of a generation that match its reference semantically and :math:`v_j`
    the best visual similarity of such a point to any point of the reference,

    .. math:: \text{VSM} = \frac{1}{|J|} \sum_{j \in J} [v_j > \tau_v].

    As input to ``forward`` and ``update`` the metric accepts, generations first as in TorchMetrics
    (``VSMScorer.score(refs, gens)`` has the references first; pass both by name),

    - ``preds``: generated images, [B, 3, H, W] or tensors [3, H, W]; float in [0, 1] or uint8;
    - ``target``: references, as many, or one for all; or what ``VSMScorer.describe`` returned, so
      that a reference is described once;
    - ``preds_mask``, ``target_mask``: their subjects, bool or uint8 [B, H, W] or tensors [H, W];
      None = the whole images.

    As output of ``forward`` and ``compute`` it returns the mean over the pairs that have a score,
    float32 [] in [0, 1] with 1 = consistent, or with ``reduction="none"`` every score, [pairs].

    A pair is undefined where no point matched, a mask is empty, or NaN or Inf is among the pixels.
    It never counts as 0: it is left out of the mean, counted in the state ``n_undefined``, and NaN
    among the single scores. The mean is NaN where no pair has a score. A warning is given once.

    The model's weights are no part of the metric's state: the metric follows the module that it is
    part of to its device, copies share one network, and no checkpoint grows. Between processes
    only sums are exchanged.

    Args:
        model: A model's name or folder, loaded on first use onto the metric's device; or a scorer,
            which stays where it is. A folder that is replaced later is an error: a mean is one of
            one model.
        reduction: ``"mean"``, or ``"none"`` to keep every score.
        semantic_threshold: In [-1, 1]; None = the model's.
        visual_threshold: In [-1, 1]; None = the model's.
        **kwargs: Options of ``torchmetrics.Metric``.

    Attributes:
        score_sum: float32 [], of the pairs that have a score.
        n_scored: int64 [], how many these are.
        n_undefined: int64 [], pairs without a score. Of all processes inside
            ``with metric.sync_context():``.
        scores: float32 tensors, only with ``reduction="none"``.

    Raises:
        ImportError: torchmetrics is not installed (extra ``metric``).
        ValueError: Another reduction; ``update`` also for a threshold outside [-1, 1].

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
        """The model, on the metric's device unless it was given as a scorer.

        Raises:
            ModelError: Its folder was replaced since the metric used it.
        """
        if isinstance(self._model, _Shared):
            return self._model.scorer
        found = _load(self._model, self.device)
        require_same_model(self._identity, found.identity)
        self._identity = found.identity
        return found

    @pinned()
    def update(
        self,
        preds: TensorImages,
        target: TensorImages | Descriptors,
        preds_mask: TensorImages | None = None,
        target_mask: TensorImages | None = None,
    ) -> None:
        """Score a batch and add it up.

        Args:
            preds: Generated images.
            target: References, as many, or one for all; or described ones.
            preds_mask: The generated subjects; None = the whole images.
            target_mask: The reference subjects; None = the whole images.

        Raises:
            InputError: Images or masks of another type or shape, or finite values beyond [0, 1].
            PairingError: Images that do not pair up.
        """
        found = _scores(self.scorer, preds, target, preds_mask, target_mask, *self._thresholds)
        found = found.to(self.score_sum.device)
        undefined = found.isnan()
        # Not in place: what reset() made in inference mode may not be changed outside of it.
        self.score_sum = self.score_sum + found.nansum()
        self.n_scored = self.n_scored + (~undefined).sum()
        self.n_undefined = self.n_undefined + undefined.sum()
        if self.reduction == "none":
            assert isinstance(self.scores, list)
            self.scores.append(found)

    @pinned()
    def compute(self) -> Tensor:
        """The mean, or every score; see the class."""
        if self.n_undefined > 0:
            from torchmetrics.utilities import rank_zero_warn

            rank_zero_warn(
                "VisualSemanticMatching: some pairs have no score. They are not part of the mean; "
                "n_undefined counts them.",
                UserWarning,
            )
        if self.reduction == "mean":
            return self.score_sum / self.n_scored
        parts = [self.scores] if isinstance(self.scores, Tensor) else self.scores
        return torch.cat([self.score_sum.new_empty(0), *parts])

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value, or several as they followed each other.

        Args:
            val: What ``forward`` or ``compute`` returned, or a list of that; None computes.
            ax: A matplotlib axis to draw on.

        Returns:
            A matplotlib figure and its axis.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.

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
    """A scorer that copies of a metric have in common."""

    scorer: VSMScorer

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


def _load(model: str | os.PathLike[str], device: torch.device) -> VSMScorer:
    return cached_scorer(model, device=str(device))


def _device(images: TensorImages) -> torch.device:
    if isinstance(images, Tensor):
        return images.device
    return images[0].device if len(images) else torch.device("cpu")


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
    """float32 [B], NaN where undefined."""
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
