"""``vsm-fast make-pairs``: controlled inconsistencies from photographs or out of nothing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vsm_fast.commands.common import EXIT_CODES, ExitCode, UsageError, positive, print_text

_HELP = """\
source:
  a folder with a sub-folder per subject   two photographs of it; a lone one is warped
  a folder of images, or one image         the second view is a warp of the first
  Parquet files of Subjects200K            the two halves of each image
  procedural                               textured solids, rendered from two views

Masks come from NAME_mask.png beside an image, else from --masker. Interrupted, the same command
goes on where it was; --out of other settings is refused.

"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``make-pairs`` to the command line."""
    parser = commands.add_parser(
        "make-pairs",
        help="make controlled pairs: a part of a subject altered, how much is known",
        epilog=_HELP + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", required=True, metavar="PATH", help="see below")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--count", type=positive, default=256, metavar="N", help="pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=positive, default=1, metavar="N", help="processes")
    choose = parser.add_argument_group("what")
    choose.add_argument("--subjects", nargs="+", default=(), metavar="NAME")
    choose.add_argument("--exclude-subjects", nargs="+", default=(), metavar="NAME")
    choose.add_argument("--kinds", nargs="+", default=(), metavar="KIND", help="alterations")
    choose.add_argument("--unaltered", type=float, default=0.125, metavar="SHARE")
    choose.add_argument("--other-subjects", type=float, default=0.0, metavar="SHARE")
    choose.add_argument("--size", type=positive, default=512, help="longer side in pixels")
    how = parser.add_argument_group("how")
    how.add_argument("--masker", default="grabcut", help="grabcut or grounded-sam")
    how.add_argument("--parts", default="descriptors", help="descriptors, sam or random")
    how.add_argument(
        "--alterer",
        default="offline",
        help="offline, sdxl-inpainting, sd2-inpainting or flux-fill",
    )
    how.add_argument("--change", default="lab", help="lab or lpips")
    how.add_argument("--model", default="tiny", help="describes the views")
    how.add_argument("--similarity", type=float, default=0.5, help="of semantic matches")
    how.add_argument("--skewness", default="1.3", help="of their rows; none = no filter")
    how.add_argument("--area", nargs=2, type=float, default=(0.05, 0.6), metavar=("LOW", "HIGH"))
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    parser.set_defaults(run=_make_pairs)


def _make_pairs(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast make-pairs``."""
    try:
        from vsm_fast.data.contact_sheet import save_contact_sheet
        from vsm_fast.data.pair_job import PairJob, run_job
        from vsm_fast.data.pair_pipeline import PairSettings
    except ImportError as error:
        raise UsageError(
            f"make-pairs needs {error.name or error}; run: pip install 'vsm_fast[train]'"
        ) from error
    from vsm_fast.data.pair_shards import read_pairs
    from vsm_fast.progress import reporting

    try:
        skewness = None if arguments.skewness == "none" else float(arguments.skewness)
        settings = PairSettings(
            size=arguments.size,
            unaltered=arguments.unaltered,
            other_subjects=arguments.other_subjects,
            area=tuple(arguments.area),
            similarity=arguments.similarity,
            skewness=skewness,
        )
        job = PairJob(
            source=arguments.source,
            count=arguments.count,
            seed=arguments.seed,
            kinds=tuple(arguments.kinds),
            masker=arguments.masker,
            parts=arguments.parts,
            alterer=arguments.alterer,
            change=arguments.change,
            model=arguments.model,
            subjects=tuple(arguments.subjects),
            excluded=tuple(arguments.exclude_subjects),
            settings=settings,
        )
        bar = not arguments.quiet and sys.stderr.isatty()
        with reporting(bar, job.count) as advance:
            summary = run_job(job, arguments.out, arguments.workers, advance)
    except (ValueError, ImportError, OSError) as error:
        raise UsageError(str(error)) from error
    sheet = arguments.out / "contact_sheet.png"
    if summary["pairs"]:
        save_contact_sheet(read_pairs(arguments.out), sheet)
    if not arguments.quiet:
        print_text(_report(summary, arguments.out, sheet))
    return ExitCode.OK if summary["pairs"] else ExitCode.UNSCORED


def _report(summary: dict[str, object], out: Path, sheet: Path) -> str:
    """What was made, and what for nothing."""

    def counts(name: str) -> str:
        table = summary[name]
        assert isinstance(table, dict)
        return ", ".join(f"{key} {count}" for key, count in table.items()) or "none"

    lines = [
        f"{summary['pairs']} pairs of {summary['tried']} tried",
        f"kinds: {counts('kinds')}",
        f"views: {counts('views')}",
        f"rejected draws: {counts('rejected')}",
        "",
        f"pairs: {out} (Parquet)",
    ]
    return "\n".join([*lines, f"look at: {sheet}"] if summary["pairs"] else lines)
