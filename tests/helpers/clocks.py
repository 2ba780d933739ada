"""A time of day that jumps by a year, back and forth, as after a lost battery or a wrong server."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest
import tqdm.std

YEAR = 365 * 86400.0
_JUMPS = (0.0, YEAR, -YEAR, -YEAR, YEAR, 0.0, -YEAR)  # neighbours differ, and those one apart too


@pytest.fixture
def jumping_clock(monkeypatch):
    """Each look at the time of day finds it a year off, in another direction."""
    plain, jumps = time.time, itertools.cycle(_JUMPS)

    def jumping():
        return plain() + next(jumps)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    monkeypatch.setattr(tqdm.std, "time", jumping)  # a copy of its own


def shift_times(folder: Path) -> None:
    """Files were changed a year ago or in a year, in turn."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert files
    for path, years in zip(files, itertools.cycle((1, -1))):
        when = path.stat().st_mtime + years * YEAR
        os.utime(path, (when, when))
