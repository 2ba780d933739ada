"""Hashes of files, by which they are known again."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path

FolderState = tuple[tuple[str, int, int, int, int], ...]


def sha256_of(path: Path) -> str:
    """Hash of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_table(hashes: Mapping[str, str]) -> str:
    """One hash over hashes by name, hexadecimal."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def folder_state(folder: Path) -> FolderState:
    """Path, inode, size and times of the files of a model folder: another state, another model.

    Nothing is read, so that it costs one stat per file. What lies deeper than in a direct
    sub-folder is part of no model.
    """
    states = []
    for path in sorted((*folder.glob("*"), *folder.glob("*/*"))):
        try:
            found = path.stat()
        except OSError:  # a broken link, or removed in the meantime
            continue
        if not stat.S_ISDIR(found.st_mode):
            times = found.st_mtime_ns, found.st_ctime_ns
            states.append((str(path), found.st_ino, found.st_size, *times))
    return tuple(states)
