"""Make the shipped examples from DreamBooth photographs: ``python examples/make_examples.py``.

For each subject: a reference, another photograph of it, and that other one with a part repainted.
None of the subjects was seen in the training of the embedded model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from vsm_fast.lab.pairs.alterations import alter, random_part
from vsm_fast.lab.pairs.photographs import load_photographs

HERE = Path(__file__).parent
# subject: (reference photograph, other photograph, alteration, its seed)
CHOICES = {
    "bear_plushie": ("02", "01", "recolour", 3),
    "colorful_sneaker": ("00", "02", "pattern", 1),
    "robot_toy": ("01", "00", "texture", 2),
}


def save(folder: Path, name: str, pixels: np.ndarray, mask: np.ndarray) -> None:
    """Write ``name.jpg`` and ``name_mask.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=92)
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{name}_mask.png", optimize=True)


def main() -> None:
    """Write ``refs/``, ``gens/`` and ``parts/`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="SUBJECT/NN.jpg, NN_mask.png")
    photos = parser.parse_args().photos
    donor = load_photographs(photos, ("monster_toy",))[0].pixels
    for subject, (reference, other, kind, seed) in CHOICES.items():
        by_name = {photo.name: photo for photo in load_photographs(photos, (subject,))}
        first, second = by_name[reference], by_name[other]
        if first.mask is None or second.mask is None:
            raise ValueError(f"{subject}: photographs {reference} and {other} both need a mask.")
        rng = np.random.default_rng(seed)
        part = random_part(rng, second.mask, (0.35, 0.45))
        repainted, part = alter(kind, second.pixels, part, second.mask, rng, donor=donor)
        save(HERE / "refs" / subject, "reference", first.pixels, first.mask)
        save(HERE / "gens" / subject, "other_photo", second.pixels, second.mask)
        save(HERE / "gens" / subject, "repainted", repainted, second.mask)
        (HERE / "parts").mkdir(exist_ok=True)
        Image.fromarray(part.astype(np.uint8) * 255).save(HERE / "parts" / f"{subject}.png")


if __name__ == "__main__":
    main()
