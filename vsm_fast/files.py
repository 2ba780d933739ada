"""Atomic files and folders, locks and file hashing."""

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
    """Write a file atomically: yield a temporary path that replaces ``path`` on success.

    The temporary file is in the same folder, because a rename is atomic only within one file
    system. After an error it is removed and ``path`` is unchanged.

    Args:
        path: File to create or replace; its folder must exist.

    Yields:
        The temporary path, with the suffix of ``path``, by which some writers choose a format.
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
    """Write a folder atomically: yield a temporary folder that replaces ``folder`` on success.

    Args:
        folder: Folder to create, or to replace if it contains the file ``mark``.
        mark: Name of a file that every folder of this kind contains.

    Raises:
        ModelError: If ``folder`` exists without ``mark``.
    """
    if folder.exists() and not (folder / mark).is_file():
        raise ModelError(
            f"cannot replace {folder}: it contains no {mark}. Choose a new folder or remove it."
        )
    writer = f"{os.getpid()}-{threading.get_ident():x}"
    temporary = folder.with_name(f".{folder.name}.{writer}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            old = temporary.with_suffix(".old")
            folder.rename(old)
            try:
                temporary.rename(folder)
            except OSError:
                old.rename(folder)
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where the operating system supports it."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold an exclusive lock against other threads and processes.

    Args:
        lock: Lock file, created with its folder if missing, and left in place. The operating
            system releases the lock of a killed process.
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
    """Return one SHA-256 over hashes by name, hexadecimal."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def folder_state(folder: Path) -> FolderState:
    """Return path, inode, size and times of the files of a model folder, to detect changes.

    Costs one stat per file. A model has no files below its direct sub-folders.
    """
    states = []
    for path in sorted((*folder.glob("*"), *folder.glob("*/*"))):
        try:
            status = path.stat()
        except OSError:  # a broken link, or removed meanwhile
            continue
        if not stat.S_ISDIR(status.st_mode):
            times = status.st_mtime_ns, status.st_ctime_ns
            states.append((str(path), status.st_ino, status.st_size, *times))
    return tuple(states)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an indented JSON object atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
