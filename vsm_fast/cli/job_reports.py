"""Progress of a job: a bar on a terminal, lines in a log, JSON events for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vsm_fast.cli.common import print_note, print_text
from vsm_fast.jobs.progress import Event, Report
from vsm_fast.progress import progress_bar

_MOST_GROUPS = 40
_LINE_SECONDS = 30.0  # between two lines of a log
_EVENT_SECONDS = 1.0  # between two progress events


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
