"""Evaluation of VSM and of baselines on controlled pairs."""

from vsm_fast.lab.evaluation.bootstrap import Bootstrap
from vsm_fast.lab.evaluation.ratings import ListMeaning, load_ratings
from vsm_fast.lab.evaluation.run import Evaluation, evaluate

__all__ = ["Bootstrap", "Evaluation", "ListMeaning", "evaluate", "load_ratings"]
