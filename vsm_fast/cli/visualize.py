"""``vsm-fast visualize``: pictures of a model's descriptors, matches and mixing weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from cyclopts import Group

from vsm_fast.cli.common import ExitCode, UsageError, make_folder, print_note, print_text, require
from vsm_fast.cli.inputs import MASKS_HELP, MaskOptions, MaskSource
from vsm_fast.cli.options import (
    INPUTS,
    MANY,
    OUTPUTS,
    SETTINGS,
    Count,
    Directory,
    ModelOptions,
    QuietCommand,
    Seed,
    Threshold,
    option,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vsm_fast.images.automatic_masks import AutoMask
    from vsm_fast.lab.figures import SubjectViews

MAX_IMAGES = 16  # a figure with more rows is unreadable
_KINDS = ("pca", "segments", "matches", "mixing")
_FIGURES = Group(
    "figures (default: all, and overview.png of several)", sort_key=INPUTS.sort_key + 1
)


@dataclass(frozen=True)
class _Images:
    """Images, their masks, and pairs of positions (reference, generated image)."""

    paths: list[Path]
    masks: list[Path | AutoMask | None]
    pairs: list[tuple[int, int]]
    notes: tuple[str, ...] = ()

    def overview(self) -> tuple[int, list[int]]:
        """Return the first reference and its first generated images, else the first images."""
        from vsm_fast.lab.figures.figures import MAX_GENERATIONS

        pairs = self.pairs or [(0, other) for other in range(1, len(self.paths))]
        return 0, [gen for ref, gen in pairs if ref == 0][:MAX_GENERATIONS]


@dataclass(frozen=True, kw_only=True)
class Visualize(QuietCommand):
    """Draw descriptors, matches and mixing weights."""

    NOTES: ClassVar[str] = f"""\
images:
  one subject: --refs and optionally --gens name files or a folder. One reference goes with every
  generated image; several references pair up by equal file names. Bases and clusters are fitted on
  all images together. --mixing alone needs no image.

{MASKS_HELP}"""
    refs: Annotated[tuple[Path, ...] | None, MANY, option("references", INPUTS)] = None
    gens: Annotated[tuple[Path, ...] | None, MANY, option("generated images", INPUTS)] = None
    masks: MaskOptions = field(default_factory=MaskOptions)
    all: Annotated[bool, option("all of these", _FIGURES)] = False
    pca: Annotated[bool, option("principal components: pca.png", _FIGURES)] = False
    segments: Annotated[bool, option("k-means segments: segments.png", _FIGURES)] = False
    matches: Annotated[bool, option("matches of the Nth pair: matches_N.png", _FIGURES)] = False
    mixing: Annotated[bool, option("mixing weights of the levels: mixing.png", _FIGURES)] = False
    model: ModelOptions = field(default_factory=ModelOptions)
    clusters: Annotated[Count, option("number of segments, 1 to 9", SETTINGS, metavar="K")] = 6
    seed: Annotated[Seed, option("seed of k-means", SETTINGS)] = 0
    max_matches: Annotated[Count, option("matches drawn per pair", SETTINGS)] = 60
    crop: Annotated[bool, option("draw only the input of the network", SETTINGS)] = False
    semantic_threshold: Threshold = None
    visual_threshold: Threshold = None
    out: Annotated[Directory, option("folder of PNGs", OUTPUTS)]

    def run(self) -> ExitCode:
        """Draw the figures."""
        selected = [kind for kind in _KINDS if getattr(self, kind)]
        kinds = list(_KINDS) if self.all or not selected else selected
        self._check(kinds)
        masks = MaskSource(self.masks, self.model.device)
        images = self._read(masks) if self.refs else None
        notes = [] if images is None else list(images.notes)
        if images is not None and not images.pairs and "matches" in kinds:
            kinds.remove("matches")
            notes.append("without --gens there are no matches to draw")
        scorer = self.model.scorer()
        unmatched = []
        if images is None:
            from vsm_fast.lab.figures import mixing_figure

            written = _save(self.out, [("mixing", mixing_figure(scorer))])
        else:
            from vsm_fast.lab.figures import describe_subjects
            from vsm_fast.lab.figures.correspondences import correspond

            views = describe_subjects(
                scorer,
                images.paths,
                images.masks,
                names=_names(images.paths),
                semantic_threshold=self.semantic_threshold,
                visual_threshold=self.visual_threshold,
                crop=self.crop,
            )
            shown = 1 + len(images.overview()[1])
            if len(kinds) > 1 and shown < len(views):
                notes.append(f"overview.png has room for {shown} of the {len(views)} images")
            if "matches" in kinds:
                unmatched = [
                    f"matches_{number}: no point of {views[gen].name} matches {views[ref].name} "
                    "semantically"
                    for number, (ref, gen) in enumerate(images.pairs, 1)
                    if not len(correspond(views, ref, gen).points)
                ]
            written = _save(self.out, self._figures(views, images, kinds))
        if not self.quiet:
            for note in notes + unmatched:
                print_note(note)
            print_text("\n".join(written))
        return ExitCode.UNSCORED if unmatched else ExitCode.OK

    def _check(self, kinds: Sequence[str]) -> None:
        """Check the options and packages before the work starts.

        Raises:
            UsageError: If the figures cannot be drawn.
        """
        from vsm_fast.lab.figures.panels import MAX_CLUSTERS

        if not self.refs and (self.gens or list(kinds) != ["mixing"]):
            raise UsageError("give --refs; only --mixing alone needs no image.")
        if self.matches and not self.gens:
            raise UsageError("--matches draws a reference and a generated image; give --gens.")
        if self.clusters > MAX_CLUSTERS:
            raise UsageError(
                f"--clusters: only {MAX_CLUSTERS} colours can be told apart; got {self.clusters}."
            )
        require("visualize", "matplotlib.figure", "sklearn.decomposition", "sklearn.cluster")
        make_folder(self.out, "--out")

    def _read(self, masks: MaskSource) -> _Images:
        from vsm_fast.jobs.pairing import pair_paths

        refs = self.refs or ()
        # Without generated images each reference pairs with itself, which lists images and masks.
        alone = not self.gens
        try:
            pairing = pair_paths(
                refs,
                self.gens or refs,
                ref_masks=masks.ref_masks,
                gen_masks=masks.ref_masks if alone else masks.gen_masks,
            )
        except OSError as error:
            raise UsageError(str(error)) from error
        subjects = sorted({row.subject for row in pairing.rows})
        if len(subjects) > 1:
            raise UsageError(
                f"one subject at a time; got sub-folders for {len(subjects)}, such as "
                f"{subjects[0]}. Give --refs {refs[0] / subjects[0]}, and --gens likewise."
            )
        ref_images = dict.fromkeys((row.ref, masks.of_pair(row)[0]) for row in pairing.rows)
        gen_images = dict.fromkeys((row.gen, masks.of_pair(row)[1]) for row in pairing.rows)
        images = [*ref_images, *(() if alone else gen_images)]
        if len(images) > MAX_IMAGES:
            raise UsageError(
                f"{len(images)} images are too many for one figure; name at most {MAX_IMAGES} "
                "files."
            )
        ref_places = {path: place for place, (path, _) in enumerate(ref_images)}
        gen_places = {path: place for place, (path, _) in enumerate(gen_images, len(ref_images))}
        pairs = [(ref_places[row.ref], gen_places[row.gen]) for row in pairing.rows]
        paths, found = zip(*images, strict=True)
        return _Images(list(paths), list(found), [] if alone else pairs, pairing.notes)

    def _figures(
        self, views: SubjectViews, images: _Images, kinds: Sequence[str]
    ) -> Iterator[tuple[str, Figure]]:
        """Yield names and figures."""
        from vsm_fast.lab import figures

        clustering: dict[str, Any] = {"clusters": self.clusters, "seed": self.seed}
        most = self.max_matches
        if len(kinds) > 1:
            yield (
                "overview",
                figures.overview_figure(
                    views, *images.overview(), kinds=kinds, max_matches=most, **clustering
                ),
            )
        if "pca" in kinds:
            yield "pca", figures.pca_figure(views)
        if "segments" in kinds:
            yield "segments", figures.segments_figure(views, **clustering)
        if "matches" in kinds:
            for number, (ref, gen) in enumerate(images.pairs, 1):
                figure = figures.matches_figure(views, ref, gen, max_matches=most)
                yield f"matches_{number}", figure
        if "mixing" in kinds:
            yield "mixing", figures.mixing_figure(views.scorer)


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


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest path endings that are distinct."""
    deepest = max(len(path.parts) for path in paths)
    for depth in range(1, deepest + 1):
        names = [Path(*path.parts[-depth:]).as_posix() for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names
