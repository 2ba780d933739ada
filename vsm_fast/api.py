"""The one-call interface: :func:`score_batch`."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from vsm_fast.files import FolderState, folder_state
from vsm_fast.images.inputs import Images, Masks
from vsm_fast.model.location import find_local, find_model
from vsm_fast.progress import Progress
from vsm_fast.results.scores import VSMScores
from vsm_fast.scorer import VSMScorer

_fetched: dict[str, Path] = {}  # repositories of the Hub: asked for once, not at every call


def cached_scorer(
    model: str | os.PathLike[str],
    *,
    device: str,
    dtype: str = "auto",
    runtime: str = "auto",
    cache: str | os.PathLike[str] | None = None,
) -> VSMScorer:
    """The scorer of the last calls, so that a loop over score_batch loads its model once.

    A folder whose files changed is another model, and so is a relative one elsewhere.
    """
    name = os.fspath(model)
    folder = find_local(name)
    if folder is None:
        if name not in _fetched or not _fetched[name].is_dir():
            _fetched[name] = find_model(name)
        folder = _fetched[name]
    kept = None if cache is None else str(Path(cache).absolute())
    return _scorer(folder, folder_state(folder), device, dtype, runtime, kept)


@lru_cache(maxsize=2)
def _scorer(
    folder: Path, _state: FolderState, device: str, dtype: str, runtime: str, cache: str | None
) -> VSMScorer:
    return VSMScorer.from_pretrained(
        folder, device=device, dtype=dtype, runtime=runtime, cache=cache
    )


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
            [3, H, W] in [0, 1]. Equal lengths pair up with ``gens`` in order; ONE reference is
            described once and scored against every generation.
        gens: Generated images, as ``refs``.
        ref_masks: Per reference its subject: path, PIL image, bool or uint8 array [H, W], or
            None for the alpha channel if there is one and else the whole image. In the place of
            the list, ``"auto"`` or ``AutoMask("bear plushie")`` finds the subjects of all images
            that have no alpha channel; in it, an ``AutoMask`` does so for one.
        gen_masks: The same for ``gens``.
        model: ``"tiny"`` (embedded), a model folder, a converted preset, or a Hub repository id.
        semantic_threshold: In [-1, 1]; points match semantically above it. None = the model's.
        visual_threshold: In [-1, 1]; points match visually above it. None = the model's.
        device: ``"auto"`` (CUDA when there is one) or a torch device.
        dtype: ``"auto"`` (float32 on a CPU, bfloat16 on CUDA) or a name like ``"float32"``.
        runtime: What runs the network: ``"auto"``, ``"torch"``, ``"onnxruntime"`` (extra
            ``onnx``), ``"tensorrt"`` (extra ``gpu``; the first use builds for minutes), or
            ``"torch-compile"`` (minutes of compiling, for long runs).
        batch_size: Images per forward pass; None chooses.
        heatmaps: Keep what ``scores.heatmap(i)`` needs.
        cache: Folder for descriptors: an image that was described before, by this or another
            process, is not described again. None keeps nothing.
        progress: True for a bar, or a function of (images done, images in all).

    Returns:
        One row per pair. A bad image gives its rows a status and NaN; the others are scored.

    Raises:
        PairingError: The lists do not pair up.
        TypeError: A folder, or a set, where images were wanted.
        ModelError: The model is missing or altered.
        ValueError: An option has a value that this version does not have.

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
