"""Options of subject masks: where they are, or how they are found."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vsm_fast.cli.common import ArgumentGroup, UsageError, checked_device

if TYPE_CHECKING:
    from vsm_fast.images.automatic_masks import AutoMask
    from vsm_fast.images.storage import ImageLocation
    from vsm_fast.jobs.pairing import PairRow

MASKS_HELP = """\
masks (white = subject):
  NAME_mask.png beside NAME.jpg is found by itself, with any suffix and in any case; --masks,
  --ref-masks and --gen-masks name folders that are laid out like the images', with NAME.png or
  NAME_mask.png. Without a mask the alpha channel counts, else the whole image.
  auto in the place of a folder finds the subject of each image that has neither, or says that
  there is none (a folder of that name is ./auto). --mask-method grabcut takes what is central
  and unlike the rest; grounded-sam what --mask-prompt, else the name of the subject's folder,
  says; auto is grounded-sam where there is such a name and its models are on this machine,
  else grabcut. The column gen_mask_origin of the results says what was used.

"""


def add_masks(group: ArgumentGroup) -> None:
    """``--masks`` and what belongs to it; see :class:`MaskOptions`."""
    for option, what in (("--masks", "both sides"), ("--ref-masks", "the references"),
                         ("--gen-masks", "the generations")):  # fmt: skip
        group.add_argument(option, type=_place, metavar="PATH", help=f"masks of {what}; or auto")
    # The names of automatic_masks.METHODS, which would import numpy; a test compares them.
    group.add_argument("--mask-method", choices=("auto", "grabcut", "grounded-sam"),
                       help="what finds masks (default: auto)")  # fmt: skip
    group.add_argument("--mask-prompt", metavar="TEXT", help="the subject, for grounded-sam")
    group.add_argument("--detector-model", metavar="MODEL", help="Grounding DINO of grounded-sam")
    group.add_argument("--sam-model", metavar="MODEL", help="SAM of grounded-sam")


class MaskOptions:
    """What :func:`add_masks`'s options ask for; models run where ``--device`` says.

    Attributes:
        ref_masks, gen_masks: Where the masks of each side lie; None = beside the images.

    Raises:
        UsageError: Options that do not fit together.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        both, ref, gen = arguments.masks, arguments.ref_masks, arguments.gen_masks
        if both is not None and (ref or gen):
            raise UsageError("--masks is for both sides; give it, or --ref-masks and --gen-masks.")
        ref, gen = ref or both, gen or both
        self.ref_masks: Path | None = None if ref == "auto" else ref
        self.gen_masks: Path | None = None if gen == "auto" else gen
        self._auto = (ref == "auto", gen == "auto")
        self._method, self._prompt = arguments.mask_method, arguments.mask_prompt
        self._models = (arguments.detector_model, arguments.sam_model)
        self._device = arguments.device
        self._loaded: dict[str, AutoMask] = {}  # by prompt: a subject has many pairs
        options = {"--mask-method": self._method, "--mask-prompt": self._prompt,
                   "--detector-model": self._models[0], "--sam-model": self._models[1]}  # fmt: skip
        unused = [name for name, value in options.items() if value is not None]
        if unused and not any(self._auto):
            raise UsageError(f"{', '.join(unused)}: only --masks auto makes use of that.")

    @property
    def automatic(self) -> bool:
        """Whether masks of a side are to be found."""
        return any(self._auto)

    def of_pair(
        self, row: PairRow
    ) -> tuple[ImageLocation | AutoMask | None, ImageLocation | AutoMask | None]:
        """The masks of a pair's reference and generation.

        Raises:
            UsageError: They are to be found, and what finds them is not installed or not told
                what to look for.
            ModelError: The models that find them are not here.
        """
        ref, gen = (
            self._found(row) if automatic and mask is None else mask
            for mask, automatic in zip((row.ref_mask, row.gen_mask), self._auto, strict=True)
        )
        return ref, gen

    def _found(self, row: PairRow) -> AutoMask:
        from vsm_fast.images.automatic_masks import AutoMask

        prompt = row.subject if self._prompt is None else self._prompt
        if prompt in self._loaded:
            return self._loaded[prompt]
        detector, sam = self._models
        try:
            device = checked_device(self._device)
            mask = AutoMask(prompt, self._method or "auto", detector, sam, device)
            mask.load()
            mask = replace(mask, method=mask.chosen_method())
        except (ImportError, ValueError) as error:
            raise UsageError(f"masks auto: {error}") from error
        return self._loaded.setdefault(prompt, mask)


def _place(text: str) -> Path | Literal["auto"]:
    """As the type of an argument: a path, which would not tell ``./auto`` from ``auto``."""
    return "auto" if text == "auto" else Path(text)
