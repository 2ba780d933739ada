"""Overlays of scored pairs as files."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from PIL import Image

from vsm_fast.images.loading import load_image
from vsm_fast.images.storage import ImageLocation
from vsm_fast.jobs.pairing import PairRow
from vsm_fast.results.overlay import save_overlay
from vsm_fast.results.scores import VSMResult


def save_pair_overlays(pairs: Iterable[tuple[Path, PairRow, VSMResult]]) -> None:
    """Draw pairs that have a score, each to its path; the pairs of a subject share references."""
    load = lru_cache(maxsize=4)(_load)
    for path, row, result in pairs:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_overlay(
            path,
            load(row.ref),
            load(row.gen),
            result.heatmap(),
            result.score,
            row.id,
            result.visual_threshold,
            result.n_matched,
            result.n_source,
        )


def _load(image: ImageLocation) -> Image.Image:
    return Image.fromarray(load_image(image).pixels)
