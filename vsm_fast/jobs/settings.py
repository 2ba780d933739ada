"""Settings that decide the rows of a job, and options that do not."""

from __future__ import annotations

from dataclasses import dataclass

SHARD_ROWS = 1024


@dataclass(frozen=True)
class JobSettings:
    """Settings that decide the rows: a different value is a different job.

    Attributes:
        model: Name, folder or Hub repository id.
        device: ``"auto"`` or a torch device.
        dtype: ``"auto"`` or a name like ``"float32"``.
        runtime: Runtime of the network, or ``"auto"``.
        semantic_threshold: In [-1, 1]; None = the model's default.
        visual_threshold: Threshold of column ``score``, in [-1, 1]; None = the model's default.
        thresholds: Further visual thresholds, with one column ``score_at_T`` each.
        heatmaps: Folder for one PNG per scored pair; None = no heat maps.
        points: Store the matched points.
        shard_rows: Rows per shard.
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
    """Options that may change between runs of a job.

    Attributes:
        batch_size: Images per forward pass; None = automatic.
        cache: Folder of a ``DescriptorCache``.
        retry_failed: Score failed rows again.
        max_failed: Number of failed rows that the job tolerates; None = any.
        reference_bytes: Memory for descriptors of references, in bytes.
        grace: Seconds that a job may take after a stop request to finish the running shard.
    """

    batch_size: int | None = None
    cache: str | None = None
    retry_failed: bool = False
    max_failed: FailureLimit | None = None
    reference_bytes: int = 1 << 30
    grace: float = 10.0


@dataclass(frozen=True)
class FailureLimit:
    """Number of rows that may fail: a count, or a share of all rows."""

    value: float
    is_share: bool

    @staticmethod
    def parse(text: str) -> FailureLimit:
        """Parse ``"100"`` or ``"1%"``.

        Raises:
            ValueError: If the text is neither.
        """
        share = text.endswith("%")
        value = float(text.removesuffix("%")) / 100 if share else float(int(text))
        if not 0 <= value <= (1 if share else float("inf")):
            raise ValueError(f"expected a count, or a share from 0% to 100%; got {text!r}.")
        return FailureLimit(value, share)

    def rows(self, total: int) -> int:
        """Return the number of rows of ``total`` that may fail."""
        return int(self.value * total) if self.is_share else int(self.value)


def score_column(threshold: float) -> str:
    """Return the name of the score column at a threshold."""
    return f"score_at_{threshold:g}"
