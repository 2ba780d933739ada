"""``vsm-fast report``: a page for a browser from a table of results."""

from __future__ import annotations

import argparse
from pathlib import Path

from vsm_fast.cli.common import (
    EXIT_CODES,
    ExitCode,
    UsageError,
    add_verbosity,
    make_folder,
    positive,
    print_text,
)

_IMAGES = 400  # vsm_fast.report.page.DEFAULT_IMAGES, which would import torch; a test compares them

_NOTES = """\
results:
  what vsm-fast score --out writes: a file, the folder of a job, or a folder of such files.
  Without --points (Parquet only) the page has scores, but no other thresholds, heat maps or
  matched points.

images:
  are read from where they were when they were scored. Half of the pictures go to the lowest
  scores, a quarter to the highest, the rest to pairs spread over the others.

"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``report`` to the command line."""
    parser = commands.add_parser(
        "report",
        help="make one page to explore results in a browser",
        epilog=_NOTES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, metavar="RESULTS", help="file of results, or folder")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="page: .html")
    parser.add_argument("--title", default="VSM report", help="of the page")
    pictures = parser.add_mutually_exclusive_group()
    pictures.add_argument(
        "--images",
        type=positive,
        default=_IMAGES,
        metavar="N",
        help="pairs that get pictures (default: %(default)s)",
    )
    pictures.add_argument(
        "--no-images", dest="images", action="store_const", const=0, help="numbers only"
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="what relative image paths start from"
    )
    add_verbosity(parser)
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast report``."""
    out: Path = arguments.out
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out must end in .html; got {out}.")
    if out.is_dir():
        raise UsageError(f"--out must be a file; {out} is a folder.")
    if arguments.root is not None and not arguments.root.is_dir():
        raise UsageError(f"--root must be a folder; got {arguments.root}.")
    make_folder(out.parent, "--out")
    from vsm_fast.report import read_results, write_report

    results = read_results(arguments.results)
    try:
        pictures = write_report(
            results, out, title=arguments.title, images=arguments.images, root=arguments.root
        )
    except ImportError as error:  # the extra is missing
        raise UsageError(str(error)) from error
    if not arguments.quiet:
        lines = [
            f"report: {out} ({out.stat().st_size / 1e6:.1f} MB, {len(results):,} pairs, "
            f"{len(pictures.files):,} images)"
        ]
        if results.planned not in (None, len(results)):
            lines.append(f"The job is not finished: {results.planned:,} pairs were planned.")
        if pictures.missing:
            lines.append(
                f"{pictures.missing:,} images could not be read; if they were moved, --root says "
                "what their relative paths start from."
            )
        if results.without_points:
            lines.append(results.without_points)
        print_text("\n".join(lines))
    return ExitCode.OK
