"""Evaluation of VSM and of baselines on controlled pairs."""

from vsm_fast.lab.evaluation.bootstrap import Bootstrap, Estimate
from vsm_fast.lab.evaluation.evaluating import Evaluation, GroupCorrelation, evaluate
from vsm_fast.lab.evaluation.localisation import (
    Localisation,
    localisation,
    place_histogram,
    point_histograms,
)
from vsm_fast.lab.evaluation.measures import (
    Correlation,
    Gain,
    Separation,
    correlation_gain,
    correlations,
    separation,
)
from vsm_fast.lab.evaluation.ratings import ListMeaning, load_ratings

__all__ = [
    "Bootstrap",
    "Correlation",
    "Estimate",
    "Evaluation",
    "Gain",
    "GroupCorrelation",
    "ListMeaning",
    "Localisation",
    "Separation",
    "correlation_gain",
    "correlations",
    "evaluate",
    "load_ratings",
    "localisation",
    "place_histogram",
    "point_histograms",
    "separation",
]
