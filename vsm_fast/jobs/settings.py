"""What decides the rows of a job, and what only decides how it runs."""

from __future__ import annotations

from dataclasses import dataclass

from vsm_fast.scorer import VSMScorer

SHARD_ROWS = 1024


@dataclass(frozen=True)
class JobSettings:
    """What decides the rows: another value is another job.

    Attributes:
        model: Name, folder or Hub repository id.
        device: ``"auto"`` or a torch device.
        dtype: ``"auto"`` or a name like ``"float32"``.
        runtime: What runs the network, or ``"auto"``.
        semantic_threshold: In [-1, 1]; None = the model's.
        visual_threshold: Of the column ``score``, in [-1, 1]; None = the model's.
        thresholds: Further visual thresholds, each with a column ``score_at_T``.
        heatmaps: Folder for one PNG a scored pair; None = no pictures.
        points: Keep the matched points.
        shard_rows: Rows of a shard, the unit of work.
    """

    model: str = "tiny"
    device: str = "auto"
    dtype: str = "auto"
    runtime: str = "auto"
    semantic_threshold: float | None = None
    visual_threshold: float | None = None
    thresholds: tuple[float, ...] = ()
    heatmaps: str | None = None
    points: bool = False
    shard_rows: int = SHARD_ROWS

    def __post_init__(self) -> None:
        if self.shard_rows < 1:
            raise ValueError(f"shard_rows must be at least 1; got {self.shard_rows}.")
        wrong = [value for value in self.thresholds if not -1 <= value <= 1]
        if wrong:
            raise ValueError(f"thresholds must lie in [-1, 1]; got {wrong}.")
        if len(set(map(score_column, self.thresholds))) < len(self.thresholds):
            raise ValueError(f"thresholds must differ; got {list(self.thresholds)}.")


@dataclass(frozen=True)
class RunOptions:
    """What may change from one run of a job to the next.

    Attributes:
        batch_size: Images per forward pass; None chooses.
        cache: Folder of a ``DescriptorCache``.
        retry_failed: Score the rows again whose images could not be used.
        max_failed: Such rows at which the job stops; None = never.
        reference_bytes: Of descriptors of references that are kept in memory.
        grace: Seconds that a job goes on for after it was asked to stop, if that finishes the
            running shard.
    """

    batch_size: int | None = None
    cache: str | None = None
    retry_failed: bool = False
    max_failed: FailureLimit | None = None
    reference_bytes: int = 1 << 30
    grace: float = 10.0


@dataclass(frozen=True)
class FailureLimit:
    """How many rows may fail: a count, or a share of all."""

    value: float
    is_share: bool

    @staticmethod
    def parse(text: str) -> FailureLimit:
        """Read ``"100"`` or ``"1%"``.

        Raises:
            ValueError: It is neither.
        """
        share = text.endswith("%")
        value = float(text.removesuffix("%")) / 100 if share else float(int(text))
        if not 0 <= value <= (1 if share else float("inf")):
            raise ValueError(f"wanted a count, or a share from 0% to 100%; got {text!r}.")
        return FailureLimit(value, share)

    def rows(self, total: int) -> int:
        """The largest number of failed rows that is accepted, of ``total``."""
        return int(self.value * total) if self.is_share else int(self.value)


def score_column(threshold: float) -> str:
    """Name of the column with the scores at a threshold."""
    return f"score_at_{threshold:g}"


def load_scorer(settings: JobSettings, options: RunOptions) -> VSMScorer:
    """The scorer that a job asks for.

    Raises:
        ModelError: The model is missing, incomplete or altered.
        ImportError: A package that it needs is not installed.
    """
    return VSMScorer.from_pretrained(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        runtime=settings.runtime,
        cache=options.cache,
    )
