"""``vsm-fast score --out DIR/``: jobs of any size, see docs/how-to/large-jobs.md."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsm_fast.cli.common import ExitCode, UsageError, checked_device, print_note, print_text

if TYPE_CHECKING:
    from vsm_fast.cli.inputs import MaskSource
    from vsm_fast.cli.score_options import ScoreOptions
    from vsm_fast.jobs.pairing import PairRow
    from vsm_fast.jobs.plan import PairSource
    from vsm_fast.jobs.progress import Event, Report
    from vsm_fast.jobs.records import Notes

_MOST_GROUPS = 40
_LINE_SECONDS = 30.0  # between two lines of a log
_EVENT_SECONDS = 1.0  # between two progress events


@dataclass(frozen=True)
class AutoMaskedPairs:
    """Pairs with automatic masks where none are given.

    The segmentation method is chosen at the start of the job and recorded in its manifest: a
    machine with other models makes another job.
    """

    source: PairSource
    masks: MaskSource

    @property
    def base(self) -> str:
        """Common beginning of the images' locations."""
        return self.source.base

    def rows(self, notes: Notes | None = None) -> Iterator[PairRow]:
        """Yield the pairs."""
        for row in self.source.rows(notes):
            ref, gen = self.masks.of_pair(row)
            yield replace(row, ref_mask=ref, gen_mask=gen)


def is_job(out: str | None) -> bool:
    """Return whether ``--out`` asks for a job: a folder, or a name without a suffix."""
    if out is None:
        return False
    path = Path(out)
    return (
        out.endswith(("/", os.sep))
        or not path.suffix
        or (path.is_dir() and path.suffix.lower() not in (".parquet", ".csv", ".jsonl"))
    )


def run(options: ScoreOptions, masks: MaskSource) -> ExitCode:
    """Run ``vsm-fast score --out DIR/``."""
    from vsm_fast.images.storage import absolute
    from vsm_fast.jobs.errors import JobError, JobStopped, TooManyFailures, stop_on_signals
    from vsm_fast.jobs.manifest import Manifest
    from vsm_fast.jobs.plan import ListedPairs
    from vsm_fast.jobs.settings import SHARD_ROWS, FailureLimit, JobSettings, RunOptions

    pairs, jobs = options.pairs, options.jobs
    pairs.check(masks)
    if options.fiftyone is not None:
        raise UsageError("--fiftyone is for --out FILE, or no --out.")
    if options.limit_heatmaps is not None:
        raise UsageError("--limit-heatmaps is for --out FILE; a job draws every scored pair.")
    if options.heatmaps is not None and options.visual_threshold == 1:
        raise UsageError("heat maps need a --visual-threshold below 1.")
    device = checked_device(options.model.device)
    try:
        settings = JobSettings(
            model=options.model.model,
            device=device,
            dtype=options.model.dtype,
            runtime=options.model.runtime,
            semantic_threshold=options.semantic_threshold,
            visual_threshold=options.visual_threshold,
            thresholds=jobs.thresholds or (),
            heatmaps=None if options.heatmaps is None else absolute(options.heatmaps),
            points=options.points,
            shard_rows=jobs.shard_rows or SHARD_ROWS,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        limit = None if jobs.max_failed is None else FailureLimit.parse(jobs.max_failed)
    except ValueError as error:
        raise UsageError(f"--max-failed: {error}") from error
    run_options = RunOptions(
        batch_size=options.batch_size,
        cache=None if options.cache is None else str(options.cache),
        retry_failed=jobs.retry_failed,
        max_failed=limit,
    )
    # Absolute paths: a job resumes from any folder.
    if pairs.manifest is not None:
        source: PairSource = Manifest(absolute(pairs.manifest), pairs.column_names())
    else:
        for side in ("ref_masks", "gen_masks"):
            if (folder := getattr(masks, side)) is not None:
                setattr(masks, side, Path(absolute(folder)))
        refs = tuple(Path(absolute(path)) for path in pairs.refs or ())
        gens = tuple(Path(absolute(path)) for path in pairs.gens or ())
        source = ListedPairs(replace(pairs, refs=refs, gens=gens).read(masks))
    if masks.automatic:
        source = AutoMaskedPairs(source, masks)
    out = Path(options.out or "")
    try:
        with (
            make_report(json=jobs.json, quiet=options.quiet) as report,
            jobs.runner() as run_job,
            stop_on_signals(_announce_stop) as stop,  # last: Ray sets handlers when it starts
        ):
            summary = run_job(source, out, settings, run_options, stop=stop, report=report)
    except JobStopped as error:
        print(f"vsm-fast: {error}", file=sys.stderr)
        return ExitCode(128 + error.signal)
    except (TooManyFailures, JobError) as error:
        print(f"vsm-fast: error: {error}", file=sys.stderr)
        too_many = isinstance(error, TooManyFailures)
        return ExitCode.TOO_MANY_FAILED if too_many else ExitCode.FAILED
    except (ImportError, ValueError) as error:  # a missing extra or contradictory options
        raise UsageError(str(error)) from error
    if not options.quiet and not jobs.json:
        print_summary(summary, out)
    everything = summary["all"]
    return ExitCode.OK if everything["scored"] == everything["rows"] else ExitCode.UNSCORED


def _announce_stop(_: int) -> None:
    print(
        "vsm-fast: stopping after the current shard if it ends soon; repeat the signal to stop "
        "at once",
        file=sys.stderr,
    )


@contextmanager
def make_report(*, json: bool, quiet: bool) -> Iterator[Report]:
    """Yield the report for the options and the terminal."""
    if json:
        yield _Events()
    elif quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _Bar() as bar:
            yield bar
    else:
        yield _Lines()


def _print_notes(event: Event) -> None:
    """Print the notes of a start event."""
    for note in event["notes"]:
        print_note(note)
    for shard, reason in event["damaged"].items():
        print_note(f"shard {shard} is scored again: {reason}")
    if event["repeated_ids"]:
        print_note(
            f"{event['repeated_ids']} rows repeat the id of an earlier row; the column 'row' "
            "distinguishes them"
        )
    if event["finished_rows"]:
        print_note(f"{event['finished_rows']} of {event['rows']} rows are already finished")


class _Events:
    """One JSON object per line on standard output."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event["event"] in ("rows", "planning"):
            if now - self._last < _EVENT_SECONDS:
                return
            self._last = now
        print_text(json.dumps(event))


class _Bar:
    """A tqdm bar on standard error."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, event: Event) -> None:
        if event["event"] == "start":
            from vsm_fast.progress import progress_bar

            _print_notes(event)
            self._bar = progress_bar(
                total=event["rows"], initial=event["finished_rows"], unit="pair", smoothing=0.05
            )
        elif event["event"] == "rows" and self._bar is not None:
            self._bar.set_postfix_str(f"{event['failed']} failed", refresh=False)
            self._bar.update(event["done"] - self._bar.n)


class _Lines:
    """A line on standard error every half minute."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        if event["event"] == "start":
            _print_notes(event)
        elif event["event"] == "rows" and time.monotonic() - self._last > _LINE_SECONDS:
            self._last = time.monotonic()
            eta = event["eta_seconds"]
            print(
                f"vsm-fast: {event['done']}/{event['total']} pairs, {event['failed']} failed, "
                f"{event['rows_per_second']:g}/s, {eta:.0f} s to go",
                file=sys.stderr,
            )


def print_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Print the means and counts of a finished job."""
    from vsm_fast.results.table import aligned, flag_line, number

    def row(name: str, group: Mapping[str, Any]) -> tuple[str, ...]:
        mean = group["mean_score"]
        return (
            name or "(none)",
            "-" if mean is None else number(mean),
            f"{group['scored']}/{group['rows']}",
            str(group["failed"]),
        )

    parts = []
    for kind in ("subjects", "generators"):
        groups = summary.get(kind, {})
        if groups:
            rows = [row(name, group) for name, group in list(groups.items())[:_MOST_GROUPS]]
            head = (kind.removesuffix("s"), "mean score", "scored/pairs", "failed")
            parts.append(aligned(head, rows))
            if len(groups) > _MOST_GROUPS:
                parts[-1] += f"\n… and {len(groups) - _MOST_GROUPS} more"
    everything = summary["all"]
    others = {name: n for name, n in summary["statuses"].items() if name != "ok"}
    mean = everything["mean_score"]
    parts.append(
        f"mean {'-' if mean is None else number(mean)} over {everything['scored']} of "
        f"{everything['rows']} pairs"
        + "".join(f"; {count} {name}" for name, count in sorted(others.items()))
    )
    parts.append(f"results: {out}")
    if summary["flags"]:
        parts.append(flag_line(summary["flags"]))
    print_text("\n\n".join(parts))
