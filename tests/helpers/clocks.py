"""Wall clock that jumps by a year, as after a dead battery or a wrong time server."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest
import tqdm.std

YEAR = 365 * 86400.0
_JUMPS = (0.0, YEAR, -YEAR, -YEAR, YEAR, 0.0, -YEAR)  # neighbours differ, and next neighbours too


@pytest.fixture
def jumping_clock(monkeypatch):
    """Let every reading of the wall clock jump by a year."""
    plain, jumps = time.time, itertools.cycle(_JUMPS)

    def jumping():
        return plain() + next(jumps)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    monkeypatch.setattr(tqdm.std, "time", jumping)  # its own copy


def shift_times(folder: Path) -> None:
    """Shift modification times by a year, alternately back and forth."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert files
    for path, years in zip(files, itertools.cycle((1, -1))):
        when = path.stat().st_mtime + years * YEAR
        os.utime(path, (when, when))
