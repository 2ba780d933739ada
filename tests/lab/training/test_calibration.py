from __future__ import annotations

import numpy as np
import pytest

from vsm_fast.lab.training.calibration import PointTable, calibrate


def _table(levels: list[list[float]]) -> PointTable:
    """One pair a list: visual similarities of its points; all match semantically."""
    counts = [len(level) for level in levels]
    visual = np.concatenate(levels).astype(np.float32)
    return PointTable(
        np.full(len(visual), 0.95, np.float32), visual, np.zeros_like(visual),
        np.concatenate([[0], np.cumsum(counts)]),
    )  # fmt: skip


ORACLE = np.array([1.0, 0.5, 0.0, 0.0])
OTHER = np.array([False, False, False, True])


def test_the_threshold_lies_between_altered_and_unaltered_points() -> None:
    table = _table([[0.8, 0.8], [0.8, 0.6], [0.6, 0.6], [0.4, 0.4]])
    semantic, visual = calibrate(table, ORACLE, OTHER)
    assert 0.6 <= visual < 0.8
    np.testing.assert_allclose(table.scores(semantic, visual), [1, 0.5, 0, 0])


def test_thresholds_under_which_strangers_look_alike_are_passed_over() -> None:
    """The oracle is reproduced exactly at 0.5 only, where the stranger scores 1 as well."""
    table = _table([[0.9, 0.6], [0.7, 0.4], [0.4, 0.4], [0.65, 0.65]])
    _, alone = calibrate(table, ORACLE, OTHER, least_above=0.0)
    assert 0.4 <= alone < 0.6
    _, visual = calibrate(table, ORACLE, OTHER)
    assert visual >= 0.65


def test_no_thresholds_at_all() -> None:
    empty = PointTable(*(np.zeros(0, np.float32),) * 3, np.zeros(5, np.int64))
    with pytest.raises(ValueError, match="95 %"):
        calibrate(empty, ORACLE, OTHER)
