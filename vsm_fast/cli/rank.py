"""``vsm-fast rank``: groups of results by mean score."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vsm_fast.cli.common import (
    EXIT_CODES,
    ExitCode,
    UsageError,
    add_verbosity,
    make_folder,
    positive,
    print_text,
)

if TYPE_CHECKING:
    from vsm_fast.report.data import Results
    from vsm_fast.report.ranking import Comparison, Ranking

_FORMATS = (".md", ".csv", ".json", ".png")  # ranking_tables.FORMATS; a test compares them

_NOTES = """\
results:
  a file that vsm-fast score --out writes, a job folder, or a folder of such files.

intervals:
  95 % by a bootstrap over subjects, then images; all groups share the drawn subjects. Pairs
  without a score are counted and take no part in any mean. --on names columns whose values
  corresponding images share; by default their paths differ in the group's name only.

"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``rank`` to the command line."""
    parser = commands.add_parser(
        "rank",
        help="rank generators, or the groups of another column, by mean score",
        epilog=_NOTES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, metavar="RESULTS", help="file or folder of results")
    parser.add_argument(
        "--by", default="generator", metavar="COLUMN", help="groups (default: %(default)s)"
    )
    parser.add_argument(
        "--on", nargs="+", default=[], metavar="COLUMN", help="columns that match images"
    )
    add_table_outputs(parser)
    parser.set_defaults(run=_rank)


def add_table_outputs(parser: argparse.ArgumentParser) -> None:
    """``--out``, ``--resamples``, ``--seed`` and the verbosity of ``rank`` and ``compare``."""
    parser.add_argument(
        "--out", nargs="+", type=Path, default=[], metavar="FILE", help=".md, .csv, .json or .png"
    )
    parser.add_argument(
        "--resamples",
        type=positive,
        default=2000,
        metavar="N",
        help="of the bootstrap (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the resamples (default: 0)")
    add_verbosity(parser)


def check_outputs(paths: list[Path], seed: int) -> None:
    """Refuse unusable outputs before the work."""
    if seed < 0:
        raise UsageError(f"--seed must be at least 0; got {seed}.")
    for path in paths:
        if path.suffix.lower() not in _FORMATS:
            raise UsageError(f"--out must end in {', '.join(_FORMATS)}; got {path}.")
        if path.is_dir():
            raise UsageError(f"--out must be a file; {path} is a folder.")
        make_folder(path.parent, "--out")
    if any(path.suffix.lower() == ".png" for path in paths):
        from vsm_fast.extras import required

        try:
            required("matplotlib.figure", "--out FILE.png")
        except ImportError as error:
            raise UsageError(str(error)) from error


def print_and_write(
    result: Ranking | Comparison, tables: dict[Path, Results], paths: list[Path], quiet: bool
) -> None:
    """Print a result as a table, say which of its jobs are not finished, and write it to files."""
    from vsm_fast.report.ranking_tables import as_text, write

    if not quiet:
        print_text(as_text(result))
        for name, table in tables.items():
            if table.planned not in (None, len(table)):
                print_text(f"The job {name} is not finished: {table.planned:,} pairs were planned.")
    for path in paths:
        write(result, path)
    if paths and not quiet:
        print_text(f"\nwritten: {', '.join(map(str, paths))}")


def _rank(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast rank``."""
    check_outputs(arguments.out, arguments.seed)
    from vsm_fast.report.data import read_results
    from vsm_fast.report.ranking import rank

    results = read_results(arguments.results)
    ranking = rank(
        results,
        arguments.by,
        on=arguments.on,
        draws=arguments.resamples,
        seed=arguments.seed,
    )
    print_and_write(ranking, {arguments.results: results}, arguments.out, arguments.quiet)
    return ExitCode.OK
