"""Figures of descriptors: components, segments, matches and mixing weights.

    views = describe_subjects(VSMScorer.from_pretrained("tiny"), ["reference.png", "a.png"])
    save_figure(overview_figure(views), "overview.png")

Needs the extra: ``pip install '.[lab]'``.
"""

from __future__ import annotations

from vsm_fast.lab.figures.figures import (
    matches_figure,
    mixing_figure,
    overview_figure,
    pca_figure,
    save_figure,
    segments_figure,
)
from vsm_fast.lab.figures.views import (
    SubjectView,
    SubjectViews,
    TooFewPointsError,
    describe_subjects,
)

__all__ = [
    "SubjectView",
    "SubjectViews",
    "TooFewPointsError",
    "describe_subjects",
    "matches_figure",
    "mixing_figure",
    "overview_figure",
    "pca_figure",
    "save_figure",
    "segments_figure",
]
