"""Provenance of measurements."""

from __future__ import annotations

import subprocess


def first_line(*command: str) -> str:
    """Return the first output line of a command, or ``"unknown"`` if it fails."""
    try:
        run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
        return run.stdout.strip().splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"
