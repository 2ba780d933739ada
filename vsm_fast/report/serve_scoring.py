"""Uploaded images scored, as what an open page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from vsm_fast.report.data import results_of
from vsm_fast.report.images import thumbnails
from vsm_fast.report.page import payload
from vsm_fast.report.serve_uploads import SIDES, UploadedImage
from vsm_fast.scorer import VSMScorer


class Stopped(Exception):
    """The server ends; what was being scored is given up."""


def score_images(
    scorer: VSMScorer, stop: Event, images: Mapping[str, Sequence[UploadedImage]]
) -> dict[str, Any]:
    """Score every generation against every reference.

    Args:
        scorer: What scores them.
        stop: Looked at between batches; once it is set, the rest is given up.
        images: Of each of ``SIDES``.

    Returns:
        What :func:`vsm_fast.report.page.payload` gives; an image that cannot be used has rows
        with its status.

    Raises:
        Stopped: ``stop`` was set.
    """

    def watch(_done: int, _all: int) -> None:
        if stop.is_set():
            raise Stopped

    references, generations = (images[side] for side in SIDES)
    pairs = [(r, g) for g in range(len(generations)) for r in range(len(references))]
    scores = scorer.score(
        [image.path for image in references],
        [image.path for image in generations],
        pairs=pairs,
        ref_masks=[image.mask for image in references],
        gen_masks=[image.mask for image in generations],
        heatmaps=True,
        progress=watch,
    )
    results = results_of(scores.to_arrow(points=True))
    pictures = thumbnails(results, len(results))
    refs = [references[r].name for r, _ in pairs]
    gens = [generations[g].name for _, g in pairs]
    several = len(references) > 1
    texts = {
        **results.texts,
        "id": [f"{gen} / {ref}" if several else gen for ref, gen in zip(refs, gens, strict=True)],
        "ref_id": refs,
        "gen_id": gens,
    }
    for column in ("reason", "notes"):
        texts[column] = [_with_names(text, images) for text in texts[column]]
    return payload(replace(results, texts=texts), pictures)


def _with_names(text: str, images: Mapping[str, Sequence[UploadedImage]]) -> str:
    """A message with the senders' names of files instead of our paths."""
    for image in (image for side in SIDES for image in images[side]):
        if isinstance(image.mask, Path):
            text = text.replace(str(image.mask), f"the mask of {image.name}")
        text = text.replace(str(image.path), image.name)
    return text
