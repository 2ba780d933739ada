"""Export of scores and heat maps to a folder that FiftyOne imports, without FiftyOne itself.

The folder is a FiftyOneDataset without a version (``samples.json``, ``metadata.json``). Every
release of FiftyOne reads it, because it follows no version of the database.
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
from vsm_fast.results.scores import VSMScores

HEATMAP = "vsm_heatmap"
UNDEFINED = "vsm_undefined"
_FIELDS = "fiftyone.core.fields."


def to_fiftyone(
    scores: VSMScores,
    folder: str | os.PathLike[str],
    images: Sequence[ImageSource] | None = None,
    *,
    name: str = "vsm",
    copy_images: bool = False,
) -> None:
    """Write scores for ``fiftyone.Dataset.from_dir(folder, fiftyone.types.FiftyOneDataset)``.

    Each pair is a sample with the fields ``vsm_score`` (empty if undefined), ``vsm_n_matched``,
    ``vsm_n_source``, ``vsm_status``, ``vsm_reason``, ``vsm_flags``, ``vsm_reference``, the further
    columns of the scores with the prefix ``vsm_``, and the tag ``vsm_undefined`` without a score.
    Scores with heat maps add the label ``vsm_heatmap``: an 8-bit grey PNG, 0 off the subject, 1
    consistent, 255 inconsistent.

    Args:
        scores: Scores of P pairs.
        folder: Output folder, created if missing; must be empty.
        images: The generated image of each pair, [P]; None = the scored paths.
        name: Name of the data set.
        copy_images: Copy image files into the folder, to move it to another machine; else samples
            refer to the originals. Images without a file are always written.

    Raises:
        ValueError: If ``images`` are not P, or None and a pair was not scored from a file.
        FileExistsError: If the folder is not empty.
        InputError: If an image without a file is unusable.
        OSError: If the folder cannot be written.
    """
    if images is None:
        # The names that inputs.image_names gives to pixels. A missing file remains a sample.
        nameless = [gen for gen in scores.gen_id if gen.startswith("gen[")]
        if nameless:
            raise ValueError(
                f"{len(nameless)} pairs, like {nameless[0]!r}, were not scored from a file. Pass "
                "images=[...], one per pair."
            )
        images = [str(gen) for gen in scores.gen_id]
    if len(images) != len(scores):
        raise ValueError(f"images must be one per pair, {len(scores)}; got {len(images)}.")
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty. Choose a new folder, or empty it.")
    (root / "data").mkdir()
    (root / "fields" / HEATMAP).mkdir(parents=True)
    samples = []
    for result, source in zip(scores, images, strict=True):
        sample: dict[str, Any] = {
            "filepath": _media(root, result.index, source, copy_images),
            "tags": [] if result.ok else [UNDEFINED],
            "metadata": None,
            "_media_type": "image",
            **{f"vsm_{key}": str(column[result.index]) for key, column in scores.extra.items()},
            "vsm_score": result.score if result.ok else None,
            "vsm_n_matched": result.n_matched,
            "vsm_n_source": result.n_source,
            "vsm_status": result.status,
            "vsm_reason": result.reason,
            "vsm_flags": result.flags,
            "vsm_reference": result.ref_id,
        }
        if result.ok and result.evidence is not None:
            place = f"fields/{HEATMAP}/{result.index:06d}.png"
            with replacing(root / place) as temporary:
                Image.fromarray(heatmap_pixels(result.heatmap())).save(temporary)
            sample[HEATMAP] = {"_cls": "Heatmap", "tags": [], "map_path": place}
        samples.append(sample)
    # The schema declares fields that are empty in every sample, too.
    texts = (*scores.extra, "status", "reason", "flags", "reference")
    schema = dict.fromkeys((f"vsm_{key}" for key in texts), f"{_FIELDS}StringField")
    schema["vsm_score"] = f"{_FIELDS}FloatField"
    schema |= dict.fromkeys(("vsm_n_matched", "vsm_n_source"), f"{_FIELDS}IntField")
    if scores.evidence is not None:
        schema[HEATMAP] = f"{_FIELDS}EmbeddedDocumentField(fiftyone.core.labels.Heatmap)"
    write_json(root / "samples.json", {"samples": samples})
    write_json(
        root / "metadata.json",
        {
            "name": name,
            "media_type": "image",
            "sample_fields": schema,
            "info": {"vsm": scores.settings()},
        },
    )


def heatmap_pixels(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Convert a heat map, float32 [H, W] in [0, 1] and NaN off the subject, to grey values.

    Returns:
        uint8 [H, W]: 0 off the subject, else 1 (consistent) to 255 (inconsistent).
    """
    grey = np.rint(1 + 254 * np.nan_to_num(heat))
    return np.where(np.isnan(heat), 0, grey).astype(np.uint8)


def _media(root: Path, index: int, source: ImageSource, copy_images: bool) -> str:
    """Write or copy an image if necessary; return its path, relative to ``root`` or absolute."""
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
