"""Options of the commands: types, groups, and the options that several commands share."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from cyclopts import Group, Parameter, Token, convert

from vsm_fast.cli.common import ExitCode, UsageError, checked_device

if TYPE_CHECKING:
    from vsm_fast.scorer import VSMScorer


def option(text: str, group: Group | None = None, **settings: Any) -> Parameter:
    """Return an option with a help text; ``settings`` are cyclopts'."""
    if group is not None:
        settings["group"] = group
    return Parameter(help=text, **settings)


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


def _last(hint: Any, tokens: Sequence[Token]) -> tuple[Any, ...]:
    """Convert the values of the last occurrence of an option of type tuple[X, ...].

    One value at a time: cyclopts would read a file name like "[1].png" as a JSON list.
    """
    start = max((i for i, token in enumerate(tokens) if token.index == 0), default=0)
    return tuple(convert(get_args(hint)[0], [token]) for token in tokens[start:])


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

Names = Annotated[tuple[str, ...], MANY, Parameter(metavar="NAME...")]
Counts = Annotated[tuple[Count, ...], MANY]
Similarities = Annotated[tuple[Similarity, ...], MANY]
Share = Annotated[float, Parameter(metavar="SHARE")]
Name = Annotated[str, Parameter(metavar="NAME")]
Weights = Annotated[str, Parameter(metavar="MODEL")]
Threshold = Annotated[Similarity | None, option("default: the model's", SETTINGS)]


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
