"""``vsm-fast visualize``: pictures of what a model's descriptors see in some images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
)
from vsm_fast.cli.mask_options import MASKS_HELP, MaskOptions, add_masks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vsm_fast.images.automatic_masks import AutoMask
    from vsm_fast.lab.figures import SubjectViews
    from vsm_fast.scorer import VSMScorer

MAX_IMAGES = 16  # more rows than this are no figure any more
_KINDS = {
    "pca": "principal components of the descriptors: pca.png",
    "segments": "k-means segments: segments.png",
    "matches": "semantic and visual neighbours: matches_N.png of the Nth pair",
    "mixing": "mixing weights of the levels: mixing.png",
}

_HELP = """\
images:
  one subject: --refs and, if wanted, --gens name files or a folder; one reference goes with
  every generation, several pair up by equal file names. Bases and clusters are fitted on all
  of these images together. --mixing alone needs no image.

"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``visualize`` to the command line."""
    parser = commands.add_parser(
        "visualize",
        help="draw descriptors, matches and mixing weights",
        epilog=_HELP + MASKS_HELP + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inputs = parser.add_argument_group("inputs")
    for side, what in (("refs", "references"), ("gens", "generated images")):
        inputs.add_argument(f"--{side}", nargs="+", type=Path, metavar="PATH", help=what)
    add_masks(inputs)

    kinds = parser.add_argument_group("figures (default: all, and overview.png of several)")
    kinds.add_argument("--all", action="store_true", help="all of these")
    for kind, text in _KINDS.items():
        kinds.add_argument(f"--{kind}", action="store_true", help=text)

    settings = parser.add_argument_group("settings")
    settings.add_argument("--clusters", type=positive, default=6, metavar="K",
                          help="number of segments, 1 to 9 (default: %(default)s)")  # fmt: skip
    settings.add_argument("--seed", type=_seed, default=0, metavar="N",
                          help="of k-means (default: %(default)s)")  # fmt: skip
    settings.add_argument("--max-matches", type=positive, default=60, metavar="N",
                          help="matches drawn of each pair (default: %(default)s)")  # fmt: skip
    settings.add_argument("--crop", action="store_true", help="draw only what the network sees")
    add_model(settings)
    add_thresholds(settings)

    outputs = parser.add_argument_group("outputs")
    outputs.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of PNGs")
    add_verbosity(outputs)
    parser.set_defaults(run=_visualize)


@dataclass(frozen=True)
class _Images:
    """What is drawn: images, their masks, and pairs of positions (reference, generation)."""

    paths: list[Path]
    masks: list[Path | AutoMask | None]
    pairs: list[tuple[int, int]]
    notes: tuple[str, ...] = ()


def _visualize(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast visualize``."""
    kinds = _kinds(arguments)
    _check_arguments(arguments, kinds)
    masks = MaskOptions(arguments)
    images = _read(arguments, masks) if arguments.refs else None
    notes = [] if images is None else list(images.notes)
    if images is not None and not images.pairs and "matches" in kinds:
        kinds.remove("matches")
        notes.append("without --gens there are no matches to draw")
    scorer = load_scorer(arguments)
    if images is None:
        from vsm_fast.lab.figures import mixing_figure

        written = _save(arguments.out, [("mixing", mixing_figure(scorer))])
        unmatched: list[str] = []
    else:
        views = _describe(scorer, images, arguments)
        notes += _left_out(images, views, kinds)
        unmatched = _unmatched(images, views) if "matches" in kinds else []
        written = _save(arguments.out, _figures(views, images, kinds, arguments))
    if not arguments.quiet:
        for note in notes + unmatched:
            print(f"vsm-fast: note: {note}", file=sys.stderr)
        print_text("\n".join(written))
    return ExitCode.UNSCORED if unmatched else ExitCode.OK


def _kinds(arguments: argparse.Namespace) -> list[str]:
    """The kinds of figures that were asked for, in a fixed order."""
    asked = [kind for kind in _KINDS if getattr(arguments, kind)]
    return list(_KINDS) if arguments.all or not asked else asked


def _check_arguments(arguments: argparse.Namespace, kinds: Sequence[str]) -> None:
    """Find out before the work, not after it, that it cannot be done."""
    from vsm_fast.extras import required
    from vsm_fast.lab.figures.panels import MAX_CLUSTERS

    if not arguments.refs and (arguments.gens or kinds != ["mixing"]):
        raise UsageError("give --refs; only --mixing alone needs no image.")
    if arguments.matches and not arguments.gens:
        raise UsageError("--matches draws a reference and a generation; give --gens.")
    if arguments.clusters > MAX_CLUSTERS:
        raise UsageError(
            f"--clusters: only {MAX_CLUSTERS} colours can be told apart; got {arguments.clusters}."
        )
    try:
        for module in ("matplotlib.figure", "sklearn.decomposition", "sklearn.cluster"):
            required(module, "vsm-fast visualize")
    except ImportError as error:
        raise UsageError(str(error)) from error
    make_folder(arguments.out, "--out")


def _read(arguments: argparse.Namespace, masks: MaskOptions) -> _Images:
    from vsm_fast.jobs.pairing import pair_paths

    # Without generations each image stands beside itself, which lists images and their masks.
    alone = not arguments.gens
    try:
        pairing = pair_paths(
            arguments.refs,
            arguments.refs if alone else arguments.gens,
            ref_masks=masks.ref_masks,
            gen_masks=masks.ref_masks if alone else masks.gen_masks,
        )
    except OSError as error:
        raise UsageError(str(error)) from error
    subjects = sorted({row.subject for row in pairing.rows})
    if len(subjects) > 1:
        raise UsageError(
            f"one subject at a time; got sub-folders for {len(subjects)}, such as {subjects[0]}. "
            f"Give --refs {arguments.refs[0] / subjects[0]}, and --gens likewise."
        )
    refs = dict.fromkeys((row.ref, masks.of_pair(row)[0]) for row in pairing.rows)
    gens = dict.fromkeys((row.gen, masks.of_pair(row)[1]) for row in pairing.rows)
    listed = [*refs, *(() if alone else gens)]
    if len(listed) > MAX_IMAGES:
        raise UsageError(
            f"{len(listed)} images are too many for one figure; name at most {MAX_IMAGES} files."
        )
    ref_places = {path: place for place, (path, _) in enumerate(refs)}
    gen_places = {path: len(refs) + place for place, (path, _) in enumerate(gens)}
    pairs = [] if alone else [(ref_places[row.ref], gen_places[row.gen]) for row in pairing.rows]
    paths, of_paths = zip(*listed, strict=True)
    return _Images(list(paths), list(of_paths), pairs, pairing.notes)


def _describe(scorer: VSMScorer, images: _Images, arguments: argparse.Namespace) -> SubjectViews:
    from vsm_fast.lab.figures import describe_subjects

    return describe_subjects(
        scorer,
        images.paths,
        images.masks,
        names=_names(images.paths),
        semantic_threshold=arguments.semantic_threshold,
        visual_threshold=arguments.visual_threshold,
        crop=arguments.crop,
    )


def _figures(
    views: SubjectViews, images: _Images, kinds: Sequence[str], arguments: argparse.Namespace
) -> Iterator[tuple[str, Figure]]:
    """Name and figure, one after the other."""
    from vsm_fast.lab import figures as visualization

    clustering = {"clusters": arguments.clusters, "seed": arguments.seed}
    most = arguments.max_matches
    if len(kinds) > 1:
        reference, generations = _shown_in_overview(images)
        yield (
            "overview",
            visualization.overview_figure(
                views, reference, generations, kinds=kinds, max_matches=most, **clustering
            ),
        )
    if "pca" in kinds:
        yield "pca", visualization.pca_figure(views)
    if "segments" in kinds:
        yield "segments", visualization.segments_figure(views, **clustering)
    if "matches" in kinds:
        for number, (reference, generation) in enumerate(images.pairs, 1):
            yield (
                f"matches_{number}",
                visualization.matches_figure(views, reference, generation, max_matches=most),
            )
    if "mixing" in kinds:
        yield "mixing", visualization.mixing_figure(views.scorer)


def _save(folder: Path, figures: Iterable[tuple[str, Figure]]) -> list[str]:
    """Write the figures and return their paths."""
    from vsm_fast.lab.figures import TooFewPointsError, save_figure

    written = []
    try:
        for name, figure in figures:
            save_figure(figure, folder / f"{name}.png")
            written.append(str(folder / f"{name}.png"))
    except TooFewPointsError as error:
        raise UsageError(str(error)) from error
    return written


def _shown_in_overview(images: _Images) -> tuple[int, list[int]]:
    """The first reference and its first generations; without pairs, the first images."""
    from vsm_fast.lab.figures.figures import MAX_GENERATIONS

    pairs = images.pairs or [(0, other) for other in range(1, len(images.paths))]
    return 0, [generation for reference, generation in pairs if reference == 0][:MAX_GENERATIONS]


def _left_out(images: _Images, views: SubjectViews, kinds: Sequence[str]) -> list[str]:
    """A note when the overview shows fewer images than there are."""
    shown = 1 + len(_shown_in_overview(images)[1])
    if len(kinds) == 1 or shown == len(views):
        return []
    return [f"overview.png has room for {shown} of the {len(views)} images"]


def _unmatched(images: _Images, views: SubjectViews) -> list[str]:
    """A note for each pair that has no score."""
    from vsm_fast.lab.figures.correspondences import correspond

    return [
        f"matches_{number}: no point of {views[generation].name} matches "
        f"{views[reference].name} semantically"
        for number, (reference, generation) in enumerate(images.pairs, 1)
        if not len(correspond(views, reference, generation).points)
    ]


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    deepest = max(len(path.parts) for path in paths)
    for depth in range(1, deepest + 1):
        names = [Path(*path.parts[-depth:]).as_posix() for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names


def _seed(text: str) -> int:
    """A seed, as the type of an argument."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"wanted a whole number in [0, 2**32); got {text}")
    return value
