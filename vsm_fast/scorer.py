"""The scorer: the one file that knows the order of the stages.

Image -> pixels and mask -> features -> descriptors -> matches -> scores. References are
described once and kept; generations stream through in batches, so that memory does not grow
with their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vsm_fast.cache import DescriptorCache
from vsm_fast.describer import Describer, OnError
from vsm_fast.descriptors import Descriptors
from vsm_fast.errors import ModelError, PairingError, Status
from vsm_fast.identity import require_same_model
from vsm_fast.images.inputs import (
    Images,
    Masks,
    distinct,
    image_list,
    image_names,
    mask_list,
    pair_up,
)
from vsm_fast.images.loading import ImageSource
from vsm_fast.images.masks import Mask
from vsm_fast.images.subjects import Subject
from vsm_fast.images.tensors import prepare_tensors
from vsm_fast.matching.match import match
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.progress import Progress, reporting
from vsm_fast.results.collector import MatchedSides, ScoreCollector
from vsm_fast.results.scores import VSMScores
from vsm_fast.runtimes.choose import LoadedModel, load_runtime
from vsm_fast.runtimes.torch_runtime import TorchRuntime
from vsm_fast.torch_state import pinned


class VSMScorer:
    """Scores generated images against references with one model, which it keeps.

    Args:
        model: The model and what runs it.
        cache: Where descriptors are looked up before the network runs, and kept afterwards.

    Attributes:
        config: The model's configuration.
        runtime: What runs its network.
        device: Where it runs.
        identity: What decides its descriptors, which carry it.

    Raises:
        ModelError: A cache, and a model whose weights have no recorded hashes.

    Example:
        >>> scorer = VSMScorer.from_pretrained("tiny")
        >>> reference = scorer.describe(["cat.png"])                      # doctest: +SKIP
        >>> scorer.score(refs=reference, gens=["a.png", "b.png"]).score   # doctest: +SKIP
    """

    def __init__(self, model: LoadedModel, *, cache: DescriptorCache | None = None) -> None:
        self.config = model.config
        self.runtime = model.runtime
        self.device = model.runtime.device
        self.cache = cache
        self._describer = Describer(model, cache)
        self.identity = self._describer.identity

    @property
    def network(self) -> DescriptorNetwork:
        """The torch modules, for what looks inside the network.

        Raises:
            ModelError: The runtime is not torch's and has none.
        """
        if not isinstance(self.runtime, TorchRuntime):
            raise ModelError(
                f"runtime {self.runtime.name!r} runs an exported network, whose parts cannot be "
                "looked into; use runtime 'torch'."
            )
        return self.runtime.network

    @property
    def recomputed(self) -> int:
        """Images that were computed again in float32, as the precision gave NaN or Inf."""
        return self._describer.recomputed

    @classmethod
    @pinned()
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = "tiny",
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        runtime: str = "auto",
        local_files_only: bool = False,
        cache: str | os.PathLike[str] | DescriptorCache | None = None,
    ) -> VSMScorer:
        """Load a model.

        Args:
            name_or_path: ``"tiny"`` (embedded), a model folder, a converted preset, or a Hub
                repository id.
            revision: Commit, tag or branch of a Hub repository.
            device: ``"auto"`` (CUDA when there is one), or a torch device.
            dtype: ``"auto"`` (float32 on a CPU, bfloat16 on CUDA), or a name like ``"float32"``.
            runtime: What runs the network: ``"auto"``, ``"torch"``, ``"onnxruntime"`` (extra
                ``onnx``), ``"tensorrt"`` (extra ``gpu``; the first use builds for minutes), or
                ``"torch-compile"`` (minutes of compiling, for long runs).
            local_files_only: Never ask the network, even for a Hub repository.
            cache: Folder for descriptors, so that no image is described twice, in this process
                or a later one; or a ``DescriptorCache``.

        Raises:
            ModelError: Files are missing, altered or do not fit together.
            ValueError: An unknown dtype or runtime.
            OSError: The cache's folder cannot be written to.
        """
        model = load_runtime(
            name_or_path,
            revision=revision,
            device=device,
            dtype=dtype,
            runtime=runtime,
            local_files_only=local_files_only,
        )
        if cache is not None and not isinstance(cache, DescriptorCache):
            cache = DescriptorCache(cache)
        return cls(model, cache=cache)

    @pinned()
    def describe(
        self,
        images: Images,
        masks: Masks = None,
        *,
        batch_size: int | None = None,
        on_error: OnError = "raise",
    ) -> Descriptors:
        """Describe subjects once, to score against them as often as needed.

        Args:
            images: Paths, PIL images, uint8 arrays [H, W, 3] or float tensors [3, H, W] in [0, 1].
            masks: One per image or None: path, PIL image, bool or uint8 array [H, W]; ``"auto"``
                or an ``AutoMask`` to find the subjects (docs/how-to/masks.md).
            batch_size: Images per forward pass; None chooses.
            on_error: ``"raise"``, or ``"record"`` to leave a bad image's range empty; its pairs
                have its status.

        Returns:
            The descriptors of the subjects, in order, with the names of their files. With
            ``batch_size=1``, last bits depend on nothing but the image.

        Raises:
            InputError: An image or mask cannot be used and ``on_error`` is ``"raise"``.
        """
        listed = image_list(images, "images")
        all_masks = mask_list(masks, len(listed), "image")
        return self._describe(listed, all_masks, batch_size, on_error, lambda _: None)

    @pinned()
    def describe_tensors(
        self,
        images: Tensor | Sequence[Tensor],
        masks: Tensor | Sequence[Tensor] | None = None,
        *,
        batch_size: int | None = None,
    ) -> Descriptors:
        """Describe a batch of tensors without leaving their device, and without gradients.

        Descriptors are those of :meth:`describe` but for rounding; the cache is not asked. What is
        read back from a device are the range of the values and which cells lie on the subjects.

        Args:
            images: [B, 3, H, W], or tensors [3, H, W] of any sizes; float in [0, 1] or uint8.
            masks: bool or uint8 [B, H, W], or tensors [H, W]; None = the whole images.
            batch_size: Images per forward pass; None chooses.

        Returns:
            The descriptors of the subjects, in order; an image with NaN or Inf has no point.

        Raises:
            InputError: Images or masks of another type or shape, or finite values beyond [0, 1].
            ValueError: A batch size below 1.
        """
        size = self._describer.batch_size(batch_size)
        parts = [self._describer.nothing()]
        for start in range(0, len(images), size):
            span = slice(start, start + size)
            some = images[span] if isinstance(images, Tensor) else list(images[span])
            some_masks = None if masks is None else masks[span]
            pixels, cells = prepare_tensors(some, some_masks, self.config)
            parts.append(self._describer.computed(pixels, cells))
        return Descriptors.cat(parts)

    @pinned()
    def score(
        self,
        refs: Images | Descriptors,
        gens: Images,
        *,
        pairs: ArrayLike | None = None,
        ref_masks: Masks = None,
        gen_masks: Masks = None,
        semantic_threshold: float | None = None,
        visual_threshold: float | None = None,
        batch_size: int | None = None,
        heatmaps: bool = False,
        on_error: OnError = "record",
        progress: Progress = None,
    ) -> VSMScores:
        """Score generated images against references.

        Args:
            refs: References as for :meth:`describe`, or what it returned. Equal paths with equal
                masks are described once.
            gens: Generated images.
            pairs: int [P, 2], (index in ``refs``, index in ``gens``) of each pair. None: one
                reference against every generation, or lists of equal length pair up.
            ref_masks: Subject masks as for :meth:`describe`; None = alpha channel if there is
                one, else whole image.
            gen_masks: The same for ``gens``.
            semantic_threshold: In [-1, 1]; None = the model's.
            visual_threshold: In [-1, 1]; None = the model's.
            batch_size: Images per forward pass; None chooses.
            heatmaps: Keep what :meth:`VSMScores.heatmap` needs, and the matched points.
            on_error: ``"record"`` gives a bad image's rows a status and NaN; ``"raise"`` stops.
            progress: True for a bar, or a function of (images done, images in all).

        Returns:
            One row per pair, in the order of ``pairs``.

        Raises:
            PairingError: Lists that do not pair up, or an index out of range.
            TypeError: A folder, or a set, where images were wanted.
            ModelError: ``refs`` were described by another model.
            ValueError: A threshold outside [-1, 1], or a batch size below 1.
            InputError: A bad image or mask, only with ``on_error="raise"``.

        Source: arXiv 2509.21989, the VSM metric.
        """
        ref_list = refs if isinstance(refs, Descriptors) else image_list(refs, "refs")
        gen_list = image_list(gens, "gens")
        pair_index = pair_up(pairs, len(ref_list), len(gen_list))
        gen_mask_list = mask_list(gen_masks, len(gen_list), "gen")
        semantic, visual = self.thresholds(semantic_threshold, visual_threshold)
        collector = ScoreCollector(pair_index, visual, heatmaps)
        by_generation = np.argsort(pair_index[:, 1], kind="stable")
        with reporting(progress, len(ref_list) + len(gen_list)) as advance:
            references, ref_subjects, place = self._references(
                ref_list, ref_masks, batch_size, on_error, advance
            )
            described_pairs = np.stack([place[pair_index[:, 0]], pair_index[:, 1]], axis=1)
            for first, described, subjects in self._describer.batches(
                gen_list, gen_mask_list, batch_size, on_error
            ):
                last = first + len(subjects)
                span = pair_index[by_generation, 1].searchsorted([first, last])
                rows = by_generation[span[0] : span[1]]
                # Consecutive pairs with one reference are matched together.
                rows = rows[np.argsort(described_pairs[rows, 0], kind="stable")]
                batch_pairs = described_pairs[rows, ::-1] - (first, 0)
                matches = match(
                    described,
                    references,
                    torch.from_numpy(batch_pairs),
                    semantic,
                    visual_thresholds=[visual],
                )
                sides = MatchedSides(described, references, batch_pairs)
                collector.add(rows, matches, sides, ref_subjects, subjects, first)
                advance(len(subjects))
        return collector.finish(
            ref_ids=image_names(ref_list, "ref"),
            gen_ids=image_names(gen_list, "gen"),
            model=self.config.name,
            semantic_threshold=semantic,
        )

    def thresholds(self, semantic: float | None, visual: float | None) -> tuple[float, float]:
        """The semantic and the visual threshold, with the model's own for None.

        Raises:
            ValueError: One is outside [-1, 1].
        """
        own = self.config.thresholds
        return (
            _threshold("semantic", semantic, own.semantic),
            _threshold("visual", visual, own.visual),
        )

    @pinned()
    def ready(self, described: Descriptors) -> Descriptors:
        """Descriptors as :meth:`score` compares them, on this scorer's device.

        Those of the same model in another runtime or precision are taken. Of descriptors without
        an identity, which no scorer described, only grid and channels are checked.

        Raises:
            ModelError: They are another model's.
        """
        self._check_model_of(described)
        return described.to(self.device, self._describer.dtype)

    def _references(
        self,
        refs: Sequence[ImageSource] | Descriptors,
        masks: Masks,
        batch_size: int | None,
        on_error: OnError,
        advance: Callable[[int], None],
    ) -> tuple[Descriptors, Sequence[Subject], NDArray[np.int64]]:
        """Descriptors of the references that differ, all subjects, and where each one's are."""
        if isinstance(refs, Descriptors):
            if masks is not None:
                raise PairingError(
                    "ref_masks came with references that are described already; pass the masks "
                    "to describe() instead."
                )
            advance(len(refs))
            known = refs.subjects or [_described_subject(refs, i) for i in range(len(refs))]
            return self.ready(refs), known, np.arange(len(refs))
        listed = mask_list(masks, len(refs), "ref")
        first, place = distinct(refs, listed)
        described = self._describe(refs, listed, batch_size, on_error, advance, first)
        if len(first) < len(refs):
            advance(len(refs) - len(first))
        return described, [described.subjects[index] for index in place], place

    def _describe(
        self,
        images: Sequence[ImageSource],
        masks: Sequence[Mask],
        batch_size: int | None,
        on_error: OnError,
        advance: Callable[[int], None],
        positions: Sequence[int] | None = None,
    ) -> Descriptors:
        """Descriptors of the images at ``positions``; None = of all."""
        parts: list[Descriptors] = [self._describer.nothing()]
        subjects: list[Subject] = []
        batches = self._describer.batches(images, masks, batch_size, on_error, positions)
        for _, part, batch in batches:
            parts.append(part)
            subjects += [subject.summary() for subject in batch]
            advance(len(batch))
        return replace(Descriptors.cat(parts), subjects=tuple(subjects))

    def _check_model_of(self, described: Descriptors) -> None:
        aggregation = self.config.aggregation
        wanted = (aggregation.grid, aggregation.descriptor_channels)
        require_same_model(described.identity, self.identity)
        found = (described.grid, described.semantic.shape[1])
        if found != wanted:
            raise ModelError(
                f"the references were described by another model: grid and channels are {found}, "
                f"those of {self.config.name!r} are {wanted}. Describe them with this scorer."
            )


def _threshold(name: str, given: float | None, default: float) -> float:
    value = default if given is None else float(given)
    if not -1 <= value <= 1:
        raise ValueError(f"{name}_threshold must be a similarity in [-1, 1]; got {given!r}.")
    return value


def _described_subject(described: Descriptors, image: int) -> Subject:
    if described.points(image):
        return Subject()
    return Subject(Status.EMPTY_MASK, "its descriptors have no point.")
