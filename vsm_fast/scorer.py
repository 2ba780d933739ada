"""The scorer: the order of the stages.

Image -> pixels and mask -> features -> descriptors -> matches -> scores. Reference descriptors
stay in memory; generated images stream through in batches, so memory use is independent of
their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vsm_fast.cache import DescriptorCache
from vsm_fast.describer import Describer, OnError
from vsm_fast.descriptors import Descriptors
from vsm_fast.errors import ModelError, PairingError, Status
from vsm_fast.files import FolderState, folder_state
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
from vsm_fast.model.location import find_local, find_model
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.progress import Progress, reporting
from vsm_fast.results.collector import MatchedSides, ScoreCollector
from vsm_fast.results.scores import VSMScores
from vsm_fast.runtimes.choose import LoadedModel, load_runtime
from vsm_fast.runtimes.torch_runtime import TorchRuntime
from vsm_fast.torch_state import pinned


class VSMScorer:
    """Scorer of generated images against references with one loaded model.

    Args:
        model: Model and runtime.
        cache: Descriptor cache, consulted before the network runs. None disables caching.

    Attributes:
        config: Configuration of the model.
        runtime: Runtime of its network.
        device: Device of the runtime.
        identity: Identity that its descriptors carry.

    Raises:
        ModelError: If a cache is set and the weights have no recorded hashes.

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
        """Torch modules of the model, for inspection.

        Raises:
            ModelError: If the runtime executes an exported graph.
        """
        if not isinstance(self.runtime, TorchRuntime):
            raise ModelError(
                f"runtime {self.runtime.name!r} executes an exported graph, which has no torch "
                "modules. Use runtime 'torch'."
            )
        return self.runtime.network

    @property
    def recomputed(self) -> int:
        """Number of images recomputed in float32 after NaN or Inf in the runtime's precision."""
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
            device: ``"auto"`` (CUDA if available) or a torch device.
            dtype: ``"auto"`` (float32 on a CPU, bfloat16 on CUDA) or a name such as
                ``"float32"``.
            runtime: ``"auto"``, ``"torch"``, ``"onnxruntime"`` (extra ``onnx``), ``"tensorrt"``
                (extra ``gpu``; the first use builds an engine for minutes), or
                ``"torch-compile"`` (compiles for minutes; for long runs).
            local_files_only: Never access the network, even for a Hub repository.
            cache: ``DescriptorCache`` or its folder, shared with other processes. None disables
                caching.

        Raises:
            ModelError: If files are missing, altered or inconsistent.
            ValueError: If dtype or runtime is unknown.
            OSError: If the cache folder is not writable.
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
        """Extract the descriptors of subjects, for any number of later calls to :meth:`score`.

        Args:
            images: Paths, PIL images, uint8 arrays [H, W, 3] or float tensors [3, H, W] in [0, 1].
            masks: One per image or None: path, PIL image, bool or uint8 array [H, W]; ``"auto"``
                or an ``AutoMask`` to find the subjects (docs/how-to/masks.md).
            batch_size: Images per forward pass; None chooses.
            on_error: ``"raise"``, or ``"record"`` to give a bad image no points and its pairs a
                status.

        Returns:
            Descriptors in the order of ``images``, with file names. With ``batch_size=1`` each
            image's bits are independent of the other images.

        Raises:
            InputError: If an image or mask is unusable and ``on_error`` is ``"raise"``.
        """
        sources = image_list(images, "images")
        all_masks = mask_list(masks, len(sources), "image")
        return self._describe(sources, all_masks, batch_size, on_error, lambda _: None)

    @pinned()
    def describe_tensors(
        self,
        images: Tensor | Sequence[Tensor],
        masks: Tensor | Sequence[Tensor] | None = None,
        *,
        batch_size: int | None = None,
    ) -> Descriptors:
        """Extract descriptors from tensors on their device, without gradients and cache.

        Equal to :meth:`describe` up to rounding. Only the value range and the subject cells are
        copied back from a device.

        Args:
            images: [B, 3, H, W], or tensors [3, H, W] of any sizes; float in [0, 1] or uint8.
            masks: bool or uint8 [B, H, W], or tensors [H, W]; None = whole images.
            batch_size: Images per forward pass; None chooses.

        Returns:
            Descriptors in the order of ``images``; an image with NaN or Inf has no points.

        Raises:
            InputError: If images or masks have an unsupported type or shape, or finite values
                outside [0, 1].
            ValueError: If the batch size is below 1.
        """
        size = self._describer.batch_size(batch_size)
        parts = [self._describer.empty()]
        for start in range(0, len(images), size):
            span = slice(start, start + size)
            batch = images[span] if isinstance(images, Tensor) else list(images[span])
            batch_masks = None if masks is None else masks[span]
            pixels, cells = prepare_tensors(batch, batch_masks, self.config)
            parts.append(self._describer.compute(pixels, cells))
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
            refs: References as for :meth:`describe`, or its result. The network runs once per
                path and mask.
            gens: Generated images.
            pairs: int [P, 2], (index in ``refs``, index in ``gens``) per pair. None: one
                reference against every generated image, or lists of equal length in order.
            ref_masks: Subject masks as for :meth:`describe`; None = alpha channel if present,
                else the whole image.
            gen_masks: The same for ``gens``.
            semantic_threshold: In [-1, 1]; None = the model's.
            visual_threshold: In [-1, 1]; None = the model's.
            batch_size: Images per forward pass; None chooses.
            heatmaps: Keep the evidence for :meth:`VSMScores.heatmap`, and the matched points.
            on_error: ``"record"`` gives the rows of a bad image a status and NaN; ``"raise"``
                stops.
            progress: True for a bar, or a function of (finished images, all images).

        Returns:
            One row per pair, in the order of ``pairs``.

        Raises:
            PairingError: If the lists do not pair up or an index is out of range.
            TypeError: If a folder or a set is passed as images.
            ModelError: If ``refs`` come from another model.
            ValueError: If a threshold is outside [-1, 1] or the batch size below 1.
            InputError: If an image or mask is unusable and ``on_error`` is ``"raise"``.

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
            references, ref_subjects, position = self._references(
                ref_list, ref_masks, batch_size, on_error, advance
            )
            positions = np.stack([position[pair_index[:, 0]], pair_index[:, 1]], axis=1)
            for first, descriptors, subjects in self._describer.batches(
                gen_list, gen_mask_list, batch_size, on_error
            ):
                last = first + len(subjects)
                span = pair_index[by_generation, 1].searchsorted([first, last])
                rows = by_generation[span[0] : span[1]]
                # Consecutive pairs with the same reference are matched together.
                rows = rows[np.argsort(positions[rows, 0], kind="stable")]
                batch_pairs = positions[rows, ::-1] - (first, 0)
                matches = match(
                    descriptors,
                    references,
                    torch.from_numpy(batch_pairs),
                    semantic,
                    visual_thresholds=[visual],
                )
                sides = MatchedSides(descriptors, references, batch_pairs)
                collector.add(rows, matches, sides, ref_subjects, subjects, first)
                advance(len(subjects))
        return collector.finish(
            ref_ids=image_names(ref_list, "ref"),
            gen_ids=image_names(gen_list, "gen"),
            model=self.config.name,
            semantic_threshold=semantic,
        )

    def thresholds(self, semantic: float | None, visual: float | None) -> tuple[float, float]:
        """Return the semantic and the visual threshold; None = the model's.

        Raises:
            ValueError: If one is outside [-1, 1].
        """
        defaults = self.config.thresholds
        values = []
        for name, value, default in (
            ("semantic", semantic, defaults.semantic),
            ("visual", visual, defaults.visual),
        ):
            values.append(default if value is None else float(value))
            if not -1 <= values[-1] <= 1:
                raise ValueError(f"{name}_threshold must be in [-1, 1]; got {value!r}.")
        return values[0], values[1]

    @pinned()
    def ready(self, descriptors: Descriptors) -> Descriptors:
        """Return descriptors on this scorer's device and in its precision, for :meth:`score`.

        Runtime and precision of their extraction may differ. Descriptors without an identity
        are checked by grid and channels only.

        Raises:
            ModelError: If they come from another model.
        """
        require_same_model(descriptors.identity, self.identity)
        aggregation = self.config.aggregation
        expected = (aggregation.grid, aggregation.descriptor_channels)
        actual = (descriptors.grid, descriptors.semantic.shape[1])
        if actual != expected:
            raise ModelError(
                f"the references come from another model: their grid and channels are {actual}, "
                f"those of {self.config.name!r} are {expected}. Describe them with this scorer."
            )
        return descriptors.to(self.device, self._describer.dtype)

    def _references(
        self,
        refs: Sequence[ImageSource] | Descriptors,
        masks: Masks,
        batch_size: int | None,
        on_error: OnError,
        advance: Callable[[int], None],
    ) -> tuple[Descriptors, Sequence[Subject], NDArray[np.int64]]:
        """Return distinct references' descriptors, all subjects, and each one's position."""
        if isinstance(refs, Descriptors):
            if masks is not None:
                raise PairingError(
                    "ref_masks cannot be combined with descriptors as references. Pass the masks "
                    "to describe() instead."
                )
            advance(len(refs))
            subjects = refs.subjects or [
                Subject()
                if refs.points(image)
                else Subject(Status.EMPTY_MASK, "its descriptors have no points.")
                for image in range(len(refs))
            ]
            return self.ready(refs), subjects, np.arange(len(refs))
        all_masks = mask_list(masks, len(refs), "ref")
        first, position = distinct(refs, all_masks)
        descriptors = self._describe(refs, all_masks, batch_size, on_error, advance, first)
        if len(first) < len(refs):
            advance(len(refs) - len(first))
        return descriptors, [descriptors.subjects[index] for index in position], position

    def _describe(
        self,
        images: Sequence[ImageSource],
        masks: Sequence[Mask],
        batch_size: int | None,
        on_error: OnError,
        advance: Callable[[int], None],
        positions: Sequence[int] | None = None,
    ) -> Descriptors:
        """Return descriptors of the images at ``positions``; None = of all."""
        parts = [self._describer.empty()]
        subjects: list[Subject] = []
        batches = self._describer.batches(images, masks, batch_size, on_error, positions)
        for _, part, batch in batches:
            parts.append(part)
            subjects += [subject.summary() for subject in batch]
            advance(len(batch))
        return replace(Descriptors.cat(parts), subjects=tuple(subjects))


def score_batch(
    refs: Images,
    gens: Images,
    *,
    ref_masks: Masks = None,
    gen_masks: Masks = None,
    model: str | os.PathLike[str] = "tiny",
    semantic_threshold: float | None = None,
    visual_threshold: float | None = None,
    device: str = "auto",
    dtype: str = "auto",
    runtime: str = "auto",
    batch_size: int | None = None,
    heatmaps: bool = False,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress = None,
) -> VSMScores:
    """Score generated images against their references.

    Args:
        refs: Reference images: paths, PIL images, uint8 arrays [H, W, 3] or float tensors
            [3, H, W] in [0, 1]. Lists of equal length pair up in order; ONE reference is scored
            against every generated image.
        gens: Generated images, as ``refs``.
        ref_masks: Subject mask per reference: path, PIL image, bool or uint8 array [H, W], or
            None for the alpha channel if present, else the whole image. ``"auto"`` or
            ``AutoMask("bear plushie")`` instead of the list finds the subjects of all images
            without an alpha channel; an ``AutoMask`` in the list does so for one image.
        gen_masks: The same for ``gens``.
        model: ``"tiny"`` (embedded), a model folder, a converted preset, or a Hub repository id.
        semantic_threshold: In [-1, 1]; points above it match semantically. None = the model's.
        visual_threshold: In [-1, 1]; points above it match visually. None = the model's.
        device: ``"auto"`` (CUDA if available) or a torch device.
        dtype: ``"auto"`` (float32 on a CPU, bfloat16 on CUDA) or a name such as ``"float32"``.
        runtime: ``"auto"``, ``"torch"``, ``"onnxruntime"`` (extra ``onnx``), ``"tensorrt"``
            (extra ``gpu``; the first use builds an engine for minutes), or ``"torch-compile"``
            (compiles for minutes; for long runs).
        batch_size: Images per forward pass; None chooses.
        heatmaps: Keep the evidence for ``scores.heatmap(i)``.
        cache: Folder of a descriptor cache, shared with other processes. None disables caching.
        progress: True for a bar, or a function of (finished images, all images).

    Returns:
        One row per pair. The rows of a bad image have a status and NaN; the others are scored.

    Raises:
        PairingError: If the lists do not pair up.
        TypeError: If a folder or a set is passed as images.
        ModelError: If the model is missing or altered.
        ValueError: If an option has an unknown value.

    Source: arXiv 2509.21989, the VSM metric.

    Example:
        >>> import numpy as np, vsm_fast
        >>> image = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
        >>> vsm_fast.score_batch(refs=[image], gens=[image]).score.tolist()
        [1.0]
    """
    scorer = cached_scorer(model, device=str(device), dtype=dtype, runtime=runtime, cache=cache)
    return scorer.score(
        refs,
        gens,
        ref_masks=ref_masks,
        gen_masks=gen_masks,
        semantic_threshold=semantic_threshold,
        visual_threshold=visual_threshold,
        batch_size=batch_size,
        heatmaps=heatmaps,
        progress=progress,
    )


_hub_folders: dict[str, Path] = {}  # by repository id: the Hub is asked once, not at every call


def cached_scorer(
    model: str | os.PathLike[str],
    *,
    device: str,
    dtype: str = "auto",
    runtime: str = "auto",
    cache: str | os.PathLike[str] | None = None,
) -> VSMScorer:
    """Return a scorer that is shared between calls, so that a loop loads its model once.

    A folder whose files changed is loaded again, as is a relative path after a change of
    directory.
    """
    name = os.fspath(model)
    folder = find_local(name)
    if folder is None:
        if name not in _hub_folders or not _hub_folders[name].is_dir():
            _hub_folders[name] = find_model(name)
        folder = _hub_folders[name]
    cache_folder = None if cache is None else str(Path(cache).absolute())
    return _scorer(folder, folder_state(folder), device, dtype, runtime, cache_folder)


@lru_cache(maxsize=2)
def _scorer(
    folder: Path, _state: FolderState, device: str, dtype: str, runtime: str, cache: str | None
) -> VSMScorer:
    return VSMScorer.from_pretrained(
        folder, device=device, dtype=dtype, runtime=runtime, cache=cache
    )
