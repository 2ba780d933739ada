"""Where a measurement was made: what commands of the machine say."""

from __future__ import annotations

import subprocess


def first_line(*command: str) -> str:
    """First line that a command prints; ``"unknown"`` when it cannot be run."""
    try:
        run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
        return run.stdout.strip().splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"
