"""Shared parts of the commands: exit codes, usage errors, types and groups of options."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from cyclopts import Group, Parameter, Token, convert

if TYPE_CHECKING:
    from vsm_fast.scorer import VSMScorer


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


def _whole(least: float, most: float) -> Callable[[type, Sequence[Token]], int]:
    """Return a converter of whole numbers in [least, most]; cyclopts alone would round 1.5."""

    def whole(_: type, tokens: Sequence[Token]) -> int:
        text = tokens[0].value
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"expected a whole number; got {text!r}") from None
        if not least <= value <= most:
            limits = f"at least {least}" if most == float("inf") else f"in {least} to {most}"
            raise ValueError(f"expected a whole number {limits}; got {value}")
        return value

    return whole


def _last(hint: type, tokens: Sequence[Token]) -> Any:
    """Convert the values of the last occurrence of an option."""
    start = max((i for i, token in enumerate(tokens) if token.index == 0), default=0)
    return convert(hint, tokens[start:])


def _check_similarity(_: type, value: float | None) -> None:
    if value is not None and not -1 <= value <= 1:
        raise ValueError("A threshold must lie in [-1, 1].")


INFINITY = float("inf")
Integer = Annotated[int, Parameter(converter=_whole(-INFINITY, INFINITY), metavar="N")]
Count = Annotated[int, Parameter(converter=_whole(1, INFINITY), metavar="N")]
Seed = Annotated[int, Parameter(converter=_whole(0, 2**32 - 1), metavar="N")]
Port = Annotated[int, Parameter(converter=_whole(0, 2**16 - 1), metavar="N")]
Similarity = Annotated[float, Parameter(validator=_check_similarity, metavar="T")]
Directory = Annotated[Path, Parameter(metavar="DIR")]
File = Annotated[Path, Parameter(metavar="FILE")]
# Several values after one flag (--refs a b c, as shell globs expand); the last flag counts.
MANY = Parameter(consume_multiple=(1, None), converter=_last)
MANY_OR_NONE = Parameter(consume_multiple=True, converter=_last)

OPTIONS, INPUTS, SETTINGS, OUTPUTS, MESSAGES = (
    Group(name, sort_key=10 * position)
    for position, name in enumerate(("options", "inputs", "settings", "outputs", "messages"))
)


def option(text: str, group: Group | None = None, **settings: Any) -> Parameter:
    """Return an option with a help text; ``settings`` are cyclopts'."""
    if group is not None:
        settings["group"] = group
    return Parameter(help=text, **settings)


@dataclass(frozen=True, kw_only=True)
class Command(ABC):
    """A command: its options are fields, its description is the docstring."""

    NOTES: ClassVar[str] = ""  # sections of the help text before the exit codes
    verbose: Annotated[bool, option("show tracebacks", MESSAGES, alias="-v")] = False

    @abstractmethod
    def run(self) -> ExitCode:
        """Run the command."""


@dataclass(frozen=True, kw_only=True)
class QuietCommand(Command):
    """A command with ``--quiet``."""

    quiet: Annotated[bool, option("print errors only", MESSAGES, alias="-q")] = False

    @property
    def progress(self) -> bool:
        """Whether to show a progress bar: on a terminal, unless ``--quiet``."""
        return not self.quiet and sys.stderr.isatty()


@Parameter(name="*", group=SETTINGS)
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model, its device, precision and runtime."""

    model: Annotated[str, option("name (see vsm-fast models) or folder")] = "tiny"
    device: Annotated[str, option("auto, cpu, cuda, cuda:1, ...")] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8", "float8"],
        option("precision of the network"),
    ] = "auto"
    # The names of runtimes.choose.RUNTIMES, which would import torch; a test compares them.
    runtime: Annotated[
        Literal["auto", "torch", "torch-compile", "onnxruntime", "tensorrt"],
        option("library that runs the network"),
    ] = "auto"

    def scorer(self, cache: Path | None = None) -> VSMScorer:
        """Load the scorer.

        Raises:
            UsageError: If a package is missing or the options contradict each other.
            ModelError: If the model is missing, incomplete or altered.
        """
        from vsm_fast.scorer import VSMScorer

        try:
            return VSMScorer.from_pretrained(
                self.model,
                device=checked_device(self.device),
                dtype=self.dtype,
                runtime=self.runtime,
                cache=cache,
            )
        except (ImportError, ValueError) as error:
            raise UsageError(str(error)) from error


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
