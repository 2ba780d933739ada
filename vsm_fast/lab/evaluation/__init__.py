"""Evaluation of VSM and of baselines on controlled pairs."""

from vsm_fast.lab.evaluation.bootstrap import Bootstrap, Estimate
from vsm_fast.lab.evaluation.localisation import Localisation, localisation, place_histogram
from vsm_fast.lab.evaluation.metrics import (
    Correlation,
    Gain,
    Separation,
    correlation_gain,
    correlations,
    separation,
)
from vsm_fast.lab.evaluation.ratings import ListMeaning, load_ratings
from vsm_fast.lab.evaluation.run import Evaluation, GroupCorrelation, evaluate

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
    "separation",
]
