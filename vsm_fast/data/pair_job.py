"""``make-pairs`` as a job: numbered shards, resumed where it was interrupted, in processes."""

from __future__ import annotations

import json
import logging
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from vsm_fast.atomic import replacing
from vsm_fast.data.pair_inputs import PairInput, open_source
from vsm_fast.data.pair_pipeline import PairMaker, PairSettings
from vsm_fast.data.pair_shards import write_shard
from vsm_fast.data.pairs import ControlledPair
from vsm_fast.data.procedural_pairs import ProceduralSubjects
from vsm_fast.data.registry import make_stages
from vsm_fast.errors import PairingError
from vsm_fast.version import __version__

_log = logging.getLogger(__name__)

SHARD = 64
PROCEDURAL = "procedural"
SUMMARY = "summary.json"
_JOB = "job.json"


@dataclass(frozen=True)
class PairJob:
    """Everything that decides what the pairs are; equal jobs make equal pictures.

    Attributes:
        source: Path, or ``"procedural"``.
        count: Pairs to try; one whose every draw is rejected is missing from the output.
        seed: Of all draws.
        kinds: Alterations; all of the alterer's when empty.
        masker, parts, alterer, change: Names of the stages.
        model: Describes the views.
        subjects, excluded: Sub-folders of the source to use, and to leave out.
        settings: Limits of the filters.
    """

    source: str
    count: int
    seed: int = 0
    kinds: tuple[str, ...] = ()
    masker: str = "grabcut"
    parts: str = "descriptors"
    alterer: str = "offline"
    change: str = "lab"
    model: str = "tiny"
    subjects: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    settings: PairSettings = field(default_factory=PairSettings)

    def shards(self) -> list[range]:
        """The pair numbers of each shard."""
        return [
            range(start, min(start + SHARD, self.count)) for start in range(0, self.count, SHARD)
        ]


def run_job(
    job: PairJob, out: Path, workers: int = 1, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Make the shards that are missing, then the summary.

    A shard is written whole or not at all, so an interrupted job goes on with the first one that
    is missing and ends like one that was not interrupted.

    Args:
        job: What to make.
        out: Folder of the shards.
        workers: Processes.
        progress: Called with the number of pairs tried since the last call.

    Returns:
        The summary: counts by kind and view, rejections by reason, the job, versions.

    Raises:
        PairingError: The folder holds the pairs of another job, or the source holds nothing.
    """
    if job.count < 1:
        raise PairingError(f"wanted at least 1 pair; got {job.count}.")
    _check_folder(job, out)
    tasks = []
    for number, numbers in enumerate(job.shards()):
        if _tally_path(out, number).exists() and _shard_path(out, number).exists():
            progress(len(numbers))
        else:
            tasks.append((number, numbers))
    (out / "tallies").mkdir(parents=True, exist_ok=True)
    if tasks:
        # Here too when other processes do the work: a job that cannot begin leaves no trace.
        _prepare(job)
    _write_json(out / _JOB, _described(job))
    for numbers, rejected in _run(job, out, tasks, workers):
        progress(len(numbers))
        _log.info("pairs %d to %d: %s", numbers[0], numbers[-1], dict(rejected) or "none rejected")
    return _summarise(job, out)


def _run(
    job: PairJob, out: Path, tasks: list[tuple[int, range]], workers: int
) -> Iterator[tuple[range, Mapping[str, int]]]:
    if not tasks:
        return
    if workers == 1:
        yield from map(partial(_make_shard, out), tasks)
        return
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_prepare, initargs=(job, 1)
    ) as pool:
        try:
            yield from pool.map(partial(_make_shard, out), tasks)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_maker: list[PairMaker] = []  # of a process


def _prepare(job: PairJob, threads: int | None = None) -> None:
    """Load source, model and stages into this process."""
    import cv2
    import torch

    from vsm_fast.scorer import VSMScorer

    if threads is not None:  # the processes are the parallelism
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    stages = make_stages(job.masker, job.parts, job.alterer, job.change)
    scorer = VSMScorer.from_pretrained(job.model)
    kinds = job.kinds or stages.alterer.kinds
    _maker[:] = [PairMaker(_open(job), scorer, stages, job.settings, kinds, job.seed)]


def _open(job: PairJob) -> PairInput:
    if job.source == PROCEDURAL:
        return ProceduralSubjects(min(job.settings.size, 256))
    return open_source(job.source, job.subjects, job.excluded)


def _make_shard(out: Path, task: tuple[int, range]) -> tuple[range, Mapping[str, int]]:
    shard, numbers = task
    tally: Counter[str] = Counter()

    def pairs() -> Iterator[ControlledPair]:
        for number in numbers:
            pair, reasons = _maker[0].make(number)
            tally.update(reasons)
            if pair is None:
                tally["given up"] += 1
            else:
                tally[f"kind {pair.kind}"] += 1
                tally[f"view {pair.view}"] += 1
                yield pair

    write_shard(pairs(), _shard_path(out, shard))
    # After the shard: without it the shard counts as missing and is made again.
    _write_json(_tally_path(out, shard), tally)
    rejected = {k: n for k, n in tally.items() if not k.startswith(("kind ", "view "))}
    return numbers, rejected


def _shard_path(out: Path, shard: int) -> Path:
    return out / f"pairs-{shard:05d}.parquet"


def _tally_path(out: Path, shard: int) -> Path:
    return out / "tallies" / f"pairs-{shard:05d}.json"


def _described(job: PairJob) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(json.dumps(asdict(job)))
    return described


def _check_folder(job: PairJob, out: Path) -> None:
    """Refuse a folder of another job; more pairs of the same job are welcome."""
    path, wanted = out / _JOB, _described(job)
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        other = [
            f"{name} was {found.get(name)!r}, now {value!r}"
            for name, value in wanted.items()
            if name != "count" and found.get(name) != value
        ]
        if other:
            raise PairingError(
                f"{out} holds pairs of another job: {'; '.join(other)}. "
                "Choose another --out, or the settings as they were."
            )
        last = found["count"] % SHARD
        if found["count"] != wanted["count"] and last:  # the last shard was a short one
            shard = found["count"] // SHARD
            _tally_path(out, shard).unlink(missing_ok=True)
            _shard_path(out, shard).unlink(missing_ok=True)
    elif any(out.glob("*.parquet")):
        raise PairingError(f"{out} holds Parquet files but no {_JOB}; choose another --out.")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _summarise(job: PairJob, out: Path) -> dict[str, Any]:
    tally: Counter[str] = Counter()
    for shard in range(len(job.shards())):
        tally.update(json.loads(_tally_path(out, shard).read_text(encoding="utf-8")))

    def chosen(prefix: str) -> dict[str, int]:
        return {
            name.removeprefix(prefix): count
            for name, count in sorted(tally.items())
            if name.startswith(prefix)
        }

    kinds = chosen("kind ")
    summary = {
        "pairs": sum(kinds.values()),
        "tried": job.count,
        "given_up": tally["given up"],
        "kinds": kinds,
        "views": chosen("view "),
        "rejected": {
            name: count
            for name, count in sorted(tally.items())
            if not name.startswith(("kind ", "view ")) and name != "given up"
        },
        "job": _described(job),
        "versions": {"vsm_fast": __version__, "python": platform.python_version()},
    }
    _write_json(out / SUMMARY, summary)
    return summary
