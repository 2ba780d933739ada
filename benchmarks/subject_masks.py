"""Accuracy of GrabCut's subject masks and their effect on scores; see docs/how-to/masks.md.

    python -m benchmarks.subject_masks --photographs DIR

``DIR/SUBJECT/NN.jpg`` with optional ``NN_mask.png``, as in the DreamBooth dataset; photographs
without one use the mask in ``recipes/tiny/masks``. GrabCut's settings were tuned on the subjects
with even positions in the sorted list ("tuned on"); only the others are evidence.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import vsm_fast
from vsm_fast.images.automatic_masks import AutoMask
from vsm_fast.lab.pairs.photographs import Photograph, load_photographs

HAND_DRAWN = Path(__file__).parents[1] / "recipes" / "tiny" / "masks"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, required=True)
    root = parser.parse_args().photographs
    beside = {(p.subject, p.name) for p in load_photographs(root) if p.mask is not None}
    photographs = [p for p in load_photographs(root, masks=HAND_DRAWN) if p.mask is not None]
    subjects = sorted({photograph.subject for photograph in photographs})
    finder = AutoMask(method="grabcut")
    found, overlaps, times = [], [], []
    for photograph in photographs:
        begin = time.perf_counter()
        mask = finder.find(photograph.pixels)
        times.append(time.perf_counter() - begin)
        found.append(mask)
        overlaps.append(0.0 if mask is None else overlap(mask, photograph.mask))
    print(f"{1000 * np.median(times):.0f} ms per image (median), at most {1000 * max(times):.0f}")
    for name, chosen in (("tuned on", subjects[::2]), ("others", subjects[1::2])):
        for kind, wanted in (("all", None), ("masks beside", True), ("drawn by hand", False)):
            values = [
                value for p, value in zip(photographs, overlaps, strict=True)
                if p.subject in chosen
                and (wanted is None or ((p.subject, p.name) in beside) == wanted)
            ]  # fmt: skip
            print(f"{name:10} {kind:14} {report(values)}")
    others = [n for n, p in enumerate(photographs) if p.subject in subjects[1::2]]
    print_scores([photographs[n] for n in others], [found[n] for n in others])


def overlap(mask: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Return intersection over union."""
    return float((mask & true).sum() / (mask | true).sum())


def report(values: list[float]) -> str:
    """Return mean, median and share of bad overlaps as text."""
    array = np.array(values)
    return (
        f"{len(array):3} photographs  IoU mean {array.mean():.3f}  median {np.median(array):.3f}  "
        f"below 0.5: {np.mean(array < 0.5):.0%}"
    )


def print_scores(photographs: list[Photograph], found: list[NDArray[np.bool_] | None]) -> None:
    """Print the effect of masks on the scores of all pairs of photographs."""
    scorer = vsm_fast.VSMScorer.from_pretrained("tiny", device="cpu")
    usable = [n for n, mask in enumerate(found) if mask is not None]
    print(f"scores over {len(usable)} photographs with a detected subject")
    pixels = [photographs[n].pixels for n in usable]
    subjects = np.array([photographs[n].subject for n in usable])
    pairs = np.array([(a, b) for a in range(len(usable)) for b in range(len(usable)) if a != b])
    same = subjects[pairs[:, 0]] == subjects[pairs[:, 1]]
    kinds = {
        "true": [photographs[n].mask for n in usable],
        "auto": [found[n] for n in usable],
        "whole image": None,
    }
    scores = {}
    for kind, masks in kinds.items():
        result = scorer.score(pixels, pixels, pairs=pairs, ref_masks=masks, gen_masks=masks)
        scores[kind] = result.score
        kept = np.isfinite(result.score)
        print(
            f"{kind:12} same subject {result.score[kept & same].mean():.3f}  another "
            f"{result.score[kept & ~same].mean():.3f}  undefined {np.mean(~kept):.1%}  "
            f"AUROC {auroc(result.score[kept & same], result.score[kept & ~same]):.3f}"
        )
    for kind in ("auto", "whole image"):
        difference = np.abs(scores[kind] - scores["true"])[same]
        difference = difference[np.isfinite(difference)]
        print(
            f"|{kind} - true|, same subject: mean {difference.mean():.3f}  median "
            f"{np.median(difference):.3f}  90th percentile {np.percentile(difference, 90):.3f}"
        )


def auroc(positive: NDArray[np.float32], negative: NDArray[np.float32]) -> float:
    """Return the area under the ROC curve; ties count half."""
    gap = positive[:, None] - negative
    return float((gap > 0).mean() + 0.5 * (gap == 0).mean())


if __name__ == "__main__":
    main()
