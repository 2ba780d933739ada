"""The command line, ``vsm-fast COMMAND``; each command is a class in a module of ``vsm_fast.cli``.

cyclopts derives options, help texts and shell completion from the fields of these classes.
"""

from __future__ import annotations

import io
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from inspect import BoundArguments
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.help import PlainFormatter

from vsm_fast import __version__
from vsm_fast.cli.common import EXIT_CODES, ExitCode, UsageError, print_text
from vsm_fast.cli.compare import Compare
from vsm_fast.cli.convert import Convert
from vsm_fast.cli.doctor import Doctor
from vsm_fast.cli.evaluate import Evaluate
from vsm_fast.cli.interrupts import interruptible, terminable
from vsm_fast.cli.make_pairs import MakePairs
from vsm_fast.cli.models import Models
from vsm_fast.cli.options import OPTIONS, Command
from vsm_fast.cli.rank import Rank
from vsm_fast.cli.report import Report
from vsm_fast.cli.score import Score
from vsm_fast.cli.serve import Serve
from vsm_fast.cli.train import Train
from vsm_fast.cli.visualize import Visualize
from vsm_fast.errors import InputError, ModelError, PairingError, ResultsError, out_of_memory

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

__all__ = ["ExitCode", "main"]

_COMMANDS: tuple[type[Command], ...] = (
    Score, Report, Serve, Rank, Compare, MakePairs, Train, Evaluate, Visualize, Models, Convert,
    Doctor,
)  # fmt: skip
_USAGE_ERRORS = (CycloptsError, UsageError, PairingError, InputError, ResultsError)
_WIDTH, _COLUMN = 100, 28  # of help texts


class _Columns(PlainFormatter):
    """Help texts in two columns."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        if not panel.entries:
            return
        lines = [f"{panel.title}:"]
        for entry in panel.entries:
            label = "  " + ", ".join(entry.display_labels_with_metavar)
            if entry.choices:
                label = label.replace(" CHOICE", f" {{{','.join(entry.choices)}}}")
            with console.capture() as text:
                console.print(entry.description)
            description = " ".join(text.get().split())
            if entry.required:
                description += " (required)"
            elif entry.default:
                description += f" (default: {entry.default})"
            right = textwrap.wrap(description, _WIDTH - _COLUMN) or [""]
            if len(label) > _COLUMN - 2:
                right.insert(0, "")
            left = [label, *[""] * (len(right) - 1)]
            lines += [f"{a:<{_COLUMN}}{b}".rstrip() for a, b in zip(left, right, strict=True)]
        print("\n".join(lines), end="\n\n", file=console.file)


def _default(value: Any) -> str:
    """Format the default of an option for its help text."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value is None or value is False else str(value)


app = App(
    name="vsm-fast",
    help="Visual Semantic Matching: does a generated image still show the same subject as its "
    "reference, and where not.",
    version=f"vsm_fast {__version__}",
    help_format="plaintext",
    help_formatter=_Columns(),
    help_epilogue=EXIT_CODES,
    group_commands=Group("commands"),
    group_parameters=OPTIONS,
    # Of a repeated option the last one counts; only options that name it have a --no-... form;
    # values are never JSON: "[1].png" is a file name.
    default_parameter=Parameter(
        negative="", allow_repeating=True, json_list=False, json_dict=False, show_default=_default
    ),
    suppress_keyboard_interrupt=False,
)
for _position, _command in enumerate(_COMMANDS):
    app.command(_command, sort_key=_position, help_epilogue=_command.NOTES + EXIT_CODES)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None reads them from the process.

    Returns:
        An ``ExitCode``.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # escape names that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    command: Command | None = None
    try:
        with terminable(), interruptible():
            if not arguments:
                raise UsageError("no command. See vsm-fast --help.")
            target, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
            if target not in _COMMANDS:  # --help or --version
                _print_plain(target, bound)
                return ExitCode.OK
            command = target(*bound.args, **bound.kwargs)
            return int(command.run())
    except KeyboardInterrupt:
        print("vsm-fast: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except Exception as error:
        if isinstance(error, ModelError):
            code = ExitCode.MODEL
        elif isinstance(error, _USAGE_ERRORS):
            code = ExitCode.USAGE
        else:
            code = ExitCode.FAILED
        if command is not None and command.verbose:
            traceback.print_exc()
        message = " ".join(str(error).split()) or type(error).__name__
        if out_of_memory(error):
            hint = "; smaller batches (--batch-size) need less"
            message = f"out of memory: {message}{hint if hasattr(command, 'batch_size') else ''}"
        elif code is ExitCode.FAILED:
            message = f"{type(error).__name__}: {message} (-v shows the traceback)"
        print(f"vsm-fast: error: {message}", file=sys.stderr)
        return code


def _print_plain(target: Callable[..., None], bound: BoundArguments) -> None:
    """Print the help text or the version, the same on every terminal."""
    from rich.console import Console

    text = io.StringIO()
    bound.arguments["console"] = Console(file=text, width=_WIDTH, color_system=None)
    target(*bound.args, **bound.kwargs)
    lines = "\n".join(line.rstrip() for line in text.getvalue().splitlines())
    print_text(lines.replace("\n\n\n", "\n\n").rstrip())


if __name__ == "__main__":
    raise SystemExit(main())
