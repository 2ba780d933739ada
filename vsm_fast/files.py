"""Files and folders that are complete or not there, and that one writer makes at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vsm_fast.errors import ModelError

FolderState = tuple[tuple[str, int, int, int, int], ...]


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


@contextmanager
def new_folder(folder: Path, mark: str) -> Iterator[Path]:
    """A folder to write into, which then replaces ``folder`` in one step.

    Args:
        folder: Is replaced if it has a file ``mark``.
        mark: By which a folder of this kind is known.

    Raises:
        ModelError: ``folder`` exists and is something else.
    """
    if folder.exists() and not (folder / mark).is_file():
        raise ModelError(f"{folder} exists and has no {mark}; it is left as it is.")
    writer = f"{os.getpid()}-{threading.get_ident():x}"
    temporary = folder.with_name(f".{folder.name}.{writer}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash of the machine, where the system can do that."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other thread or process is in here with the same file.

    Args:
        lock: The file, made with its folder if it is missing, and left there. It holds nothing:
            what was locked by a process that was killed is free.
    """
    from filelock import FileLock

    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object for people and programs, complete or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _replace_folder(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``; a folder that is in use is never half there."""
    if not folder.exists():
        new.rename(folder)
        return
    old = new.with_suffix(".old")
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)
