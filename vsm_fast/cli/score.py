"""``vsm-fast score``: score generated images against references."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vsm_fast.cli import score_job
from vsm_fast.cli.common import (
    EXIT_CODES,
    ExitCode,
    UsageError,
    add_model,
    add_thresholds,
    add_verbosity,
    load_scorer,
    make_folder,
    positive,
    print_text,
)
from vsm_fast.cli.mask_options import MASKS_HELP, MaskOptions
from vsm_fast.cli.pairs import PAIRING_HELP, add_inputs, read_pairs

if TYPE_CHECKING:
    from vsm_fast.images.automatic_masks import AutoMask
    from vsm_fast.images.stored import ImageLocation
    from vsm_fast.jobs.pairing import PairRow
    from vsm_fast.results.scores import VSMScores

FORMATS = (".parquet", ".csv", ".jsonl")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``score`` to the command line."""
    parser = commands.add_parser(
        "score",
        help="score generated images against references",
        epilog=PAIRING_HELP + MASKS_HELP + score_job.HELP + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_inputs(parser)
    _add_settings(parser)
    _add_outputs(parser)
    score_job.add_options(parser)
    parser.set_defaults(run=_score)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings")
    add_model(group)
    add_thresholds(group)
    group.add_argument("--batch-size", type=positive, metavar="N", help="images at a time")
    group.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep descriptors here; describe no image twice"
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("outputs")
    group.add_argument(
        "--out",
        metavar="FILE|DIR/",
        help="results: " + ", ".join(FORMATS) + "; a folder for a job, see below",
    )
    group.add_argument(
        "--points", action="store_true", help="with the matched points of each pair (Parquet)"
    )
    group.add_argument("--heatmaps", type=Path, metavar="DIR", help="write one PNG a scored pair")
    group.add_argument(
        "--limit-heatmaps", type=positive, metavar="N", help="only the first N scored pairs"
    )
    group.add_argument(
        "--fiftyone", type=Path, metavar="DIR", help="write a data set that FiftyOne imports"
    )
    add_verbosity(group)


def _score(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast score``."""
    masks = MaskOptions(arguments)
    if score_job.is_job(arguments.out):
        return score_job.run(arguments, masks)
    score_job.refuse_options(arguments)
    arguments.out = None if arguments.out is None else Path(arguments.out)
    try:
        _check_outputs(arguments)
        pairing = read_pairs(arguments, masks)
    except OSError as error:  # a folder that cannot be read or made; later ones are not usage
        raise UsageError(str(error)) from error
    if not arguments.quiet:
        for note in pairing.notes:
            print(f"vsm-fast: note: {note}", file=sys.stderr)
    ids = [row.id for row in pairing.rows]
    subjects = [row.subject for row in pairing.rows]
    names = {"id": ids, "subject": subjects}
    if any(row.generator for row in pairing.rows):
        names["generator"] = [row.generator for row in pairing.rows]
    scores = _score_rows(pairing.rows, masks, arguments).with_columns(names)

    outputs = []
    if arguments.out is not None:
        _write(scores, arguments.out, arguments.points)
        outputs.append(f"results: {arguments.out}")
    if arguments.heatmaps is not None:
        count = _write_heatmaps(scores, pairing.rows, arguments.heatmaps, arguments.limit_heatmaps)
        outputs.append(f"heat maps: {arguments.heatmaps} ({count} PNG)")
    if arguments.fiftyone is not None:
        from vsm_fast.integrations.fiftyone import to_fiftyone

        to_fiftyone(scores, arguments.fiftyone, [row.gen for row in pairing.rows])
        outputs.append(f"FiftyOne data set: {arguments.fiftyone}")
    if not arguments.quiet:
        from vsm_fast.results.table import score_table

        table = score_table(scores, ids, subjects)
        print_text("\n".join([table, "", *outputs] if outputs else [table]))
    return ExitCode.OK if all(result.ok for result in scores) else ExitCode.UNSCORED


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Find out before the work, not after it, that its results cannot be written."""
    out = arguments.out
    if out is not None:
        if out.suffix.lower() not in FORMATS:
            raise UsageError(
                f"--out must end in {', '.join(FORMATS)}, or in / for a job; got {out}."
            )
        if arguments.points and out.suffix.lower() != ".parquet":
            raise UsageError(f"--points needs an --out that ends in .parquet; got {out}.")
        if out.is_dir():
            raise UsageError(f"--out must be a file; {out} is a folder.")
        if arguments.manifest and out.resolve() == Path(arguments.manifest).resolve():
            raise UsageError(f"--out would overwrite the manifest {out}.")
        make_folder(out.parent, "--out")
    elif arguments.points:
        raise UsageError("--points needs --out FILE.parquet.")
    if arguments.heatmaps is None and arguments.limit_heatmaps is not None:
        raise UsageError("--limit-heatmaps needs --heatmaps DIR.")
    if _draws(arguments) and arguments.visual_threshold == 1:
        raise UsageError("heat maps need a --visual-threshold below 1.")
    if arguments.heatmaps is not None:
        make_folder(arguments.heatmaps, "--heatmaps")
    if arguments.fiftyone is not None:
        make_folder(arguments.fiftyone, "--fiftyone")
        if any(arguments.fiftyone.iterdir()):
            raise UsageError(f"--fiftyone: {arguments.fiftyone} is not empty; give a new folder.")


def _draws(arguments: argparse.Namespace) -> bool:
    """Whether an output holds heat maps."""
    return arguments.heatmaps is not None or arguments.fiftyone is not None


def _score_rows(
    rows: Sequence[PairRow], masks: MaskOptions, arguments: argparse.Namespace
) -> VSMScores:
    """Score the pairs; each image is passed once, however many pairs it is in."""
    import numpy as np

    refs: dict[tuple[ImageLocation, ImageLocation | AutoMask | None], int] = {}
    gens: dict[tuple[ImageLocation, ImageLocation | AutoMask | None], int] = {}
    listed = []
    for row in rows:
        ref_mask, gen_mask = masks.of_pair(row)
        ref = refs.setdefault((row.ref, ref_mask), len(refs))
        gen = gens.setdefault((row.gen, gen_mask), len(gens))
        listed.append((ref, gen))
    pairs = np.array(listed, np.int64)
    scorer = load_scorer(arguments, arguments.cache)
    return scorer.score(
        [ref for ref, _ in refs],
        [gen for gen, _ in gens],
        pairs=pairs,
        ref_masks=[mask for _, mask in refs],
        gen_masks=[mask for _, mask in gens],
        semantic_threshold=arguments.semantic_threshold,
        visual_threshold=arguments.visual_threshold,
        batch_size=arguments.batch_size,
        heatmaps=_draws(arguments) or arguments.points,
        progress=not arguments.quiet and sys.stderr.isatty(),
    )


def _write(scores: VSMScores, out: Path, points: bool) -> None:
    if out.suffix.lower() == ".parquet":
        scores.to_parquet(out, points=points)
    else:
        {".csv": scores.to_csv, ".jsonl": scores.to_jsonl}[out.suffix.lower()](out)


def _write_heatmaps(
    scores: VSMScores, rows: Sequence[PairRow], folder: Path, limit: int | None
) -> int:
    """Write one overlay a scored pair and say how many."""
    from vsm_fast.jobs.shard_scoring import save_pair_overlays

    scored = [result for result in scores if result.ok][:limit]
    taken: set[str] = set()
    save_pair_overlays(
        (folder / f"{_file_name(rows[result.index].id, taken)}.png", rows[result.index], result)
        for result in scored
    )
    return len(scored)


def _file_name(pair_id: str, taken: set[str]) -> str:
    """A file name for a pair; ``taken`` keeps names apart, also where case does not count."""
    base = re.sub(r"[^\w.@-]+", "_", pair_id).strip("._")[:120] or "pair"
    name, number = base, 1
    while name.casefold() in taken:
        number += 1
        name = f"{base}-{number}"
    taken.add(name.casefold())
    return name
