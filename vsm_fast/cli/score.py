"""``vsm-fast score``: scores of generated images against references."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vsm_fast.cli import score_job
from vsm_fast.cli.common import ExitCode, UsageError, make_folder, print_note, print_text
from vsm_fast.cli.inputs import MASKS_HELP, PAIRING_HELP, MaskSource
from vsm_fast.cli.score_options import JOBS_HELP, ScoreOptions

if TYPE_CHECKING:
    from vsm_fast.images.automatic_masks import AutoMask
    from vsm_fast.images.storage import ImageLocation
    from vsm_fast.jobs.pairing import PairRow
    from vsm_fast.results.scores import VSMScores

FORMATS = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class Score(ScoreOptions):
    """Score generated images against references."""

    NOTES: ClassVar[str] = PAIRING_HELP + MASKS_HELP + JOBS_HELP

    def run(self) -> ExitCode:
        """Score the pairs."""
        masks = MaskSource(self.masks, self.model.device)
        if score_job.is_job(self.out):
            return score_job.run(self, masks)
        self.jobs.refuse()
        out = None if self.out is None else Path(self.out)
        try:
            self._check_outputs(out)
            pairing = self.pairs.read(masks)
        except OSError as error:  # unreadable input or output folder
            raise UsageError(str(error)) from error
        if not self.quiet:
            for note in pairing.notes:
                print_note(note)
        rows = pairing.rows
        names = {"id": [row.id for row in rows], "subject": [row.subject for row in rows]}
        if any(row.generator for row in rows):
            names["generator"] = [row.generator for row in rows]
        scores = self._score(rows, masks).with_columns(names)

        written = []
        if out is not None:
            if out.suffix.lower() == ".parquet":
                scores.to_parquet(out, points=self.points)
            elif out.suffix.lower() == ".csv":
                scores.to_csv(out)
            else:
                scores.to_jsonl(out)
            written.append(f"results: {out}")
        if self.heatmaps is not None:
            from vsm_fast.jobs.shard_scoring import save_pair_overlays

            scored = [result for result in scores if result.ok][: self.limit_heatmaps]
            files = _file_names([names["id"][result.index] for result in scored])
            save_pair_overlays(
                (self.heatmaps / f"{name}.png", rows[result.index], result)
                for name, result in zip(files, scored, strict=True)
            )
            written.append(f"heat maps: {self.heatmaps} ({len(scored)} PNG)")
        if self.fiftyone is not None:
            from vsm_fast.integrations.fiftyone import to_fiftyone

            to_fiftyone(scores, self.fiftyone, [row.gen for row in rows])
            written.append(f"FiftyOne data set: {self.fiftyone}")
        if not self.quiet:
            from vsm_fast.results.table import score_table

            table = score_table(scores, names["id"], names["subject"])
            print_text("\n".join([table, "", *written] if written else [table]))
        return ExitCode.OK if all(result.ok for result in scores) else ExitCode.UNSCORED

    @property
    def _draws(self) -> bool:
        """Whether an output holds heat maps."""
        return self.heatmaps is not None or self.fiftyone is not None

    def _check_outputs(self, out: Path | None) -> None:
        """Check before the work that its results can be written.

        Raises:
            UsageError: If they cannot.
        """
        if out is not None:
            if out.suffix.lower() not in FORMATS:
                raise UsageError(
                    f"--out must end in {', '.join(FORMATS)}, or in / for a job; got {out}."
                )
            if self.points and out.suffix.lower() != ".parquet":
                raise UsageError(f"--points needs an --out that ends in .parquet; got {out}.")
            if out.is_dir():
                raise UsageError(f"--out must be a file; {out} is a folder.")
            manifest = self.pairs.manifest
            if manifest and out.resolve() == Path(manifest).resolve():
                raise UsageError(f"--out would overwrite the manifest {out}.")
            make_folder(out.parent, "--out")
        elif self.points:
            raise UsageError("--points needs --out FILE.parquet.")
        if self.heatmaps is None and self.limit_heatmaps is not None:
            raise UsageError("--limit-heatmaps needs --heatmaps DIR.")
        if self._draws and self.visual_threshold == 1:
            raise UsageError("heat maps need a --visual-threshold below 1.")
        if self.heatmaps is not None:
            make_folder(self.heatmaps, "--heatmaps")
        if self.fiftyone is not None:
            make_folder(self.fiftyone, "--fiftyone")
            if any(self.fiftyone.iterdir()):
                raise UsageError(f"--fiftyone: {self.fiftyone} is not empty; give a new folder.")

    def _score(self, rows: Sequence[PairRow], masks: MaskSource) -> VSMScores:
        """Score the pairs, passing each image once even if it is in several pairs."""
        import numpy as np

        refs: dict[tuple[ImageLocation, ImageLocation | AutoMask | None], int] = {}
        gens: dict[tuple[ImageLocation, ImageLocation | AutoMask | None], int] = {}
        pairs = []
        for row in rows:
            ref_mask, gen_mask = masks.of_pair(row)
            ref = refs.setdefault((row.ref, ref_mask), len(refs))
            gen = gens.setdefault((row.gen, gen_mask), len(gens))
            pairs.append((ref, gen))
        return self.model.scorer(self.cache).score(
            [ref for ref, _ in refs],
            [gen for gen, _ in gens],
            pairs=np.array(pairs, np.int64),
            ref_masks=[mask for _, mask in refs],
            gen_masks=[mask for _, mask in gens],
            semantic_threshold=self.semantic_threshold,
            visual_threshold=self.visual_threshold,
            batch_size=self.batch_size,
            heatmaps=self._draws or self.points,
            progress=self.progress,
        )


def _file_names(ids: Sequence[str]) -> list[str]:
    """Return a file name for each pair, unique even if case is ignored."""
    names: dict[str, str] = {}
    for pair_id in ids:
        base = re.sub(r"[^\w.@-]+", "_", pair_id).strip("._")[:120] or "pair"
        name, number = base, 1
        while name.casefold() in names:
            number += 1
            name = f"{base}-{number}"
        names[name.casefold()] = name
    return list(names.values())
