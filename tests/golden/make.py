"""Golden scores of the embedded model on the shipped photographs.

    python tests/golden/make.py

rewrites ``scores.json``, only for deliberate changes of the model or the method; the commit says
which scores moved. Pairs are every shipped reference with every shipped generated image, of all
subjects, so matches of all qualities are included.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from vsm_fast import VSMScorer, __version__  # noqa: E402 - a checkout needs no installation
from vsm_fast.files import replacing  # noqa: E402
from vsm_fast.model.config import weights_fingerprint  # noqa: E402
from vsm_fast.results.drift import drift  # noqa: E402
from vsm_fast.results.scores import VSMScores  # noqa: E402

FILE = Path(__file__).with_name("scores.json")
DTYPES = ("float32", "bfloat16")  # of torch; ONNX Runtime must give the float32 scores too
_STEPS = 10**5  # similarities have five digits


def scores_of(scorer: VSMScorer) -> VSMScores:
    """Score every shipped reference with every generated image, one image at a time."""
    sides = [sorted((ROOT / "examples" / side).glob("*/*.jpg")) for side in ("refs", "gens")]
    masks = [[path.with_name(f"{path.stem}_mask.png") for path in side] for side in sides]
    pairs = list(product(range(len(sides[0])), range(len(sides[1]))))
    return scorer.score(
        *sides, pairs=pairs, ref_masks=masks[0], gen_masks=masks[1], heatmaps=True, batch_size=1
    )


def recorded(scores: VSMScores) -> list[dict[str, Any]]:
    """Return a JSON object per pair; ``similarity`` is null for unmatched points."""
    rows = []
    for result in scores:
        evidence = result.evidence
        steps = np.rint(evidence.visual_similarity * _STEPS).astype(int).tolist()
        similarity = [
            step if kept else None for step, kept in zip(steps, evidence.kept, strict=True)
        ]
        names = (_name(result.ref_id), _name(result.gen_id))
        rows.append({"pair": names, "score": round(result.score, 6), "similarity": similarity})
    return rows


def replayed(rows: list[dict[str, Any]], like: VSMScores) -> VSMScores:
    """Golden scores as scores, with cells and masks of a run of today.

    Raises:
        ValueError: Other pairs, or other points on a subject.
    """
    evidence = []
    for row, result in zip(rows, like, strict=True):
        names, points = (_name(result.ref_id), _name(result.gen_id)), len(result.evidence.cells)
        if names != tuple(row["pair"]) or points != len(row["similarity"]):
            raise ValueError(
                f"{names} has {points} points; golden are {row['pair']} and "
                f"{len(row['similarity'])}."
            )
        kept = np.array([step is not None for step in row["similarity"]])
        similarity = np.array([step or 0 for step in row["similarity"]]) / _STEPS
        evidence.append(replace(result.evidence, kept=kept, visual_similarity=similarity))
    score = np.array([row["score"] for row in rows], np.float32)
    return replace(like, score=score, evidence=evidence)


def flipped_points(wanted: VSMScores, found: VSMScores) -> list[str]:
    """One line for each point with another verdict."""
    lines = []
    for before, after in zip(wanted, found, strict=True):
        verdicts = [_verdicts(result) for result in (before, after)]
        for point in np.flatnonzero([a[0] != b[0] for a, b in zip(*verdicts, strict=True)]):
            row, column = divmod(int(after.evidence.cells[point]), after.evidence.grid[1])
            said = [" ".join(side[point]).strip() for side in verdicts]
            lines.append(
                f"{_name(after.ref_id)} / {_name(after.gen_id)}, row {row}, column {column}: "
                f"{said[0]} -> {said[1]}"
            )
    return lines


def _verdicts(result: Any) -> list[tuple[str, str]]:
    threshold, evidence = result.visual_threshold, result.evidence
    return [
        (("consistent" if s > threshold else "inconsistent"), f"{s:.5f}") if kept else ("none", "")
        for s, kept in zip(evidence.visual_similarity.tolist(), evidence.kept, strict=True)
    ]


def _name(path: str) -> str:
    return Path(path).relative_to(ROOT / "examples").as_posix()


def _machine() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo")
    own = flags.exists() and "avx512_bf16" in flags.read_text()
    return f"{platform.machine()}, {capability}, {'with' if own else 'without'} AVX512_BF16"


def main() -> None:
    """Score, say how far each lever is from the first, and write ``scores.json``."""
    pairs, first = {}, None
    for dtype in DTYPES:
        scorer = VSMScorer.from_pretrained("tiny", device="cpu", dtype=dtype)
        scores = scores_of(scorer)
        first = first or scores
        print(f"{dtype}: {drift(first, scores)}")
        pairs[dtype] = recorded(scores)
    content = {
        "made": "python tests/golden/make.py",
        "versions": {
            "vsm_fast": __version__, "torch": torch.__version__, "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": _machine(),
        "weights": weights_fingerprint(scorer.config),
        "pairs": {
            name: [json.dumps(row, separators=(",", ":")) for row in rows]
            for name, rows in pairs.items()
        },
    }  # fmt: skip
    text = json.dumps(content, indent=1)
    for row in (row for rows in content["pairs"].values() for row in rows):
        text = text.replace(json.dumps(row), row)  # one line a pair, for readable differences
    with replacing(FILE) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(f"{FILE}: {FILE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
