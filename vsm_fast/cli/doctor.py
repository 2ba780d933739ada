"""``vsm-fast doctor``: what is installed and which path each stage takes."""

from __future__ import annotations

import argparse

from vsm_fast.cli.common import EXIT_CODES, ExitCode, print_text


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``doctor`` to the command line."""
    parser = commands.add_parser(
        "doctor",
        help="show versions, devices, the model's state and the paths that scoring takes",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="tiny", help="model to check (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast doctor``."""
    import json

    from vsm_fast.cli.doctor_report import examine, render

    report = examine(arguments.model)
    print_text(json.dumps(report, indent=2) if arguments.json else render(report))
    return ExitCode.FAILED if report["problems"] else ExitCode.OK
