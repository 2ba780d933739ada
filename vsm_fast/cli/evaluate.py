"""``vsm-fast evaluate``: does the score agree with what was altered, and do others agree more."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

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
    similarity,
)

if TYPE_CHECKING:
    from vsm_fast.lab.pairs.pairs import ControlledPair

_HELP = """\
pairs:
  Parquet files of controlled pairs: ours (make-pairs) or the published test set's layout.
  altered_1 is the generation, original_2 its reference; the oracle is the unaltered share of
  the subject's area.

baselines:
  none, offline, all, or names. offline: psnr ssim lab-histogram (masked crops), feature-cosine
  semantic-cosine visual-cosine patch-nearest (the model's own features). With weights of their
  own: clip-i dino dinov2 dino-patches lpips; all leaves out what is missing and says so.

ratings:
  DreamBench++'s JSON: a file {"id": rating} or a folder of METHOD-cp.json, joined by id. A list
  is several raters, or with --rating-lists cp-pf (concept preservation, prompt following).

"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``evaluate`` to the command line."""
    parser = commands.add_parser(
        "evaluate",
        help="correlate the score, and baselines, with controlled inconsistencies",
        epilog=_HELP + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument("--pairs", type=Path, required=True, metavar="PATH", help="file or folder")
    inputs.add_argument("--subjects", nargs="+", metavar="NAME", help="only pairs of these")
    inputs.add_argument("--split", type=Path, metavar="FILE",
                        help="their names: .json (list or named lists) or lines")  # fmt: skip
    inputs.add_argument("--split-name", default="test", metavar="NAME",
                        help="which of a split's lists (default: %(default)s)")  # fmt: skip
    inputs.add_argument("--limit", type=positive, metavar="N", help="only the first N pairs")
    inputs.add_argument("--ratings", type=Path, metavar="PATH", help="human ratings, JSON")
    inputs.add_argument("--rating-lists", default="raters", choices=("raters", "cp-pf"),
                        help="what a list of ratings is (default: %(default)s)")  # fmt: skip
    settings = parser.add_argument_group("settings")
    add_model(settings)
    settings.add_argument("--baselines", nargs="+", default=["offline"], metavar="NAME",
                          help="none, offline, all or names (default: offline)")  # fmt: skip
    settings.add_argument("--thresholds", nargs="*", type=similarity, default=[0.5, 0.6, 0.7],
                          metavar="T", help="visual thresholds beside the model's own "
                          "(default: 0.5 0.6 0.7)")  # fmt: skip
    add_thresholds(settings, "semantic")
    settings.add_argument("--bootstrap", default="pair", choices=("pair", "subject"),
                          help="what intervals resample (default: %(default)s)")  # fmt: skip
    settings.add_argument("--resamples", type=positive, default=2000, metavar="N",
                          help="for the intervals (default: %(default)s)")  # fmt: skip
    settings.add_argument("--seed", type=int, default=0, help="of the resamples (default: 0)")
    settings.add_argument("--batch-size", type=positive, default=8, metavar="N",
                          help="pairs at a time (default: %(default)s)")  # fmt: skip
    outputs = parser.add_argument_group("outputs")
    outputs.add_argument("--out", type=Path, required=True, metavar="DIR",
                         help="tables, rows and figures")  # fmt: skip
    outputs.add_argument("--json", action="store_true", help="print evaluation.json, not the table")
    add_verbosity(outputs)
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast evaluate``."""
    import json

    make_folder(arguments.out, "--out")
    subjects = _wanted_subjects(arguments)
    total = _count(arguments, subjects)
    try:
        # Before the work, not after it: that the figures cannot be drawn.
        from vsm_fast.extras import required

        for module in ("matplotlib.figure", "scipy.stats"):
            required(module, "vsm-fast evaluate")
    except ImportError as error:
        raise UsageError(str(error)) from error

    from vsm_fast.lab.baselines import choose_baselines
    from vsm_fast.lab.evaluation import Bootstrap, ListMeaning, evaluate, load_ratings
    from vsm_fast.lab.evaluation.outputs import write_outputs
    from vsm_fast.lab.evaluation.tables import as_json, markdown

    ratings = None
    if arguments.ratings is not None:
        ratings = load_ratings(arguments.ratings, ListMeaning(arguments.rating_lists))
    scorer = load_scorer(arguments)
    if scorer.config.thresholds.visual == 1:
        raise UsageError("the model's visual threshold is 1, at which no heat map can be drawn.")
    try:
        names = [name for part in arguments.baselines for name in part.split(",") if name]
        baselines, skipped = choose_baselines(names, scorer)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error
    evaluation = evaluate(
        _read(arguments, subjects),
        scorer,
        baselines,
        visual_thresholds=arguments.thresholds,
        semantic_threshold=arguments.semantic_threshold,
        ratings=ratings,
        bootstrap=Bootstrap(resamples=arguments.resamples, seed=arguments.seed),
        unit=arguments.bootstrap,
        batch_size=arguments.batch_size,
        total=total,
        progress=not arguments.quiet and sys.stderr.isatty(),
        skipped=skipped,
        source={"pairs": str(arguments.pairs), "subjects": subjects, "limit": arguments.limit},
    )
    written = write_outputs(evaluation, arguments.out)
    if arguments.json:
        print_text(json.dumps(as_json(evaluation), indent=2, ensure_ascii=False))
    elif not arguments.quiet:
        files = ", ".join(path.name for path in written)
        print_text(f"{markdown(evaluation)}\nwritten to {arguments.out}: {files}")
    scored = all(pair.status == "ok" for pair in evaluation.pairs)
    return ExitCode.OK if scored else ExitCode.UNSCORED


def _wanted_subjects(arguments: argparse.Namespace) -> list[str] | None:
    """The subjects asked for; None for all."""
    import json

    if arguments.split is None:
        return arguments.subjects  # type: ignore[no-any-return]
    if arguments.subjects:
        raise UsageError("--split names the subjects; leave --subjects out.")
    try:
        text = arguments.split.read_text(encoding="utf-8")
        if arguments.split.suffix != ".json":
            return [line.strip() for line in text.splitlines() if line.strip()]
        content = json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"--split {arguments.split} cannot be read: {error}") from error
    if isinstance(content, dict):
        if arguments.split_name not in content:
            raise UsageError(
                f"--split {arguments.split} has the lists {', '.join(map(str, content))}, but no "
                f"{arguments.split_name!r}; choose with --split-name."
            )
        content = content[arguments.split_name]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise UsageError(f"--split {arguments.split} must hold lists of subjects' names.")
    return content


def _count(arguments: argparse.Namespace, subjects: list[str] | None) -> int:
    """How many pairs will be read, from the subjects' column alone.

    Raises:
        UsageError: A subject has no pair.
    """
    from vsm_fast.lab.pairs.pair_shards import read_subjects

    found = read_subjects(arguments.pairs)
    missing = sorted(set(subjects or ()) - set(found))
    if missing:
        raise UsageError(
            f"no pair of {', '.join(missing)} in {arguments.pairs}; it has pairs of "
            f"{', '.join(sorted({*found} - {''})) or 'subjects without a name'}."
        )
    count = len(found) if subjects is None else sum(name in set(subjects) for name in found)
    return min(count, arguments.limit or count)


def _read(arguments: argparse.Namespace, subjects: list[str] | None) -> Iterator[ControlledPair]:
    from itertools import islice

    from vsm_fast.lab.pairs.pair_shards import read_pairs

    pairs = read_pairs(arguments.pairs)
    if subjects is not None:
        wanted = set(subjects)
        pairs = (pair for pair in pairs if pair.subject in wanted)
    return islice(pairs, arguments.limit)
