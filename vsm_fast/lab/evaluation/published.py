"""Published correlations with the oracle: the authors' figures, on the authors' data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Figures of one metric in arXiv 2509.21989.

    Attributes:
        label: The metric as the paper calls it.
        column: Our column of the same kind, ``""`` when there is none.
        pearson: On their controlled test set.
        spearman: On their controlled test set.
    """

    label: str
    column: str
    pearson: float
    spearman: float


SOURCE = "Mind-the-Glitch, NeurIPS 2025, arXiv 2509.21989: their controlled test set, their weights"
CONTROLLED = (
    Published("CLIP", "clip-i", -0.053, -0.005),
    Published("DINO", "dino", 0.087, 0.120),
    Published("VLM (GPT-4o)", "", 0.072, 0.091),
    Published("VSM, visual threshold 0.5", "vsm@0.5", 0.465, 0.454),
    Published("VSM, visual threshold 0.6", "vsm@0.6", 0.448, 0.582),
    Published("VSM, visual threshold 0.7", "vsm@0.7", 0.352, 0.496),
)
