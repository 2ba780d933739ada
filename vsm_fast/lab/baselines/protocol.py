"""What a baseline is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vsm_fast.lab.pairs.pairs import ControlledPair


class Baseline(Protocol):
    """Another metric, judged on the same pairs as VSM.

    Attributes:
        name: Of its column.
    """

    name: str

    def __call__(self, pairs: Sequence[ControlledPair]) -> NDArray[np.float64]:
        """Compare ``altered_1`` with ``original_2`` inside their subject masks.

        Args:
            pairs: One batch.

        Returns:
            float64 [P], one value a pair, higher = more consistent; NaN where undefined.
        """
        ...
