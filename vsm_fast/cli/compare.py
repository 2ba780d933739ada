"""``vsm-fast compare``: two results on the images that both have."""

from __future__ import annotations

import argparse
from pathlib import Path

from vsm_fast.cli.common import EXIT_CODES, ExitCode
from vsm_fast.cli.rank import add_table_outputs, check_outputs, print_and_write

_NOTES = """\
matching:
  rows of A and B match if subject and id are equal, or the columns of --on; never by position.
  Unmatched rows and pairs without a score are counted and left out.

intervals:
  95 % by a bootstrap over subjects, then pairs.

"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``compare`` to the command line."""
    parser = commands.add_parser(
        "compare",
        help="compare two results on equal images",
        epilog=_NOTES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", type=Path, metavar="A", help="file or folder of results")
    parser.add_argument("b", type=Path, metavar="B", help="the same, to compare with")
    parser.add_argument(
        "--on",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="columns that match rows (default: subject id)",
    )
    add_table_outputs(parser)
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast compare``."""
    check_outputs(arguments.out, arguments.seed)
    from vsm_fast.report.data import read_results
    from vsm_fast.report.ranking import compare

    a, b = read_results(arguments.a), read_results(arguments.b)
    comparison = compare(
        a,
        b,
        on=arguments.on,
        draws=arguments.resamples,
        seed=arguments.seed,
    )
    tables = {arguments.a: a, arguments.b: b}
    print_and_write(comparison, tables, arguments.out, arguments.quiet)
    return ExitCode.OK
