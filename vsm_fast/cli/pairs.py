"""The options that say which pairs to score."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vsm_fast.cli.common import UsageError
from vsm_fast.cli.mask_options import MaskOptions, add_masks

if TYPE_CHECKING:
    from vsm_fast.jobs.pairing import Pairing

PAIRING_HELP = """\
pairing:
  folders with sub-folders   each sub-folder is a subject; every generation is scored against
                             each reference of its subject. Generations may have a further
                             level, GENERATOR/SUBJECT/ or SUBJECT/GENERATOR/: the level named
                             like the references is the subject
  files or flat folders      one reference is scored against every generation, also in
                             sub-folders; several pair up by equal file names (without
                             suffix), never by order
  manifest                   one pair a row: ref, gen and, if wanted, id, subject, generator,
                             ref_mask, gen_mask; paths are relative to the manifest, or
                             addresses (s3://...). Or images and all in one, or a folder, of
                             .tar (WebDataset: KEY.ref.jpg, KEY.gen.jpg, ...), .parquet or
                             .arrow (columns of images as in Hugging Face's datasets)

"""


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """``--refs`` and ``--gens``, or ``--manifest``, and their masks."""
    group = parser.add_argument_group("inputs")
    group.add_argument("--refs", nargs="+", type=Path, metavar="PATH", help="folder or files")
    group.add_argument("--gens", nargs="+", type=Path, metavar="PATH", help="folder or files")
    group.add_argument(
        "--manifest",
        metavar="FILE|DIR",
        help=".csv, .tsv, .jsonl, .json, .parquet, .tar, .arrow, instead",
    )
    group.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME=COLUMN",
        help="columns that the manifest names otherwise: ref=image_1 gen=image_2",
    )
    add_masks(group)


def read_pairs(arguments: argparse.Namespace, masks: MaskOptions) -> Pairing:
    """The pairs that the arguments list."""
    from vsm_fast.jobs.manifest import read_manifest
    from vsm_fast.jobs.pairing import pair_paths

    check_inputs(arguments, masks)
    if arguments.manifest is not None:
        return read_manifest(arguments.manifest, column_names(arguments))
    return pair_paths(
        arguments.refs, arguments.gens, ref_masks=masks.ref_masks, gen_masks=masks.gen_masks
    )


def check_inputs(arguments: argparse.Namespace, masks: MaskOptions) -> None:
    """Refuse arguments that list pairs twice, or not at all."""
    if arguments.manifest is not None:
        others = {"--refs": arguments.refs, "--gens": arguments.gens,
                  "folders of masks": masks.ref_masks or masks.gen_masks}  # fmt: skip
        extra = [name for name, value in others.items() if value is not None]
        if extra:
            raise UsageError(f"--manifest lists the pairs itself; leave out {', '.join(extra)}.")
    elif arguments.refs is None or arguments.gens is None:
        raise UsageError("give --refs and --gens, or --manifest.")
    elif arguments.columns:
        raise UsageError("--columns is for --manifest.")


def column_names(arguments: argparse.Namespace) -> dict[str, str]:
    """What ``--columns`` says: names in the manifest by ours."""
    names = dict(text.partition("=")[::2] for text in arguments.columns or ())
    if not all(names) or not all(names.values()):
        raise UsageError("--columns takes NAME=COLUMN, like ref=image_1.")
    return names
