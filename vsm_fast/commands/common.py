"""What the commands share: exit codes, usage errors, kinds of arguments."""

from __future__ import annotations

import argparse
import os
import sys
from enum import IntEnum


class ExitCode(IntEnum):
    """What the process ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNSCORED = 3
    MODEL = 4
    INTERRUPTED = 130


EXIT_CODES = """\
exit codes:
  0    everything was scored (doctor: all is well)
  1    an unexpected error (doctor: something is wrong)
  2    wrong usage or inputs; nothing was scored
  3    finished, but some pairs have no score; the results say why
  4    the model is missing, incomplete or altered
  130  interrupted
"""


class UsageError(Exception):
    """Arguments that do not fit together; exit code 2."""


def similarity(text: str) -> float:
    """A threshold, as the type of an argument."""
    value = float(text)
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"a threshold lies in [-1, 1]; got {text}")
    return value


def positive(text: str) -> int:
    """A count of at least 1, as the type of an argument."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 1; got {text}")
    return value


def checked_device(name: str) -> str:
    """Refuse a device that is not there with a sentence instead of an assertion of torch."""
    import torch

    if name == "auto":
        return name
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"--device {name}: torch {torch.__version__} sees no CUDA device here; "
            "vsm-fast doctor shows what there is."
        )
    return name


def print_text(text: str) -> None:
    """Print and flush; a reader that has gone (``vsm-fast ... | head``) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes again at exit; into nothing, so that it does not complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
