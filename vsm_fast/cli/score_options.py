"""Options of ``vsm-fast score``, for single runs and for jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from cyclopts import Group, Parameter

from vsm_fast.cli.common import UsageError
from vsm_fast.cli.inputs import MaskOptions, PairOptions
from vsm_fast.cli.options import (
    OUTPUTS,
    SETTINGS,
    Count,
    Counts,
    Directory,
    ModelOptions,
    QuietCommand,
    Share,
    Similarities,
    Threshold,
    option,
)

JOBS_HELP = """\
jobs:
  --out DIR/ (or a name without a suffix) scores any number of pairs into Parquet shards in that
  folder. Interrupted runs resume with the same command. See docs/how-to/large-jobs.md.

"""
_ACTOR_OPTIONS = ("actors", "gpus_per_actor", "cpus_per_actor")


@Parameter(name="*", group=Group("jobs (--out DIR/)", sort_key=OUTPUTS.sort_key + 1))
@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options of jobs alone."""

    thresholds: Annotated[
        Similarities | None, option("further visual thresholds, with one column score_at_T each")
    ] = None
    shard_rows: Annotated[Count | None, option("pairs per shard (default: 1024)")] = None
    retry_failed: Annotated[bool, option("score only failed pairs again")] = False
    max_failed: Annotated[
        str | None, option("stop if more pairs than this fail", metavar="N|P%")
    ] = None
    json: Annotated[bool, option("print one JSON event per line on standard output")] = False
    ray: Annotated[
        bool, option("run on the Ray cluster of RAY_ADDRESS, or on a local Ray (extra ray)")
    ] = False
    actors: Annotated[Counts | None, option("scoring processes: N, or MIN MAX")] = None
    gpus_per_actor: Annotated[Share | None, option("default: 1 if the cluster has GPUs")] = None
    cpus_per_actor: Annotated[Share | None, option("default: 1")] = None

    def refuse(self) -> None:
        """Refuse these options outside a job.

        Raises:
            UsageError: If one is set.
        """
        if used := self._used(vars(self)):
            raise UsageError(f"{used} needs a job: --out DIR/ (a folder).")

    @contextmanager
    def runner(self) -> Iterator[Callable[..., dict[str, Any]]]:
        """Yield the function that runs the job: in this process, or on the actors of Ray.

        Raises:
            UsageError: If the options contradict each other.
        """
        if not self.ray:
            if used := self._used(_ACTOR_OPTIONS):
                raise UsageError(f"{used} needs --ray.")
            from vsm_fast.jobs.runner import run_job

            yield run_job
            return
        from vsm_fast.jobs.ray_runner import ActorPool, ray_session, run_distributed

        actors = self.actors or (1,)
        if len(actors) > 2:
            raise UsageError(f"--actors takes N, or MIN MAX; got {len(actors)} numbers.")
        pool = ActorPool(
            least=actors[0],
            most=actors[-1] if self.actors else None,
            gpus=self.gpus_per_actor,
            cpus=1.0 if self.cpus_per_actor is None else self.cpus_per_actor,
        )
        with ray_session(pool):
            yield partial(run_distributed, pool=pool)

    def _used(self, names: Any) -> str:
        return ", ".join(f"--{name.replace('_', '-')}" for name in names if getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(QuietCommand):
    """Inputs, settings and outputs."""

    pairs: PairOptions = field(default_factory=PairOptions)
    masks: MaskOptions = field(default_factory=MaskOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    semantic_threshold: Threshold = None
    visual_threshold: Threshold = None
    batch_size: Annotated[Count | None, option("images per batch", SETTINGS)] = None
    cache: Annotated[Directory | None, option("descriptor cache", SETTINGS)] = None
    out: Annotated[
        str | None,
        option("results: .parquet, .csv, .jsonl; DIR/ for a job", OUTPUTS, metavar="FILE|DIR/"),
    ] = None
    points: Annotated[bool, option("add the matched points (Parquet)", OUTPUTS)] = False
    heatmaps: Annotated[Directory | None, option("one PNG per scored pair", OUTPUTS)] = None
    limit_heatmaps: Annotated[Count | None, option("only the first N heat maps", OUTPUTS)] = None
    fiftyone: Annotated[Directory | None, option("data set for FiftyOne", OUTPUTS)] = None
    jobs: JobOptions = field(default_factory=JobOptions)
