"""``vsm-fast make-pairs``: controlled inconsistencies from photographs."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsm_fast.cli.common import (
    EXIT_CODES,
    ExitCode,
    UsageError,
    add_verbosity,
    positive,
    print_text,
)

if TYPE_CHECKING:
    from vsm_fast.lab.pairs.pair_job import Job
    from vsm_fast.lab.pairs.pairs import ControlledPair

# What the benchmark's protocol fixes, or has no use for.
_FILTERED_ONLY = (
    "unaltered", "other_subjects", "masker", "parts", "alterer", "detector_model", "sam_model",
    "alterer_model", "change", "model", "similarity", "skewness", "area",
)  # fmt: skip

_HELP = """\
source:
  a folder with a sub-folder per subject   two photographs of it; a lone one is warped
  a folder of images, or one image         the second view is a warp of the first
  Parquet files of Subjects200K            the two halves of each image

Masks come from NAME_mask.png beside an image, else from --masker. Interrupted, the same command
goes on where it was; --out of other settings is refused.

protocol:
  filtered    pairs to train on: parts at semantic matches, filtered as the options say
  benchmark   pairs to measure on, as the embedded model's figures: two photographs of a subject,
              the altered share uniform in 0.01 to 0.6, one of eight unaltered, and N/4 pairs of
              two subjects. --source is a folder with a sub-folder per subject; photographs
              without NAME_mask.png are left out. What filtered alone needs, from --unaltered
              to --area, is refused.

models:
  owner/name or owner/name@REVISION on the Hugging Face Hub, or a local folder. Name a commit as
  the revision if others should be able to make the same pairs.

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
    parser.add_argument("--protocol", default="filtered", choices=("filtered", "benchmark"),
                        help="see below (default: %(default)s)")  # fmt: skip
    parser.add_argument("--count", type=positive, default=256, metavar="N", help="pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=positive, default=1, metavar="N", help="processes")
    choose = parser.add_argument_group("what")
    choose.add_argument("--subjects", nargs="+", default=(), metavar="NAME")
    choose.add_argument("--exclude-subjects", nargs="+", default=(), metavar="NAME")
    choose.add_argument("--donors-from", nargs="+", default=(), metavar="NAME",
                        help="benchmark: sub-folders that lend textures (default: all but "
                        "--subjects)")  # fmt: skip
    choose.add_argument("--kinds", nargs="+", default=(), metavar="KIND", help="alterations")
    choose.add_argument("--unaltered", type=float, default=0.125, metavar="SHARE")
    choose.add_argument("--other-subjects", type=float, default=0.0, metavar="SHARE")
    choose.add_argument("--size", type=positive, metavar="PIXELS",
                        help="longer side (default: 512; benchmark 256)")  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument("--masker", default="grabcut", help="grabcut or grounded-sam")
    how.add_argument("--parts", default="descriptors", help="descriptors, sam or random")
    how.add_argument(
        "--alterer",
        default="offline",
        help="offline, sdxl-inpainting, sd2-inpainting or flux-fill",
    )
    how.add_argument("--detector-model", metavar="MODEL", help="Grounding DINO of grounded-sam")
    how.add_argument("--sam-model", metavar="MODEL", help="SAM of grounded-sam and sam")
    how.add_argument("--alterer-model", metavar="MODEL", help="pipeline of a --alterer")
    how.add_argument("--change", default="lab", help="lab or lpips")
    how.add_argument("--model", default="tiny", help="describes the views")
    how.add_argument("--similarity", type=float, default=0.5, help="of semantic matches")
    how.add_argument("--skewness", default="1.3", help="of their rows; none = no filter")
    how.add_argument("--area", nargs=2, type=float, default=(0.05, 0.6), metavar=("LOW", "HIGH"))
    add_verbosity(parser)
    parser.set_defaults(run=partial(_make_pairs, parser))


def _make_pairs(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast make-pairs``."""
    try:
        from vsm_fast.lab.pairs.contact_sheet import save_contact_sheet
        from vsm_fast.lab.pairs.pair_job import make_pairs_job
    except ImportError as error:
        raise UsageError(
            f"make-pairs needs {error.name or error}; run: pip install '.[lab]'"
        ) from error
    from vsm_fast.lab.pairs.pair_shards import read_pairs
    from vsm_fast.progress import reporting

    benchmark = arguments.protocol == "benchmark"
    _refuse_unused(parser, arguments, _FILTERED_ONLY if benchmark else ("donors_from",))
    try:
        job = _benchmark(arguments) if benchmark else _filtered(arguments)
        bar = not arguments.quiet and sys.stderr.isatty()
        with reporting(bar, job.total) as advance:
            summary = make_pairs_job(job, arguments.out, arguments.workers, advance)
    except (ValueError, ImportError, OSError) as error:
        raise UsageError(str(error)) from error
    sheet = arguments.out / "contact_sheet.png"
    if summary["pairs"]:
        save_contact_sheet(_shown(arguments.out) if benchmark else read_pairs(arguments.out), sheet)
    if not arguments.quiet:
        print_text(_report(summary, arguments.out, sheet))
    return ExitCode.OK if summary["pairs"] else ExitCode.UNSCORED


def _refuse_unused(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, names: Iterable[str]
) -> None:
    """Refuse options that the chosen protocol would ignore."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in names
        if getattr(arguments, name) != parser.get_default(name)
    ]
    if given:
        raise UsageError(
            f"--protocol {arguments.protocol} makes no use of {', '.join(given)}; leave that out, "
            "or choose the other protocol."
        )


def _filtered(arguments: argparse.Namespace) -> Job:
    from vsm_fast.lab.pairs.pair_job import PairJob
    from vsm_fast.lab.pairs.pair_pipeline import PairSettings

    size = {} if arguments.size is None else {"size": arguments.size}
    settings = PairSettings(
        **size,
        unaltered=arguments.unaltered,
        other_subjects=arguments.other_subjects,
        area=tuple(arguments.area),
        similarity=arguments.similarity,
        skewness=None if arguments.skewness == "none" else float(arguments.skewness),
    )
    return PairJob(
        source=arguments.source,
        count=arguments.count,
        seed=arguments.seed,
        kinds=tuple(arguments.kinds),
        masker=arguments.masker,
        parts=arguments.parts,
        alterer=arguments.alterer,
        change=arguments.change,
        detector_model=arguments.detector_model,
        sam_model=arguments.sam_model,
        alterer_model=arguments.alterer_model,
        model=arguments.model,
        subjects=tuple(arguments.subjects),
        excluded=tuple(arguments.exclude_subjects),
        settings=settings,
    )


def _benchmark(arguments: argparse.Namespace) -> Job:
    from vsm_fast.lab.pairs.benchmark import BenchmarkJob

    size = {} if arguments.size is None else {"size": arguments.size}
    return BenchmarkJob(
        source=arguments.source,
        count=arguments.count,
        seed=arguments.seed,
        subjects=tuple(arguments.subjects),
        donors_from=tuple(arguments.donors_from),
        excluded=tuple(arguments.exclude_subjects),
        kinds=tuple(arguments.kinds),
        **size,
    )


def _shown(out: Path) -> list[ControlledPair]:
    """Pairs of a benchmark for its contact sheet: the first, and the last, of two subjects."""
    from vsm_fast.lab.pairs.pair_shards import read_pairs, shard_paths

    pairs = list(islice(read_pairs(out), 24))
    return pairs if len(pairs) < 24 else [*pairs[:20], *deque(read_pairs(shard_paths(out)[-1]), 4)]


def _report(summary: dict[str, Any], out: Path, sheet: Path) -> str:
    """What was made, and what for nothing."""

    def counts(name: str) -> str:
        return ", ".join(f"{key} {count}" for key, count in summary[name].items()) or "none"

    lines = [
        f"{summary['pairs']} pairs of {summary['tried']} tried",
        f"kinds: {counts('kinds')}",
        f"views: {counts('views')}",
    ]
    inputs = summary["inputs"]
    if summary["job"]["protocol"] == "benchmark":
        lines += [
            f"photographs: {sum(inputs['photographs'].values())} of "
            f"{', '.join(inputs['photographs'])}; left out {inputs['without_mask']} without a mask",
            f"donors: {sum(inputs['donors'].values())} photographs of {len(inputs['donors'])} "
            "subjects",
        ]
    else:
        lines += [f"rejected draws: {counts('rejected')}"]
        lines += [f"weights: {counts('inputs')}"] if inputs else []
    lines += ["", f"pairs: {out} (Parquet)"]
    return "\n".join([*lines, f"look at: {sheet}"] if summary["pairs"] else lines)
