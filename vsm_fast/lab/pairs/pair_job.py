"""``make-pairs`` as a job: numbered shards, resumed where it was interrupted, in processes."""

from __future__ import annotations

import json
import logging
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import Field, asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar, Protocol

from recipes.tiny.procedural_pairs import ProceduralSubjects
from vsm_fast import __version__
from vsm_fast.errors import PairingError
from vsm_fast.files import write_json
from vsm_fast.identity import differences
from vsm_fast.jobs.job_folder import recorded_settings
from vsm_fast.lab.pairs.pair_inputs import PairInput, open_source
from vsm_fast.lab.pairs.pair_pipeline import PairMaker, PairSettings
from vsm_fast.lab.pairs.pair_shards import write_shard
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.lab.pairs.registry import StageModels, make_stages

_log = logging.getLogger(__name__)

SHARD = 64
PROCEDURAL = "procedural"
SUMMARY = "summary.json"
_JOB = "job.json"


class Maker(Protocol):
    """Makes the pairs of a job in one process."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What was opened, JSON values; a job goes on only where this is the same."""
        ...

    def make(self, number: int) -> tuple[ControlledPair | None, list[str]]:
        """Pair ``number``, if there is one, and why earlier draws of it were rejected."""
        ...


class Job(Protocol):
    """Everything that decides what the pairs are: a dataclass of JSON values that can be pickled.

    Attributes:
        protocol: Name of the kind of job.
        growing: A larger ``count`` keeps the pairs of a smaller one.
    """

    protocol: ClassVar[str]
    growing: ClassVar[bool]
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def count(self) -> int:
        """What the caller asked for."""
        ...

    @property
    def total(self) -> int:
        """Pairs to try; they have the numbers 0 to ``total - 1``."""
        ...

    def maker(self) -> Maker:
        """Open the source and load the stages."""
        ...


@dataclass(frozen=True)
class PairJob:
    """Drawn, altered and filtered pairs; equal jobs make equal pictures.

    Attributes:
        source: Path, or ``"procedural"``.
        count: Pairs to try; one whose every draw is rejected is missing from the output.
        seed: Of all draws.
        kinds: Alterations; all of the alterer's when empty.
        masker, parts, alterer, change: Names of the stages.
        detector_model, sam_model, alterer_model: Weights of pretrained stages, as in
            ``vsm_fast.lab.pairs.registry.StageModels``.
        model: Describes the views.
        subjects, excluded: Sub-folders of the source to use, and to leave out.
        settings: Limits of the filters.
    """

    protocol: ClassVar[str] = "filtered"
    growing: ClassVar[bool] = True

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
        """Pairs to try."""
        return self.count

    def maker(self) -> PairMaker:
        """Open the source, load model and stages.

        Raises:
            PairingError: The source holds nothing.
            ValueError: An unknown stage or kind.
            ImportError: A package of a stage is missing.
            ModelError: The weights of a stage are missing.
        """
        from vsm_fast.scorer import VSMScorer

        models = StageModels(self.detector_model, self.sam_model, self.alterer_model)
        stages = make_stages(self.masker, self.parts, self.alterer, self.change, models=models)
        scorer = VSMScorer.from_pretrained(self.model)
        kinds = self.kinds or stages.alterer.kinds
        return PairMaker(self._open(), scorer, stages, self.settings, kinds, self.seed)

    def _open(self) -> PairInput:
        if self.source == PROCEDURAL:
            return ProceduralSubjects(min(self.settings.size, 256))
        return open_source(self.source, self.subjects, self.excluded)


def run_job(
    job: Job, out: Path, workers: int = 1, progress: Callable[[int], None] = lambda _: None
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
        PairingError: The folder holds the pairs of another job or of other inputs, or the source
            holds nothing.
    """
    if job.count < 1:
        raise PairingError(f"wanted at least 1 pair; got {job.count}.")
    recorded = _recorded(job, out)
    before = recorded.get("count", job.count)
    short = before // SHARD if before < job.count else None  # the last shard, before it grew
    tasks = []
    for shard, numbers in enumerate(_shards(job.total)):
        made = _tally_path(out, shard).exists() and _shard_path(out, shard).exists()
        if made and shard != short:
            progress(len(numbers))
        else:
            tasks.append((shard, numbers))
    inputs = recorded.get("inputs", {})
    if tasks:
        # Here too when other processes do the work: a job that cannot begin leaves no trace.
        inputs = _prepare(job)
        _check_same(recorded.get("inputs", inputs), inputs, out, "made from other inputs")
    (out / "tallies").mkdir(parents=True, exist_ok=True)
    for shard, _ in tasks:  # the short one counts as missing from here on, whatever happens
        _tally_path(out, shard).unlink(missing_ok=True)
    write_json(out / _JOB, {**_described(job), "inputs": inputs})
    for numbers, rejected in _run(job, out, tasks, workers):
        progress(len(numbers))
        _log.info("pairs %d to %d: %s", numbers[0], numbers[-1], dict(rejected) or "none rejected")
    return _summarise(job, inputs, out)


def _shards(total: int) -> list[range]:
    """The pair numbers of each shard."""
    return [range(start, min(start + SHARD, total)) for start in range(0, total, SHARD)]


def _run(
    job: Job, out: Path, tasks: list[tuple[int, range]], workers: int
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


_maker: list[Maker] = []  # of a process


def _prepare(job: Job, threads: int | None = None) -> dict[str, Any]:
    """Load source and stages into this process; what they were."""
    import cv2
    import torch

    if threads is not None:  # the processes are the parallelism
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    _maker[:] = [job.maker()]
    inputs: dict[str, Any] = json.loads(json.dumps(_maker[0].inputs))
    return inputs


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
    write_json(_tally_path(out, shard), tally)
    rejected = {k: n for k, n in tally.items() if not k.startswith(("kind ", "view "))}
    return numbers, rejected


def _shard_path(out: Path, shard: int) -> Path:
    return out / f"pairs-{shard:05d}.parquet"


def _tally_path(out: Path, shard: int) -> Path:
    return out / "tallies" / f"pairs-{shard:05d}.json"


def _described(job: Job) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(json.dumps(asdict(job)))
    return {"protocol": job.protocol, **described}


def _recorded(job: Job, out: Path) -> dict[str, Any]:
    """What a folder says of its job; more pairs of the same job are welcome where it can grow.

    Raises:
        PairingError: It is another job.
    """
    path, wanted = out / _JOB, _described(job)
    if not path.exists():
        if any(not path.name.startswith(".") for path in out.glob("*.parquet")):
            raise PairingError(f"{out} holds Parquet files but no {_JOB}; choose another --out.")
        return {}
    recorded = recorded_settings(path)
    found = {name: recorded.get(name) for name in wanted}
    found["protocol"] = recorded.get("protocol", PairJob.protocol)
    if found["protocol"] != job.protocol:  # hardly any other setting is the same then
        found, wanted = ({"protocol": settings["protocol"]} for settings in (found, wanted))
    elif job.growing and recorded["count"] < job.count:
        found["count"] = job.count
    _check_same(found, wanted, out, "of another job")
    return recorded


def _check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], out: Path, what: str) -> None:
    other = differences(found, wanted)
    if other:
        raise PairingError(
            f"{out} holds pairs {what}: {'; '.join(other)}. "
            "Choose another --out, or everything as it was."
        )


def _summarise(job: Job, inputs: Mapping[str, Any], out: Path) -> dict[str, Any]:
    tally: Counter[str] = Counter()
    for shard in range(len(_shards(job.total))):
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
        "tried": job.total,
        "given_up": tally["given up"],
        "kinds": kinds,
        "views": chosen("view "),
        "rejected": {
            name: count
            for name, count in sorted(tally.items())
            if not name.startswith(("kind ", "view ")) and name != "given up"
        },
        "inputs": dict(inputs),
        "job": _described(job),
        "versions": {"vsm_fast": __version__, "python": platform.python_version()},
    }
    write_json(out / SUMMARY, summary)
    return summary
