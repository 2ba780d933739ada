"""Baseline metrics, evaluated on the same pairs as VSM."""

from vsm_fast.lab.baselines.baseline import Baseline
from vsm_fast.lab.baselines.registry import choose_baselines

__all__ = ["Baseline", "choose_baselines"]
