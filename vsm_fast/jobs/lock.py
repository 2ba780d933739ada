"""One writer a folder: an advisory lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vsm_fast.jobs.errors import JobError

_log = logging.getLogger(__name__)

# What file systems without locks answer (Lustre mounted without flock, some FUSE).
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold a lock on a file, which stays; the system lets go when the process ends, however.

    Where files cannot be locked, a warning says so and the work goes on.

    Raises:
        JobError: Another process holds it; says which.
        OSError: The file cannot be opened.
    """
    with path.open("a+", encoding="utf-8") as file:
        _lock(file.fileno(), path)
        file.seek(0)
        file.truncate()
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        file.flush()
        yield


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        _warn(path, "this system has no flock")
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JobError(
            f"another process works on {path.parent} ({_holder(path)}); wait for it, stop it, or "
            "choose another --out."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _warn(path, str(error))


def _warn(path: Path, why: str) -> None:
    _log.warning(
        "%s cannot be locked (%s); see to it that only one process writes there", path.parent, why
    )


def _holder(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "it did not say which"
