"""The command line: ``vsm-fast COMMAND``. Each command is a module of ``vsm_fast.cli``."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vsm_fast import __version__
from vsm_fast.cli import (
    compare,
    convert,
    doctor,
    evaluate,
    make_pairs,
    models,
    rank,
    report,
    score,
    serve,
    train,
    visualize,
)
from vsm_fast.cli.common import EXIT_CODES, ExitCode, UsageError
from vsm_fast.cli.interrupts import interruptible
from vsm_fast.errors import InputError, ModelError, PairingError, ResultsError, out_of_memory

__all__ = ["ExitCode", "main"]

_COMMANDS = (
    score,
    report,
    rank,
    compare,
    serve,
    make_pairs,
    train,
    evaluate,
    visualize,
    models,
    convert,
    doctor,
)  # in the order of --help


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None reads them from the process.

    Returns:
        An ``ExitCode``.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names that the terminal cannot show are escaped
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        with _ended_by_signal(), interruptible():
            return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("vsm-fast: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except Exception as error:
        if arguments.verbose:
            traceback.print_exc()
        message = " ".join(str(error).split()) or type(error).__name__
        code = _exit_code(error)
        if out_of_memory(error):
            hint = "; smaller batches (--batch-size) need less"
            message = f"out of memory: {message}{hint if hasattr(arguments, 'batch_size') else ''}"
        elif code is ExitCode.FAILED:
            message = f"{type(error).__name__}: {message} (-v shows where)"
        print(f"vsm-fast: error: {message}", file=sys.stderr)
        return code


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """SIGTERM unwinds, as Ctrl-C does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():  # others may set no handler
        yield
        return

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit_code(error: Exception) -> ExitCode:
    if isinstance(error, ModelError):
        return ExitCode.MODEL
    if isinstance(error, (UsageError, PairingError, InputError, ResultsError)):
        return ExitCode.USAGE
    return ExitCode.FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vsm-fast",
        description="Visual Semantic Matching: does a generated image still show the same "
        "subject as its reference, and where not.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vsm_fast {__version__}")
    names = ",".join(command.__name__.rpartition(".")[2].replace("_", "-") for command in _COMMANDS)
    commands = parser.add_subparsers(title="commands", required=True, metavar=f"{{{names}}}")
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
