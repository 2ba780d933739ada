"""Options for pairs of images and their subject masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from vsm_fast.cli.common import UsageError, checked_device
from vsm_fast.cli.options import INPUTS, MANY, Weights, option

if TYPE_CHECKING:
    from vsm_fast.images.automatic_masks import AutoMask
    from vsm_fast.images.storage import ImageLocation
    from vsm_fast.jobs.pairing import Pairing, PairRow

PAIRING_HELP = """\
pairing:
  folders with sub-folders   one sub-folder per subject; every generated image is scored against
                             each reference of its subject. Generated images may have another
                             level, GENERATOR/SUBJECT/ or SUBJECT/GENERATOR/: the level with the
                             references' names is the subject
  files or flat folders      one reference is scored against every generated image, sub-folders
                             included; several references pair up by equal file names (without
                             suffix), never by order
  manifest                   one pair per row: ref, gen and optionally id, subject, generator,
                             ref_mask, gen_mask; paths are relative to the manifest, or
                             addresses (s3://...). Manifests that contain the images: a file or
                             folder of .tar (WebDataset: KEY.ref.jpg, KEY.gen.jpg, ...), .parquet
                             or .arrow (image columns as in Hugging Face datasets)

"""
MASKS_HELP = """\
masks (white = subject):
  NAME_mask.png beside NAME.jpg is used by default, with any suffix and in any case. --masks,
  --ref-masks and --gen-masks name folders with the images' layout that contain NAME.png or
  NAME_mask.png. Without a mask the alpha channel is used, else the whole image.
  auto instead of a folder segments the subject of each image that has neither, or reports that
  none was found (a folder of that name is ./auto). --mask-method grabcut takes the central
  region that differs from its surroundings; grounded-sam takes the subject named by
  --mask-prompt, else by the subject's folder; auto is grounded-sam if there is such a name and
  its models are on this machine, else grabcut. The columns ref_mask_origin and gen_mask_origin
  of the results record the choice.

"""
Place = Annotated[str, Parameter(metavar="DIR|auto")]  # a Path would not tell ./auto from auto


@Parameter(name="*", group=INPUTS)
@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """Subject masks: folders or automatic segmentation."""

    masks: Annotated[Place | None, option("masks of both sides: a folder, or auto")] = None
    ref_masks: Annotated[Place | None, option("masks of the references, likewise")] = None
    gen_masks: Annotated[Place | None, option("masks of the generated images, likewise")] = None
    # The names of automatic_masks.METHODS, which would import numpy; a test compares them.
    mask_method: Annotated[
        Literal["auto", "grabcut", "grounded-sam"] | None,
        option("segmentation method of auto (default: auto)"),
    ] = None
    mask_prompt: Annotated[str | None, option("subject, for grounded-sam", metavar="TEXT")] = None
    detector_model: Annotated[Weights | None, option("Grounding DINO, for grounded-sam")] = None
    sam_model: Annotated[Weights | None, option("SAM, for grounded-sam")] = None


class MaskSource:
    """Source of the masks of each pair.

    Args:
        options: Options of the command line.
        device: Device of the segmentation models.

    Attributes:
        ref_masks: Folder of the references' masks; None = beside the images.
        gen_masks: Folder of the generated images' masks; None = beside the images.

    Raises:
        UsageError: If the options contradict each other.
    """

    def __init__(self, options: MaskOptions, device: str) -> None:
        if options.masks is not None and (options.ref_masks or options.gen_masks):
            raise UsageError("--masks is for both sides; give it, or --ref-masks and --gen-masks.")
        ref, gen = (side or options.masks for side in (options.ref_masks, options.gen_masks))
        self._auto = (ref == "auto", gen == "auto")
        self.ref_masks = None if ref in (None, "auto") else Path(ref)
        self.gen_masks = None if gen in (None, "auto") else Path(gen)
        self._options = options
        self._device = device
        self._loaded: dict[str, AutoMask] = {}  # by prompt: a subject has many pairs
        unused = [
            f"--{name.replace('_', '-')}"
            for name in ("mask_method", "mask_prompt", "detector_model", "sam_model")
            if getattr(options, name) is not None
        ]
        if unused and not self.automatic:
            raise UsageError(f"{', '.join(unused)}: only --masks auto uses this option.")

    @property
    def automatic(self) -> bool:
        """Whether masks of either side are segmented automatically."""
        return any(self._auto)

    def of_pair(
        self, row: PairRow
    ) -> tuple[ImageLocation | AutoMask | None, ImageLocation | AutoMask | None]:
        """Return the masks of a pair's reference and generated image.

        Raises:
            UsageError: If automatic segmentation lacks a package or a prompt.
            ModelError: If the segmentation models are not on this machine.
        """
        ref, gen = (
            self._segmentation(row) if automatic and mask is None else mask
            for mask, automatic in zip((row.ref_mask, row.gen_mask), self._auto, strict=True)
        )
        return ref, gen

    def _segmentation(self, row: PairRow) -> AutoMask:
        from vsm_fast.images.automatic_masks import AutoMask

        options = self._options
        prompt = row.subject if options.mask_prompt is None else options.mask_prompt
        if prompt in self._loaded:
            return self._loaded[prompt]
        try:
            mask = AutoMask(
                prompt,
                options.mask_method or "auto",
                options.detector_model,
                options.sam_model,
                checked_device(self._device),
            )
            mask.load()
            mask = replace(mask, method=mask.chosen_method())
        except (ImportError, ValueError) as error:
            raise UsageError(f"masks auto: {error}") from error
        return self._loaded.setdefault(prompt, mask)


@Parameter(name="*", group=INPUTS)
@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Pairs to score: two sides, or a manifest."""

    refs: Annotated[tuple[Path, ...] | None, MANY, option("folder or files")] = None
    gens: Annotated[tuple[Path, ...] | None, MANY, option("folder or files")] = None
    manifest: Annotated[
        str | None,
        option("instead: .csv, .tsv, .jsonl, .json, .parquet, .tar or .arrow", metavar="FILE|DIR"),
    ] = None
    columns: Annotated[
        tuple[str, ...] | None,
        MANY,
        option(
            "other column names of the manifest: ref=image_1 gen=image_2", metavar="NAME=COLUMN..."
        ),
    ] = None

    def check(self, masks: MaskSource) -> None:
        """Check that the options list the pairs exactly once.

        Raises:
            UsageError: If they do not.
        """
        if self.manifest is not None:
            others = {
                "--refs": self.refs,
                "--gens": self.gens,
                "folders of masks": masks.ref_masks or masks.gen_masks,
            }
            extra = [name for name, value in others.items() if value is not None]
            if extra:
                raise UsageError(f"--manifest lists the pairs; leave out {', '.join(extra)}.")
        elif self.refs is None or self.gens is None:
            raise UsageError("give --refs and --gens, or --manifest.")
        elif self.columns:
            raise UsageError("--columns needs --manifest.")

    def read(self, masks: MaskSource) -> Pairing:
        """List the pairs.

        Raises:
            UsageError: If the options list no pairs, or list them twice.
            PairingError: If the pairs cannot be read.
        """
        from vsm_fast.jobs.manifest import read_manifest
        from vsm_fast.jobs.pairing import pair_paths

        self.check(masks)
        if self.manifest is not None:
            return read_manifest(self.manifest, self.column_names())
        return pair_paths(
            self.refs or (),
            self.gens or (),
            ref_masks=masks.ref_masks,
            gen_masks=masks.gen_masks,
        )

    def column_names(self) -> dict[str, str]:
        """Return the manifest's own column names by the standard names."""
        names = dict(text.partition("=")[::2] for text in self.columns or ())
        if not all(names) or not all(names.values()):
            raise UsageError("--columns takes NAME=COLUMN, like ref=image_1.")
        return names
