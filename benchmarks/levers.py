"""Runtimes and precisions of the network, with their drift.

A lever is a runtime and a precision. Drift is measured on every pair of different photographs,
which covers matches of all qualities.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

from vsm_fast import VSMScorer
from vsm_fast.export.onnx_graph import ExportOptions, export_onnx
from vsm_fast.results.scores import VSMScores

EXAMPLES = Path(__file__).parents[1] / "examples"
DEFAULT = ("torch", "float32")
LEVERS = (
    DEFAULT,
    ("torch", "bfloat16"),
    ("torch", "float16"),
    ("torch-compile", "float32"),
    ("torch-compile", "bfloat16"),
    ("onnxruntime", "float32"),
    ("onnxruntime", "int8"),
)


def load(runtime: str, dtype: str, folder: Path) -> VSMScorer:
    """Load the embedded model with a lever; an int8 graph is exported to ``folder`` first.

    Its calibration uses the three shipped references, which are among the photographs of the
    drift measurement; photographs of 19 other subjects gave the same drift.
    """
    if (runtime, dtype) != ("onnxruntime", "int8"):
        return VSMScorer.from_pretrained("tiny", runtime=runtime, dtype=dtype)
    export_onnx("tiny", folder, ExportOptions("int8", calibration=EXAMPLES / "refs"))
    return VSMScorer.from_pretrained(folder)


def photographs() -> tuple[list[Path], list[Path]]:
    """Return the shipped photographs and their masks."""
    images = sorted(path for path in EXAMPLES.rglob("*.jpg"))
    return images, [path.with_name(f"{path.stem}_mask.png") for path in images]


def scores_of_photographs(scorer: VSMScorer) -> VSMScores:
    """Score every shipped photograph against every other."""
    images, masks = photographs()
    pairs = [(i, j) for i, j in product(range(len(images)), repeat=2) if i != j]
    return scorer.score(
        images, images, pairs=pairs, ref_masks=masks, gen_masks=masks, heatmaps=True
    )
