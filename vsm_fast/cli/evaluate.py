"""``vsm-fast evaluate``: correlation of the score and baselines with controlled alterations."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from vsm_fast.cli.common import ExitCode, UsageError, make_folder, print_text, require
from vsm_fast.cli.options import (
    INPUTS,
    MANY_OR_NONE,
    OUTPUTS,
    SETTINGS,
    Count,
    Directory,
    File,
    Integer,
    ModelOptions,
    Names,
    QuietCommand,
    Similarity,
    Threshold,
    option,
)


@dataclass(frozen=True, kw_only=True)
class Evaluate(QuietCommand):
    """Correlate the score and baselines with controlled inconsistencies."""

    NOTES: ClassVar[str] = """\
pairs:
  Parquet files of controlled pairs, from vsm-fast make-pairs or in the published test set's
  layout. altered_1 is the generated image, original_2 its reference; the oracle is the unaltered
  share of the subject's area.

baselines:
  none, offline, all, or names. offline: psnr ssim lab-histogram (masked crops), feature-cosine
  semantic-cosine visual-cosine patch-nearest (features of the model). With weights of their own:
  clip-i dino dinov2 dino-patches lpips; all skips missing ones with a note.

ratings:
  JSON of DreamBench++: a file {"id": rating} or a folder of METHOD-cp.json, joined by id. A list
  holds several raters or, with --rating-lists cp-pf, concept preservation and prompt following.

"""
    pairs: Annotated[Path, option("file or folder", INPUTS)]
    subjects: Annotated[Names | None, option("only pairs of these subjects", INPUTS)] = None
    split: Annotated[File | None, option("subjects: .json (lists), or lines", INPUTS)] = None
    split_name: Annotated[str, option("list of the split", INPUTS, metavar="NAME")] = "test"
    limit: Annotated[Count | None, option("only the first N pairs", INPUTS)] = None
    ratings: Annotated[Path | None, option("human ratings, JSON", INPUTS)] = None
    rating_lists: Annotated[
        Literal["raters", "cp-pf"], option("meaning of a list of ratings", INPUTS)
    ] = "raters"
    model: ModelOptions = field(default_factory=ModelOptions)
    baselines: Annotated[Names, option("none, offline, all or names", SETTINGS)] = ("offline",)
    thresholds: Annotated[
        tuple[Similarity, ...],
        MANY_OR_NONE,
        option("visual thresholds beside the model's", SETTINGS),
    ] = (0.5, 0.6, 0.7)
    semantic_threshold: Threshold = None
    bootstrap: Annotated[
        Literal["pair", "subject"], option("resampling unit of the intervals", SETTINGS)
    ] = "pair"
    resamples: Annotated[Count, option("resamples for the intervals", SETTINGS)] = 2000
    seed: Annotated[Integer, option("seed of the resamples", SETTINGS)] = 0
    batch_size: Annotated[Count, option("pairs per batch", SETTINGS)] = 8
    out: Annotated[Directory, option("folder of tables, rows and figures", OUTPUTS)]
    json: Annotated[bool, option("print evaluation.json, not the table", OUTPUTS)] = False

    def run(self) -> ExitCode:
        """Evaluate and write tables and figures."""
        make_folder(self.out, "--out")
        subjects = self._subjects()
        total = self._count(subjects)
        require("evaluate", "matplotlib.figure", "scipy.stats")
        from vsm_fast.lab.baselines import choose_baselines
        from vsm_fast.lab.evaluation import Bootstrap, ListMeaning, evaluate, load_ratings
        from vsm_fast.lab.evaluation.outputs import write_outputs
        from vsm_fast.lab.evaluation.tables import as_json, markdown
        from vsm_fast.lab.pairs.pair_shards import read_pairs

        ratings = None
        if self.ratings is not None:
            ratings = load_ratings(self.ratings, ListMeaning(self.rating_lists))
        scorer = self.model.scorer()
        if scorer.config.thresholds.visual == 1:
            raise UsageError("the model's visual threshold is 1; heat maps need one below 1.")
        try:
            names = [name for part in self.baselines for name in part.split(",") if name]
            baselines, skipped = choose_baselines(names, scorer)
        except (ValueError, ImportError) as error:
            raise UsageError(str(error)) from error
        pairs = (
            pair for pair in read_pairs(self.pairs) if subjects is None or pair.subject in subjects
        )
        evaluation = evaluate(
            islice(pairs, self.limit),
            scorer,
            baselines,
            visual_thresholds=list(self.thresholds),
            semantic_threshold=self.semantic_threshold,
            ratings=ratings,
            bootstrap=Bootstrap(resamples=self.resamples, seed=self.seed),
            unit=self.bootstrap,
            batch_size=self.batch_size,
            total=total,
            progress=self.progress,
            skipped=skipped,
            source={"pairs": str(self.pairs), "subjects": subjects, "limit": self.limit},
        )
        written = write_outputs(evaluation, self.out)
        if self.json:
            print_text(json.dumps(as_json(evaluation), indent=2, ensure_ascii=False))
        elif not self.quiet:
            files = ", ".join(path.name for path in written)
            print_text(f"{markdown(evaluation)}\nwritten to {self.out}: {files}")
        scored = all(pair.status == "ok" for pair in evaluation.pairs)
        return ExitCode.OK if scored else ExitCode.UNSCORED

    def _subjects(self) -> list[str] | None:
        """Return the selected subjects; None selects all."""
        if self.split is None:
            return None if self.subjects is None else list(self.subjects)
        if self.subjects:
            raise UsageError("--split names the subjects; leave --subjects out.")
        try:
            text = self.split.read_text(encoding="utf-8")
            if self.split.suffix != ".json":
                return [line.strip() for line in text.splitlines() if line.strip()]
            content = json.loads(text)
        except (OSError, ValueError) as error:
            raise UsageError(f"--split {self.split} cannot be read: {error}") from error
        if isinstance(content, dict):
            if self.split_name not in content:
                raise UsageError(
                    f"--split {self.split} has the lists {', '.join(map(str, content))}, but no "
                    f"{self.split_name!r}; choose with --split-name."
                )
            content = content[self.split_name]
        if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
            raise UsageError(f"--split {self.split} must hold lists of subjects' names.")
        return content

    def _count(self, subjects: list[str] | None) -> int:
        """Count the selected pairs, reading only the column of subjects.

        Raises:
            UsageError: If a subject has no pair.
        """
        from vsm_fast.lab.pairs.pair_shards import read_subjects

        present = read_subjects(self.pairs)
        missing = sorted(set(subjects or ()) - set(present))
        if missing:
            raise UsageError(
                f"no pair of {', '.join(missing)} in {self.pairs}; it has pairs of "
                f"{', '.join(sorted({*present} - {''})) or 'subjects without a name'}."
            )
        count = sum(subjects is None or name in subjects for name in present)
        return min(count, self.limit or count)
