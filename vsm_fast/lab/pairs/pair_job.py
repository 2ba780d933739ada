"""The job behind ``make-pairs``: numbered shards, parallel processes, resuming.

The engine of ``vsm_fast.jobs`` does not fit: the rows of a pair shard are unknown until it is
made, a finished job may grow, and each shard is made by one process alone.
"""

from __future__ import annotations

import json
import logging
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

from vsm_fast import __version__
from vsm_fast.errors import PairingError
from vsm_fast.files import write_json
from vsm_fast.identity import differences
from vsm_fast.jobs.job_folder import only_writer, recorded_settings
from vsm_fast.lab.pairs.benchmark import Benchmark, BenchmarkJob
from vsm_fast.lab.pairs.pair_inputs import open_source
from vsm_fast.lab.pairs.pair_pipeline import PairMaker, PairSettings
from vsm_fast.lab.pairs.pair_shards import write_pair_shard
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.lab.pairs.stage_choice import make_stages
from vsm_fast.scorer import VSMScorer

_log = logging.getLogger(__name__)

SHARD = 64
SUMMARY = "summary.json"
_JOB = "job.json"


@dataclass(frozen=True)
class PairJob:
    """Drawn, altered and filtered pairs; equal jobs make equal images.

    Attributes:
        source: Path of the photographs.
        count: Pairs to try; a pair without an accepted draw is missing from the output.
        seed: Seed of all draws.
        kinds: Alterations; all of the alterer's if empty.
        masker, parts, alterer, change: Names of the stages.
        detector_model, sam_model, alterer_model: Weights of pretrained stages, as in
            ``vsm_fast.lab.pairs.stage_choice.make_stages``.
        model: Model that extracts the descriptors.
        subjects, excluded: Sub-folders of the source to use, and to leave out.
        settings: Limits of the filters.
    """

    protocol: ClassVar[str] = "filtered"
    growing: ClassVar[bool] = True  # a larger count extends a smaller one

    source: str
    count: int
    seed: int = 0
    kinds: tuple[str, ...] = ()
    masker: str = "grabcut"
    parts: str = "descriptors"
    alterer: str = "offline"
    change: str = "lab"
    detector_model: str | None = None
    sam_model: str | None = None
    alterer_model: str | None = None
    model: str = "tiny"
    subjects: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    settings: PairSettings = field(default_factory=PairSettings)

    @property
    def total(self) -> int:
        """Return the number of pairs to try."""
        return self.count

    def open(self) -> PairMaker:
        """Open the source; load model and stages.

        Raises:
            PairingError: If the source is missing or empty.
            ValueError: If a stage or kind is unknown.
            ImportError: If a package of a stage is missing.
            ModelError: If the weights of a stage are missing.
        """
        stages = make_stages(
            self.masker,
            self.parts,
            self.alterer,
            self.change,
            detector_model=self.detector_model,
            sam_model=self.sam_model,
            alterer_model=self.alterer_model,
        )
        scorer = VSMScorer.from_pretrained(self.model)
        source = open_source(self.source, self.subjects, self.excluded)
        kinds = self.kinds or stages.alterer.kinds
        return PairMaker(source, scorer, stages, self.settings, kinds, self.seed)


Job = PairJob | BenchmarkJob
_maker: list[PairMaker | Benchmark] = []  # of this process


def make_pairs_job(
    job: Job, out: Path, workers: int = 1, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Make the missing shards, then the summary.

    A shard is written completely or not at all. An interrupted job resumes at its first missing
    shard and ends with the same bytes as an uninterrupted one. ``progress`` is called with the
    number of pairs tried since the last call.

    Returns:
        The summary: counts by kind and view, rejections by reason, the job, versions.

    Raises:
        PairingError: If the folder holds another job or pairs of other inputs, or the source is
            empty.
        JobError: If another process writes to the folder.
    """
    if job.count < 1:
        raise PairingError(f"--count must be at least 1; got {job.count}.")
    recorded = _recorded(job, out)
    before = recorded.get("count", job.count)
    short = before // SHARD if before < job.count else None  # the last shard of the smaller job
    tasks = []
    for shard, numbers in enumerate(_shards(job.total)):
        finished = _tally_path(out, shard).exists() and _shard_path(out, shard).exists()
        if finished and shard != short:
            progress(len(numbers))
        else:
            tasks.append((shard, numbers))
    inputs = recorded.get("inputs", {})
    if tasks:
        # Also with several workers: a job that cannot start leaves no trace.
        inputs = _open_job(job)
        _check_same(recorded.get("inputs", inputs), inputs, out, "from other inputs")
    (out / "tallies").mkdir(parents=True, exist_ok=True)
    with only_writer(out):
        # Temporary files of killed processes.
        for temporary in (*out.glob(".pairs-*.tmp*"), *out.glob(".job.*.tmp*")):
            temporary.unlink(missing_ok=True)
        for shard, _ in tasks:  # from here on the short shard counts as missing
            _tally_path(out, shard).unlink(missing_ok=True)
        write_json(out / _JOB, {**_json_of(job), "inputs": inputs})
        for numbers, rejected in _run(job, out, tasks, workers):
            progress(len(numbers))
            _log.info("pairs %d to %d: %s", numbers[0], numbers[-1], rejected or "none rejected")
        return _summarise(job, inputs, out)


def _shards(total: int) -> list[range]:
    """Return the pair numbers of each shard."""
    return [range(start, min(start + SHARD, total)) for start in range(0, total, SHARD)]


def _shard_path(out: Path, shard: int) -> Path:
    return out / f"pairs-{shard:05d}.parquet"


def _tally_path(out: Path, shard: int) -> Path:
    return out / "tallies" / f"pairs-{shard:05d}.json"


def _run(
    job: Job, out: Path, tasks: list[tuple[int, range]], workers: int
) -> Iterable[tuple[range, dict[str, int]]]:
    if workers == 1 or not tasks:
        yield from map(partial(_make_shard, out), tasks)
        return
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_open_job, initargs=(job, 1)
    ) as pool:
        try:
            yield from pool.map(partial(_make_shard, out), tasks)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _open_job(job: Job, threads: int | None = None) -> dict[str, Any]:
    """Load source and stages into this process; return the record of the inputs."""
    import cv2
    import torch

    if threads is not None:  # parallelism comes from the processes
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    _maker[:] = [job.open()]
    inputs: dict[str, Any] = json.loads(json.dumps(_maker[0].inputs))
    return inputs


def _make_shard(out: Path, task: tuple[int, range]) -> tuple[range, dict[str, int]]:
    shard, numbers = task
    tally: Counter[str] = Counter()

    def pairs() -> Iterator[ControlledPair]:
        for number in numbers:
            pair, reasons = _maker[0].make(number)
            tally.update(reasons)
            if pair is None:
                tally["given up"] += 1
            else:
                tally.update((f"kind {pair.kind}", f"view {pair.view}"))
                yield pair

    write_pair_shard(pairs(), _shard_path(out, shard))
    # Last: a shard without its tally counts as missing.
    write_json(_tally_path(out, shard), tally)
    return numbers, {k: n for k, n in tally.items() if not k.startswith(("kind ", "view "))}


def _json_of(job: Job) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(json.dumps(asdict(job)))
    return {"protocol": job.protocol, **settings}


def _recorded(job: Job, out: Path) -> dict[str, Any]:
    """Return the job recorded in a folder; the same job may have grown.

    Raises:
        PairingError: If it is another job.
    """
    path, now = out / _JOB, _json_of(job)
    if not path.exists():
        if any(not path.name.startswith(".") for path in out.glob("*.parquet")):
            raise PairingError(f"{out} holds Parquet files but no {_JOB}; choose another --out.")
        return {}
    recorded = recorded_settings(path)
    before = {name: recorded.get(name) for name in now}
    before["protocol"] = recorded.get("protocol", PairJob.protocol)
    if before["protocol"] != job.protocol:  # most other settings differ, too
        before, now = ({"protocol": settings["protocol"]} for settings in (before, now))
    elif job.growing and recorded["count"] < job.count:
        before["count"] = job.count
    _check_same(before, now, out, "of another job")
    return recorded


def _check_same(
    before: Mapping[str, Any], now: Mapping[str, Any], out: Path, description: str
) -> None:
    changed = differences(before, now)
    if changed:
        raise PairingError(
            f"{out} holds pairs {description}: {'; '.join(changed)}. "
            "Choose another --out, or restore the settings."
        )


def _summarise(job: Job, inputs: Mapping[str, Any], out: Path) -> dict[str, Any]:
    tally: Counter[str] = Counter()
    for shard in range(len(_shards(job.total))):
        tally.update(json.loads(_tally_path(out, shard).read_text(encoding="utf-8")))
    given_up = tally.pop("given up", 0)
    counts: dict[str, dict[str, int]] = {"kind": {}, "view": {}, "rejected": {}}
    for name, count in sorted(tally.items()):
        group, _, value = name.partition(" ")
        if group in ("kind", "view"):
            counts[group][value] = count
        else:
            counts["rejected"][name] = count
    summary = {
        "pairs": sum(counts["kind"].values()),
        "tried": job.total,
        "given_up": given_up,
        "kinds": counts["kind"],
        "views": counts["view"],
        "rejected": counts["rejected"],
        "inputs": dict(inputs),
        "job": _json_of(job),
        "versions": {"vsm_fast": __version__, "python": platform.python_version()},
    }
    write_json(out / SUMMARY, summary)
    return summary
