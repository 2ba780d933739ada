"""Other metrics, for comparison with VSM on the same pairs in the same run."""

from vsm_fast.lab.baselines.protocol import Baseline
from vsm_fast.lab.baselines.registry import choose_baselines

__all__ = ["Baseline", "choose_baselines"]
