"""What differs between the settings that a folder was begun with and those of now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vsm_fast.errors import WRONG_JSON
from vsm_fast.jobs.errors import JobError


def recorded_settings(path: Path) -> dict[str, Any]:
    """Read the settings that a folder was begun with.

    Raises:
        JobError: The file holds something else, or cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"wanted one JSON object; got {type(content).__name__}")
    except WRONG_JSON as error:
        raise JobError(
            f"{path} does not say which job its folder belongs to: {error}. Restore the file, or "
            "choose another --out."
        ) from error
    return content


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for each setting that is another one; empty = all are the same."""
    return [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in {**now, **before}
        if before.get(name) != now.get(name)
    ]
