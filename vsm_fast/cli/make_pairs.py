"""``vsm-fast make-pairs``: controlled inconsistencies from photographs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from cyclopts import Group

from vsm_fast.cli.common import ExitCode, UsageError, print_text
from vsm_fast.cli.options import (
    OPTIONS,
    Count,
    Directory,
    Integer,
    Names,
    QuietCommand,
    Share,
    Weights,
    option,
)

if TYPE_CHECKING:
    from vsm_fast.lab.pairs.pair_job import Job

# The protocol benchmark fixes these settings or does not use them.
_FILTERED_ONLY = (
    "unaltered", "other_subjects", "masker", "parts", "alterer", "detector_model", "sam_model",
    "alterer_model", "change", "model", "similarity", "skewness", "area",
)  # fmt: skip
_SELECTION = Group("selection", sort_key=OPTIONS.sort_key + 1)
_METHOD = Group("method", sort_key=OPTIONS.sort_key + 2)


@dataclass(frozen=True, kw_only=True)
class MakePairs(QuietCommand):
    """Make controlled pairs: a known share of a subject is altered."""

    NOTES: ClassVar[str] = """\
source:
  a folder with one sub-folder per subject   two photographs of it; a single one is warped
  a folder of images, or one image           the second view is a warp of the first
  Parquet files of Subjects200K              the two halves of each image

Masks come from NAME_mask.png beside an image, else from --masker. Interrupted runs resume with the
same command; --out of a run with other settings is refused.

protocol:
  filtered    pairs for training: parts at semantic matches, filtered by the options
  benchmark   pairs for evaluation, as in the embedded model's figures: two photographs of a
              subject, altered share uniform in 0.01 to 0.6, one of eight unaltered, and N/4 pairs
              of two subjects. --source is a folder with one sub-folder per subject; photographs
              without NAME_mask.png are left out. Options of filtered alone, from --unaltered to
              --area, are refused.

models:
  owner/name or owner/name@REVISION on the Hugging Face Hub, or a local folder. Pin a commit as the
  revision to make the pairs reproducible.

"""
    source: Annotated[str, option("photographs, see below", metavar="PATH")]
    out: Annotated[Directory, option("folder of the pairs")]
    protocol: Annotated[Literal["filtered", "benchmark"], option("see below")] = "filtered"
    count: Annotated[Count, option("number of pairs")] = 256
    seed: Annotated[Integer, option("seed of all random draws")] = 0
    workers: Annotated[Count, option("processes")] = 1
    subjects: Annotated[Names, option("only these sub-folders", _SELECTION)] = ()
    exclude_subjects: Annotated[Names, option("sub-folders to leave out", _SELECTION)] = ()
    donors_from: Annotated[
        Names, option("benchmark: sources of textures (default: all but --subjects)", _SELECTION)
    ] = ()
    kinds: Annotated[Names, option("kinds of alterations", _SELECTION)] = ()
    unaltered: Annotated[Share, option("share of unaltered pairs", _SELECTION)] = 0.125
    other_subjects: Annotated[Share, option("share of pairs of two subjects", _SELECTION)] = 0.0
    size: Annotated[
        Count | None, option("longer side in pixels (default: 512; benchmark 256)", _SELECTION)
    ] = None
    masker: Annotated[str, option("grabcut or grounded-sam", _METHOD)] = "grabcut"
    parts: Annotated[str, option("descriptors, sam or random", _METHOD)] = "descriptors"
    alterer: Annotated[
        str, option("offline, sdxl-inpainting, sd2-inpainting or flux-fill", _METHOD)
    ] = "offline"
    detector_model: Annotated[Weights | None, option("for grounded-sam", _METHOD)] = None
    sam_model: Annotated[Weights | None, option("for grounded-sam and sam", _METHOD)] = None
    alterer_model: Annotated[Weights | None, option("pipeline of --alterer", _METHOD)] = None
    change: Annotated[str, option("measure of the alteration: lab or lpips", _METHOD)] = "lab"
    model: Annotated[str, option("model for the descriptors", _METHOD)] = "tiny"
    similarity: Annotated[float, option("lowest similarity of semantic matches", _METHOD)] = 0.5
    skewness: Annotated[str, option("lowest skewness of their rows, or none", _METHOD)] = "1.3"
    area: Annotated[
        tuple[float, float], option("altered share of the subject", _METHOD, metavar="LOW HIGH")
    ] = (0.05, 0.6)

    def run(self) -> ExitCode:
        """Make the pairs, or resume."""
        try:
            from vsm_fast.lab.pairs.contact_sheet import save_contact_sheet
            from vsm_fast.lab.pairs.pair_job import make_pairs_job
        except ImportError as error:
            raise UsageError(
                f"make-pairs needs {error.name or error}; run: pip install '.[lab]'"
            ) from error
        from vsm_fast.lab.pairs.pair_shards import read_pairs, shard_paths
        from vsm_fast.progress import reporting

        self._check()
        try:
            job = self._job()
            with reporting(self.progress, job.total) as advance:
                summary = make_pairs_job(job, self.out, self.workers, advance)
        except (ValueError, ImportError, OSError) as error:
            raise UsageError(str(error)) from error
        sheet = self.out / "contact_sheet.png"
        if summary["pairs"]:
            pairs = list(islice(read_pairs(self.out), 24))
            if len(pairs) == 24 and self.protocol == "benchmark":  # the last pairs: two subjects
                pairs[20:] = deque(read_pairs(shard_paths(self.out)[-1]), 4)
            save_contact_sheet(pairs, sheet)
        if not self.quiet:
            print_text(_report(summary, self.out, sheet))
        return ExitCode.OK if summary["pairs"] else ExitCode.UNSCORED

    def _check(self) -> None:
        """Refuse a source that no longer exists, and options that the protocol would ignore."""
        if self.source == "procedural":
            raise UsageError(
                "--source procedural is no longer part of the package. Give a folder of "
                "photographs, with one sub-folder per subject."
            )
        ignored = _FILTERED_ONLY if self.protocol == "benchmark" else ("donors_from",)
        defaults = {entry.name: entry.default for entry in fields(self)}
        used = [name for name in ignored if getattr(self, name) != defaults[name]]
        if used:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in used)
            raise UsageError(
                f"--protocol {self.protocol} makes no use of {names}; leave that out, or choose "
                "the other protocol."
            )

    def _job(self) -> Job:
        """Return the job of the protocol."""
        from vsm_fast.lab.pairs.benchmark import BenchmarkJob
        from vsm_fast.lab.pairs.pair_job import PairJob
        from vsm_fast.lab.pairs.pair_pipeline import PairSettings

        size = {} if self.size is None else {"size": self.size}
        if self.protocol == "benchmark":
            return BenchmarkJob(
                source=self.source,
                count=self.count,
                seed=self.seed,
                subjects=self.subjects,
                donors_from=self.donors_from,
                excluded=self.exclude_subjects,
                kinds=self.kinds,
                **size,
            )
        stages = ("masker", "parts", "alterer", "change")
        models = ("detector_model", "sam_model", "alterer_model", "model")
        return PairJob(
            source=self.source,
            count=self.count,
            seed=self.seed,
            kinds=self.kinds,
            subjects=self.subjects,
            excluded=self.exclude_subjects,
            settings=PairSettings(
                **size,
                unaltered=self.unaltered,
                other_subjects=self.other_subjects,
                area=self.area,
                similarity=self.similarity,
                skewness=None if self.skewness == "none" else float(self.skewness),
            ),
            **{name: getattr(self, name) for name in (*stages, *models)},
        )


def _report(summary: dict[str, Any], out: Path, sheet: Path) -> str:
    """Return the counts of made and rejected pairs."""

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
