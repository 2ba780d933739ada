"""What the commands share: exit codes, usage errors, kinds of arguments."""

from __future__ import annotations

import argparse
import os
import sys
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vsm_fast.scorer import VSMScorer


class ExitCode(IntEnum):
    """What the process ends with."""

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
  0    everything was scored (doctor: all is well)
  1    an unexpected error (doctor: something is wrong)
  2    wrong usage or inputs; nothing was scored
  3    finished, but some pairs have no score; the results say why
  4    the model is missing, incomplete or altered
  5    stopped, because more pairs failed than --max-failed allows
  130  interrupted
  143  terminated
"""


class UsageError(Exception):
    """Arguments that do not fit together; exit code 2."""


ArgumentGroup = argparse._ActionsContainer  # a parser or one of its groups


def add_model(group: ArgumentGroup) -> None:
    """``--model``, and where, in which precision and by which runtime it runs."""
    group.add_argument(
        "--model", default="tiny", help="name (vsm-fast models) or folder (default: %(default)s)"
    )
    add_device(group, "int8", "float8")
    # The names of runtimes.loading.RUNTIMES, which would import torch; a test compares them.
    group.add_argument(
        "--runtime",
        default="auto",
        choices=("auto", "torch", "torch-compile", "onnxruntime", "tensorrt"),
        help="what runs the network (default: %(default)s)",
    )


def add_device(group: ArgumentGroup, *more_dtypes: str) -> None:
    """``--device`` and ``--dtype``; see :func:`checked_device`."""
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16", *more_dtypes)
    )


def load_scorer(arguments: argparse.Namespace, cache: Path | None = None) -> VSMScorer:
    """The scorer that :func:`add_model`'s options ask for."""
    from vsm_fast.scorer import VSMScorer

    try:
        return VSMScorer.from_pretrained(
            arguments.model,
            device=checked_device(arguments.device),
            dtype=arguments.dtype,
            runtime=arguments.runtime,
            cache=cache,
        )
    except (ImportError, ValueError) as error:  # an extra is missing, or options do not fit
        raise UsageError(str(error)) from error


def add_thresholds(group: ArgumentGroup, *branches: str) -> None:
    """``--semantic-threshold`` and ``--visual-threshold``, or one of them."""
    for branch in branches or ("semantic", "visual"):
        group.add_argument(
            f"--{branch}-threshold", type=similarity, metavar="T", help="default: the model's"
        )


def add_verbosity(group: ArgumentGroup) -> None:
    """``--quiet`` and ``--verbose``."""
    group.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    group.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")


def make_folder(folder: Path, option: str) -> None:
    """Make a folder for results, before the work and not after it."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{option} must be a folder; {folder} is a file.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option}: {error}") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{option}: the folder {folder} cannot be written to.")


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
