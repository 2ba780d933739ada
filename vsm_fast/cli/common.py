"""Shared parts of the commands: exit codes, usage errors, early checks, output."""

from __future__ import annotations

import os
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any


class ExitCode(IntEnum):
    """Exit code of the process."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNSCORED = 3
    MODEL = 4
    TOO_MANY_FAILED = 5
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_CODES = """\
exit codes:
  0    success: everything was scored (doctor: no problem found)
  1    unexpected error (doctor: a problem was found)
  2    wrong usage or inputs; nothing was scored
  3    finished, but some pairs have no score; the results give the reasons
  4    the model is missing, incomplete or altered
  5    stopped: more pairs failed than --max-failed allows
  130  interrupted
  143  terminated
"""


class UsageError(Exception):
    """Invalid or conflicting options; exit code 2."""


def make_folder(folder: Path, option: str) -> None:
    """Create an output folder before the work starts.

    Raises:
        UsageError: If the path is a file or cannot be created or written to.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{option} must be a folder; {folder} is a file.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option}: {error}") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{option}: the folder {folder} cannot be written to.")


def require(command: str, *modules: str) -> None:
    """Check that optional modules are installed before the work starts.

    Raises:
        UsageError: If one is missing; the message names the extra to install.
    """
    from vsm_fast.extras import required

    try:
        for module in modules:
            required(module, f"vsm-fast {command}")
    except ImportError as error:
        raise UsageError(str(error)) from error


def checked_device(name: str) -> str:
    """Return the name of an available device.

    Raises:
        UsageError: If torch does not know the device or sees no GPU.
    """
    import torch

    if name == "auto":
        return name
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"--device {name}: torch {torch.__version__} finds no CUDA device. "
            "vsm-fast doctor lists the devices."
        )
    return name


def print_note(note: str) -> None:
    """Print a note on standard error."""
    print(f"vsm-fast: note: {note}", file=sys.stderr)


def print_text(text: Any) -> None:
    """Print and flush; a closed pipe (``vsm-fast ... | head``) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes again at exit; redirect to devnull so that it prints no complaint.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
