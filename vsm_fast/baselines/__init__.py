"""Other metrics, for comparison with VSM on the same pairs in the same run."""

from vsm_fast.baselines.protocol import Baseline

__all__ = ["Baseline"]
