"""``vsm-fast score --out DIR/``: a job of any size, see docs/large-jobs.md."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsm_fast.cli.common import ExitCode, UsageError, checked_device, positive, similarity
from vsm_fast.cli.mask_options import MaskOptions
from vsm_fast.cli.pairs import check_inputs, column_names, read_pairs

if TYPE_CHECKING:
    from vsm_fast.jobs.pairing import PairRow
    from vsm_fast.jobs.plan import PairSource
    from vsm_fast.jobs.records import Notes
    from vsm_fast.jobs.settings import JobSettings, RunOptions

HELP = """\
jobs:
  --out DIR/ (or a name without a suffix) scores any number of pairs into Parquet shards in that
  folder. The same command goes on after an interruption. docs/large-jobs.md has the rest.

"""
_ACTORS = {
    "actors": "--actors",
    "gpus_per_actor": "--gpus-per-actor",
    "cpus_per_actor": "--cpus-per-actor",
}
_OPTIONS = {
    "thresholds": "--thresholds",
    "shard_rows": "--shard-rows",
    "retry_failed": "--retry-failed",
    "max_failed": "--max-failed",
    "json": "--json",
    "ray": "--ray",
    **_ACTORS,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that only jobs have."""
    group = parser.add_argument_group("jobs (--out DIR/)")
    group.add_argument(
        "--thresholds", nargs="+", type=similarity, metavar="T",
        help="further visual thresholds, with a column score_at_T each",
    )  # fmt: skip
    group.add_argument(
        "--shard-rows", type=positive, metavar="N", help="pairs a shard (default: 1024)"
    )
    group.add_argument(
        "--retry-failed", action="store_true", help="score again what failed, and only that"
    )
    group.add_argument("--max-failed", metavar="N|P%", help="stop when more pairs failed than this")
    group.add_argument(
        "--json", action="store_true", help="events for programs on standard output, one a line"
    )
    group.add_argument(
        "--ray", action="store_true",
        help="on the Ray cluster of RAY_ADDRESS, or on a Ray started here (extra ray)",
    )  # fmt: skip
    group.add_argument(
        "--actors",
        nargs="+",
        type=positive,
        metavar="N",
        help="processes that score: N, or MIN MAX",
    )
    group.add_argument(
        "--gpus-per-actor", type=float, metavar="F", help="default: 1 if the cluster has GPUs"
    )
    group.add_argument("--cpus-per-actor", type=float, metavar="F", help="default: 1")


@dataclass(frozen=True)
class AutoMaskedPairs:
    """Pairs whose masks are to be found where none is given.

    How is decided when the job starts, and part of its manifest: a machine with other models is
    another job.
    """

    source: PairSource
    masks: MaskOptions

    @property
    def base(self) -> str:
        """As of the source."""
        return self.source.base

    def rows(self, notes: Notes | None = None) -> Iterator[PairRow]:
        """The pairs."""
        for row in self.source.rows(notes):
            ref, gen = self.masks.of_pair(row)
            yield replace(row, ref_mask=ref, gen_mask=gen)


def is_job(out: str | None) -> bool:
    """Whether ``--out`` asks for a job: a folder, or a name without a suffix."""
    if out is None:
        return False
    place = Path(out)
    return (
        out.endswith(("/", os.sep))
        or not place.suffix
        or (place.is_dir() and place.suffix.lower() not in (".parquet", ".csv", ".jsonl"))
    )


def refuse_options(arguments: argparse.Namespace) -> None:
    """Refuse options of jobs where there is none."""
    given = [option for name, option in _OPTIONS.items() if getattr(arguments, name)]
    if given:
        raise UsageError(f"{', '.join(given)} needs a job: --out DIR/ (a folder).")


def run(arguments: argparse.Namespace, masks: MaskOptions) -> ExitCode:
    """``vsm-fast score --out DIR/``."""
    from vsm_fast.cli.job_reports import make_report, print_summary
    from vsm_fast.jobs.errors import JobError, JobStopped, TooManyFailures, stop_on_signals

    check_inputs(arguments, masks)
    if arguments.fiftyone is not None:
        raise UsageError("--fiftyone is for --out FILE, or none.")
    settings, options = _settings(arguments), _options(arguments)
    source = _source(arguments, masks)
    if masks.automatic:
        source = AutoMaskedPairs(source, masks)
    out = Path(arguments.out)
    try:
        with (
            make_report(arguments) as report,
            _runner(arguments) as run_job,
            stop_on_signals(_stopping) as stop,  # last: Ray takes the signals when it starts
        ):
            summary = run_job(source, out, settings, options, stop=stop, report=report)
    except JobStopped as error:
        print(f"vsm-fast: {error}", file=sys.stderr)
        return ExitCode(128 + error.signal)
    except TooManyFailures as error:
        print(f"vsm-fast: error: {error}", file=sys.stderr)
        return ExitCode.TOO_MANY_FAILED
    except JobError as error:
        print(f"vsm-fast: error: {error}", file=sys.stderr)
        return ExitCode.FAILED
    except (ImportError, ValueError) as error:  # an extra is missing, or options do not fit
        raise UsageError(str(error)) from error
    if not arguments.quiet and not arguments.json:
        print_summary(summary, out)
    everything = summary["all"]
    return ExitCode.OK if everything["scored"] == everything["rows"] else ExitCode.UNSCORED


@contextmanager
def _runner(arguments: argparse.Namespace) -> Iterator[Callable[..., dict[str, Any]]]:
    """What runs the job: this process, or the actors of a Ray session."""
    if not arguments.ray:
        given = [option for name, option in _ACTORS.items() if getattr(arguments, name)]
        if given:
            raise UsageError(f"{', '.join(given)} needs --ray.")
        from vsm_fast.jobs.runner import run_job

        yield run_job
        return
    from vsm_fast.jobs.ray_runner import ActorPool, ray_session, run_distributed

    actors = arguments.actors or [1]
    if len(actors) > 2:
        raise UsageError(f"--actors takes N, or MIN MAX; got {len(actors)} numbers.")
    pool = ActorPool(
        least=actors[0],
        most=actors[-1] if arguments.actors else None,
        gpus=arguments.gpus_per_actor,
        cpus=1.0 if arguments.cpus_per_actor is None else arguments.cpus_per_actor,
    )
    with ray_session(pool):
        yield partial(run_distributed, pool=pool)


def _stopping(number: int) -> None:
    print(
        "vsm-fast: stopping after the running shard, if that is soon; the same signal again "
        "stops at once",
        file=sys.stderr,
    )


def _settings(arguments: argparse.Namespace) -> JobSettings:
    from vsm_fast.images.storage import absolute
    from vsm_fast.jobs.settings import JobSettings

    if arguments.limit_heatmaps is not None:
        raise UsageError("--limit-heatmaps is for --out FILE; a job draws every scored pair.")
    heatmaps = arguments.heatmaps
    if heatmaps is not None and arguments.visual_threshold == 1:
        raise UsageError("heat maps need a --visual-threshold below 1.")
    settings = JobSettings(
        model=arguments.model,
        device=checked_device(arguments.device),
        dtype=arguments.dtype,
        runtime=arguments.runtime,
        semantic_threshold=arguments.semantic_threshold,
        visual_threshold=arguments.visual_threshold,
        heatmaps=None if heatmaps is None else absolute(heatmaps),
        points=arguments.points,
    )
    try:
        return replace(settings, **_given(arguments))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if arguments.thresholds is not None:
        given["thresholds"] = tuple(arguments.thresholds)
    if arguments.shard_rows is not None:
        given["shard_rows"] = arguments.shard_rows
    return given


def _options(arguments: argparse.Namespace) -> RunOptions:
    from vsm_fast.jobs.settings import FailureLimit, RunOptions

    try:
        limit = None if arguments.max_failed is None else FailureLimit.parse(arguments.max_failed)
    except ValueError as error:
        raise UsageError(f"--max-failed: {error}") from error
    return RunOptions(
        batch_size=arguments.batch_size,
        cache=None if arguments.cache is None else str(arguments.cache),
        retry_failed=arguments.retry_failed,
        max_failed=limit,
    )


def _source(arguments: argparse.Namespace, masks: MaskOptions) -> PairSource:
    from vsm_fast.images.storage import absolute
    from vsm_fast.jobs.manifest import Manifest
    from vsm_fast.jobs.plan import ListedPairs

    if arguments.manifest is None:
        for side in ("refs", "gens"):
            setattr(arguments, side, [Path(absolute(path)) for path in getattr(arguments, side)])
        for side in ("ref_masks", "gen_masks"):
            if (folder := getattr(masks, side)) is not None:
                setattr(masks, side, Path(absolute(folder)))
        return ListedPairs(read_pairs(arguments, masks))
    return Manifest(absolute(arguments.manifest), column_names(arguments))
