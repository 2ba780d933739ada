"""Scores and heat maps as a folder that FiftyOne imports by itself; FiftyOne is not needed here.

The folder is in FiftyOne's JSON format without a version (``samples.json``, ``metadata.json``),
which every release reads, since its documents are not those of one version of the database.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vsm_fast.errors import InputError
from vsm_fast.files import replacing, write_json
from vsm_fast.images.loading import ImageSource, load_image
from vsm_fast.results.scores import VSMResult, VSMScores

HEATMAP = "vsm_heatmap"
UNDEFINED = "vsm_undefined"
_FIELDS = "fiftyone.core.fields."
_TEXT, _NUMBER, _COUNT = f"{_FIELDS}StringField", f"{_FIELDS}FloatField", f"{_FIELDS}IntField"


def to_fiftyone(
    scores: VSMScores,
    folder: str | os.PathLike[str],
    images: Sequence[ImageSource] | None = None,
    *,
    name: str = "vsm",
    copy_images: bool = False,
) -> None:
    """Write scores for ``fiftyone.Dataset.from_dir(folder, fiftyone.types.FiftyOneDataset)``.

    One sample a pair, with the fields ``vsm_score`` (empty where undefined), ``vsm_n_matched``,
    ``vsm_n_source``, ``vsm_status``, ``vsm_reason``, ``vsm_flags``, ``vsm_reference``, further
    columns of the scores with ``vsm_`` before their names, the tag ``vsm_undefined`` where there is
    no score, and, where the scores were made with heat maps, the label ``vsm_heatmap``: an 8-bit
    grey PNG in which 0 is off the subject, 1 consistent and 255 inconsistent.

    Args:
        scores: Of P pairs.
        folder: Made if missing; must be empty.
        images: The generated image of each pair, [P]; None = the paths that were scored.
        name: Of the data set.
        copy_images: Copy image files into the folder, so that it can be moved to another machine;
            else samples point to where they are. Images without a file are always written.

    Raises:
        ValueError: ``images`` are not P, or None and a pair was not scored from a file.
        FileExistsError: The folder is not empty.
        InputError: An image without a file cannot be used.
        OSError: The folder cannot be written to.
    """
    sources = _sources(scores, images)
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty; give a new folder, or empty it.")
    (root / "data").mkdir()
    (root / "fields" / HEATMAP).mkdir(parents=True)
    samples = []
    for result, source in zip(scores, sources, strict=True):
        sample: dict[str, Any] = {
            "filepath": _media(root, result.index, source, copy_images),
            "tags": [] if result.ok else [UNDEFINED],
            "metadata": None,
            "_media_type": "image",
            **_values(scores, result),
        }
        if result.ok and result.evidence is not None:
            sample[HEATMAP] = {
                "_cls": "Heatmap",
                "tags": [],
                "map_path": _write_heatmap(root, result),
            }
        samples.append(sample)
    write_json(root / "samples.json", {"samples": samples})
    write_json(
        root / "metadata.json",
        {
            "name": name,
            "media_type": "image",
            "sample_fields": _schema(scores),
            "info": {"vsm": scores.settings()},
        },
    )


def heatmap_pixels(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A heat map, float32 [H, W] in [0, 1] and NaN off the subject, as grey values.

    Returns:
        uint8 [H, W]: 0 off the subject, else 1 (consistent) to 255 (inconsistent).
    """
    grey = np.rint(1 + 254 * np.nan_to_num(heat))
    return np.where(np.isnan(heat), 0, grey).astype(np.uint8)


def _sources(scores: VSMScores, images: Sequence[ImageSource] | None) -> Sequence[ImageSource]:
    if images is None:
        # As inputs.image_names calls what is no path. A file that is missing stays a sample.
        nameless = [gen for gen in scores.gen_id if gen.startswith("gen[")]
        if nameless:
            raise ValueError(
                f"{len(nameless)} pairs, like {nameless[0]!r}, were not scored from a file; pass "
                "images=[...], one a pair."
            )
        return [str(gen) for gen in scores.gen_id]
    if len(images) != len(scores):
        raise ValueError(f"images must be one a pair, {len(scores)}; got {len(images)}.")
    return images


def _media(root: Path, index: int, source: ImageSource, copy_images: bool) -> str:
    """What ``filepath`` says: a path relative to ``root``, or an absolute one."""
    place = f"data/{index:06d}"
    if isinstance(source, str | os.PathLike):
        path = Path(source).absolute()
        if not copy_images or not path.is_file():
            return str(path)
        place += path.suffix
        shutil.copyfile(path, root / place)
        return place
    try:
        pixels = load_image(source).pixels
    except InputError as error:
        raise InputError(error.status, f"image {index}: {error}") from error
    place += ".png"
    Image.fromarray(pixels).save(root / place)
    return place


def _write_heatmap(root: Path, result: VSMResult) -> str:
    place = f"fields/{HEATMAP}/{result.index:06d}.png"
    with replacing(root / place) as temporary:
        Image.fromarray(heatmap_pixels(result.heatmap())).save(temporary)
    return place


def _values(scores: VSMScores, result: VSMResult) -> dict[str, str | int | float | None]:
    """The fields of one sample that are plain values."""
    further = {f"vsm_{name}": str(column[result.index]) for name, column in scores.extra.items()}
    return {
        **further,
        "vsm_score": result.score if result.ok else None,
        "vsm_n_matched": result.n_matched,
        "vsm_n_source": result.n_source,
        "vsm_status": result.status,
        "vsm_reason": result.reason,
        "vsm_flags": result.flags,
        "vsm_reference": result.ref_id,
    }


def _schema(scores: VSMScores) -> dict[str, str]:
    """Types of the fields, so that one that is empty everywhere is there all the same."""
    own = ("vsm_status", "vsm_reason", "vsm_flags", "vsm_reference")
    texts = [*(f"vsm_{name}" for name in scores.extra), *own]
    schema = dict.fromkeys(texts, _TEXT)
    schema |= {"vsm_score": _NUMBER, "vsm_n_matched": _COUNT, "vsm_n_source": _COUNT}
    if scores.evidence is not None:
        schema[HEATMAP] = f"{_FIELDS}EmbeddedDocumentField(fiftyone.core.labels.Heatmap)"
    return schema
