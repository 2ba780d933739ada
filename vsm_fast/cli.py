"""The command line: ``vsm-fast score`` and ``vsm-fast doctor``."""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vsm_fast.errors import InputError, ModelError, PairingError
from vsm_fast.version import __version__

if TYPE_CHECKING:
    from PIL import Image

    from vsm_fast.pairing import Pairing, PairRow
    from vsm_fast.results import VSMScores

FORMATS = (".parquet", ".csv", ".jsonl")


class ExitCode(IntEnum):
    """What the process ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNSCORED = 3
    MODEL = 4
    INTERRUPTED = 130


_EPILOG = """\
exit codes:
  0    everything was scored (doctor: all is well)
  1    an unexpected error (doctor: something is wrong)
  2    wrong usage or inputs; nothing was scored
  3    finished, but some pairs have no score; the results say why
  4    the model is missing, incomplete or altered
  130  interrupted
"""

_PAIRING_HELP = """\
pairing:
  folders with sub-folders   each sub-folder is a subject; every generation is scored against
                             each reference of its subject
  files or flat folders      one reference is scored against every generation; several pair up
                             by equal file names (without suffix), never by order
  manifest                   one pair a row: ref, gen and, if wanted, id, subject, ref_mask,
                             gen_mask; paths are relative to the manifest

masks (white = subject):
  NAME_mask.png beside NAME.jpg is found by itself; --masks, --ref-masks and --gen-masks name
  folders that are laid out like the images', with NAME.png or NAME_mask.png. Without a mask
  the alpha channel counts, else the whole image.

"""


class _UsageError(Exception):
    """Arguments that do not fit together; exit code 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None reads them from the process.

    Returns:
        An ``ExitCode``.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names that the terminal cannot show are escaped
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("vsm-fast: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except Exception as error:
        if arguments.verbose:
            traceback.print_exc()
        message = " ".join(str(error).split()) or type(error).__name__
        code = _exit_code(error)
        if code is ExitCode.FAILED:
            message = f"{type(error).__name__}: {message} (-v shows where)"
        print(f"vsm-fast: error: {message}", file=sys.stderr)
        return code


def _exit_code(error: Exception) -> ExitCode:
    if isinstance(error, ModelError):
        return ExitCode.MODEL
    if isinstance(error, (_UsageError, PairingError, InputError)):
        return ExitCode.USAGE
    return ExitCode.FAILED


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="vsm-fast",
        description="Visual Semantic Matching: does a generated image still show the same "
        "subject as its reference, and where not.",
        epilog=_EPILOG,
        formatter_class=layout,
    )
    parser.add_argument("--version", action="version", version=f"vsm_fast {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="{score,doctor}")

    score = commands.add_parser(
        "score",
        help="score generated images against references",
        epilog=_PAIRING_HELP + _EPILOG,
        formatter_class=layout,
    )
    _add_inputs(score)
    _add_settings(score)
    _add_outputs(score)
    score.set_defaults(run=_score)

    doctor = commands.add_parser(
        "doctor",
        help="show versions, devices, the model's state and the paths that scoring takes",
        epilog=_EPILOG,
        formatter_class=layout,
    )
    doctor.add_argument("--model", default="tiny", help="model to check (default: %(default)s)")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    doctor.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("inputs")
    group.add_argument("--refs", nargs="+", type=Path, metavar="PATH", help="folder or files")
    group.add_argument("--gens", nargs="+", type=Path, metavar="PATH", help="folder or files")
    group.add_argument(
        "--manifest", type=Path, metavar="FILE", help=".csv, .jsonl or .parquet, instead"
    )
    group.add_argument("--masks", type=Path, metavar="DIR", help="masks of both sides")
    group.add_argument("--ref-masks", type=Path, metavar="PATH", help="masks of the references")
    group.add_argument("--gen-masks", type=Path, metavar="PATH", help="masks of the generations")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings")
    group.add_argument("--model", default="tiny", help="name or folder (default: %(default)s)")
    for name in ("semantic", "visual"):
        group.add_argument(
            f"--{name}-threshold", type=_similarity, metavar="T", help="default: the model's"
        )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16")
    )
    group.add_argument("--batch-size", type=_positive, metavar="N", help="images at a time")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("outputs")
    group.add_argument("--out", type=Path, metavar="FILE", help="results: " + ", ".join(FORMATS))
    group.add_argument("--heatmaps", type=Path, metavar="DIR", help="write one PNG a scored pair")
    group.add_argument(
        "--limit-heatmaps", type=_positive, metavar="N", help="only the first N scored pairs"
    )
    group.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    group.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")


def _similarity(text: str) -> float:
    value = float(text)
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"a threshold lies in [-1, 1]; got {text}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 1; got {text}")
    return value


def _score(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast score``."""
    try:
        _check_outputs(arguments)
        pairing = _read_pairs(arguments)
    except OSError as error:  # a folder that cannot be read or made; later ones are not usage
        raise _UsageError(str(error)) from error
    if not arguments.quiet:
        for note in pairing.notes:
            print(f"vsm-fast: note: {note}", file=sys.stderr)
    ids = [row.id for row in pairing.rows]
    subjects = [row.subject for row in pairing.rows]
    scores = _score_rows(pairing.rows, arguments).with_columns({"id": ids, "subject": subjects})

    outputs = []
    if arguments.out is not None:
        _write(scores, arguments.out)
        outputs.append(f"results: {arguments.out}")
    if arguments.heatmaps is not None:
        count = _write_heatmaps(scores, pairing.rows, arguments.heatmaps, arguments.limit_heatmaps)
        outputs.append(f"heat maps: {arguments.heatmaps} ({count} PNG)")
    if not arguments.quiet:
        from vsm_fast.table import score_table

        table = score_table(scores, ids, subjects)
        _print("\n".join([table, "", *outputs] if outputs else [table]))
    return ExitCode.OK if all(result.ok for result in scores) else ExitCode.UNSCORED


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Find out before the work, not after it, that its results cannot be written."""
    out = arguments.out
    if out is not None:
        if out.suffix.lower() not in FORMATS:
            raise _UsageError(f"--out must end in {', '.join(FORMATS)}; got {out}.")
        if out.is_dir():
            raise _UsageError(f"--out must be a file; {out} is a folder.")
        if arguments.manifest and out.resolve() == arguments.manifest.resolve():
            raise _UsageError(f"--out would overwrite the manifest {out}.")
        out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(out.parent, os.W_OK):
            raise _UsageError(f"--out: the folder {out.parent} cannot be written to.")
    if arguments.heatmaps is None:
        if arguments.limit_heatmaps is not None:
            raise _UsageError("--limit-heatmaps needs --heatmaps DIR.")
        return
    if arguments.visual_threshold == 1:
        raise _UsageError("heat maps need a --visual-threshold below 1.")
    arguments.heatmaps.mkdir(parents=True, exist_ok=True)


def _read_pairs(arguments: argparse.Namespace) -> Pairing:
    from vsm_fast.manifest import read_manifest
    from vsm_fast.pairing import pair_paths

    masks = {"--masks": arguments.masks, "--ref-masks": arguments.ref_masks,
             "--gen-masks": arguments.gen_masks}  # fmt: skip
    if arguments.manifest is not None:
        others = {"--refs": arguments.refs, "--gens": arguments.gens, **masks}
        extra = [name for name, value in others.items() if value is not None]
        if extra:
            raise _UsageError(f"--manifest lists the pairs itself; leave out {', '.join(extra)}.")
        return read_manifest(arguments.manifest)
    if arguments.refs is None or arguments.gens is None:
        raise _UsageError("give --refs and --gens, or --manifest.")
    if arguments.masks is not None and (arguments.ref_masks or arguments.gen_masks):
        raise _UsageError("--masks is for both sides; give it, or --ref-masks and --gen-masks.")
    return pair_paths(
        arguments.refs,
        arguments.gens,
        ref_masks=arguments.ref_masks or arguments.masks,
        gen_masks=arguments.gen_masks or arguments.masks,
    )


def _score_rows(rows: Sequence[PairRow], arguments: argparse.Namespace) -> VSMScores:
    """Score the pairs; each image is passed once, however many pairs it is in."""
    import numpy as np

    device = _device(arguments.device)
    from vsm_fast.scorer import VSMScorer

    refs: dict[tuple[Path, Path | None], int] = {}
    gens: dict[tuple[Path, Path | None], int] = {}
    pairs = np.array(
        [
            (
                refs.setdefault((row.ref, row.ref_mask), len(refs)),
                gens.setdefault((row.gen, row.gen_mask), len(gens)),
            )
            for row in rows
        ],
        np.int64,
    )
    scorer = VSMScorer.from_pretrained(arguments.model, device=device, dtype=arguments.dtype)
    return scorer.score(
        [ref for ref, _ in refs],
        [gen for gen, _ in gens],
        pairs=pairs,
        ref_masks=[mask for _, mask in refs],
        gen_masks=[mask for _, mask in gens],
        semantic_threshold=arguments.semantic_threshold,
        visual_threshold=arguments.visual_threshold,
        batch_size=arguments.batch_size,
        heatmaps=arguments.heatmaps is not None,
        progress=not arguments.quiet and sys.stderr.isatty(),
    )


def _device(name: str) -> str:
    """Refuse a device that is not there with a sentence instead of an assertion of torch."""
    import torch

    if name == "auto":
        return name
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise _UsageError(f"--device {name}: {str(error).splitlines()[0]}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise _UsageError(
            f"--device {name}: torch {torch.__version__} sees no CUDA device here; "
            "vsm-fast doctor shows what there is."
        )
    return name


def _write(scores: VSMScores, out: Path) -> None:
    writers = {".parquet": scores.to_parquet, ".csv": scores.to_csv, ".jsonl": scores.to_jsonl}
    writers[out.suffix.lower()](out)


def _write_heatmaps(
    scores: VSMScores, rows: Sequence[PairRow], folder: Path, limit: int | None
) -> int:
    """Write one overlay a scored pair and say how many."""
    from vsm_fast.overlay import save_overlay

    load = lru_cache(maxsize=4)(_load)  # the pairs of one subject share their references
    scored = [result for result in scores if result.ok][:limit]
    taken: set[str] = set()
    for result in scored:
        row = rows[result.index]
        save_overlay(
            folder / f"{_file_name(row.id, taken)}.png",
            load(row.ref),
            load(row.gen),
            result.heatmap(),
            result.score,
            row.id,
            result.visual_threshold,
            result.n_matched,
            result.n_source,
        )
    return len(scored)


def _load(path: Path) -> Image.Image:
    from PIL import Image

    from vsm_fast.images import load_image

    return Image.fromarray(load_image(path).pixels)


def _file_name(pair_id: str, taken: set[str]) -> str:
    """A file name for a pair; ``taken`` keeps names apart, also where case does not count."""
    base = re.sub(r"[^\w.@-]+", "_", pair_id).strip("._")[:120] or "pair"
    name, number = base, 1
    while name.casefold() in taken:
        number += 1
        name = f"{base}-{number}"
    taken.add(name.casefold())
    return name


def _print(text: str) -> None:
    """Print and flush; a reader that has gone (``vsm-fast ... | head``) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes again at exit; into nothing, so that it does not complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _doctor(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast doctor``."""
    import json

    from vsm_fast.doctor import examine, render

    report = examine(arguments.model)
    _print(json.dumps(report, indent=2) if arguments.json else render(report))
    return ExitCode.FAILED if report["problems"] else ExitCode.OK


if __name__ == "__main__":
    raise SystemExit(main())
