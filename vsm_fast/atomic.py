"""Files that are either complete or not there."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes ``path`` in one step.

    The temporary file lies beside ``path``, because a rename is atomic only inside one file
    system. After an error it is removed and what was at ``path`` before stays as it was.

    Args:
        path: the file to make or replace; its folder must exist.

    Yields:
        The temporary path, with the suffix of ``path`` (some writers choose by suffix).
    """
    target = Path(path)
    writer = f"{os.getpid()}-{threading.get_ident():x}"
    temporary = target.with_name(f".{target.stem[:100]}.{writer}.tmp{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash of the machine, where the system can do that."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object for people and programs, complete or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
