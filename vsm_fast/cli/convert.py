"""``vsm-fast convert``: released files of a known model -> one model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from vsm_fast.cli.common import EXIT_CODES, ExitCode, UsageError, print_text
from vsm_fast.model.presets import PRESETS, ModelPreset, converted_folder

_DESCRIPTION = """\
Turn the released files of a known model into one folder that scores (--model FOLDER, or
--model NAME if --out is left out), or that networks can be trained on (vsm-fast train
--backbone FOLDER) where none were published.

Files that are not given are taken from the Hub's cache, or fetched into it. HF_HUB_OFFLINE,
HF_ENDPOINT and HF_HUB_CACHE are respected. Only safetensors are read. vsm-fast models lists
the presets and what of their files is here.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``convert`` to the command line."""
    parser = commands.add_parser(
        "convert",
        help="turn the released files of a known model into one model folder",
        description=_DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", required=True, choices=tuple(PRESETS), help="which model")
    files = parser.add_argument_group("local copies of the files, instead of the Hub's")
    files.add_argument(
        "--base", type=Path, metavar="DIR", help="the base model, in diffusers' layout"
    )
    files.add_argument(
        "--cleandift", type=Path, metavar="FILE", help="full CleanDIFT checkpoint, .safetensors"
    )
    files.add_argument(
        "--aggregation", type=Path, metavar="FILE", help="aggregation weights, .safetensors"
    )
    files.add_argument(
        "--aggregation-config",
        type=Path,
        metavar="FILE",
        help="the configuration that they were trained with, .yaml",
    )
    files.add_argument(
        "--tiny-vae-folder", type=Path, metavar="DIR", help="the tiny VAE, in diffusers' layout"
    )
    parser.add_argument(
        "--revision",
        action="append",
        default=[],
        type=_revision,
        metavar="REPOSITORY=REVISION",
        help="commit, tag or branch of one of the preset's repositories; can be repeated",
    )
    parser.add_argument(
        "--tiny-vae",
        action="store_true",
        help="take the distilled VAE (TAESD): an approximation with a tenth of the VAE's "
        "arithmetic; the model is called NAME-tiny-vae",
    )
    parser.add_argument(
        "--no-aggregation",
        action="store_true",
        help="leave published aggregation networks out, to train others on the backbone",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where to (default: $VSM_FAST_HOME/models/NAME, where --model NAME looks)",
    )
    parser.add_argument(
        "--dtype",
        default="float16",
        choices=("float16", "bfloat16", "float32"),
        help="precision of the backbone on disk (default: %(default)s)",
    )
    parser.add_argument(
        "--local-files-only", action="store_true", help="never ask the network for files"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    parser.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast convert``."""
    preset = PRESETS[arguments.preset]
    _check(arguments, preset)
    import torch

    from vsm_fast.model.convert import LocalFiles, convert, model_name

    name = model_name(preset, tiny_vae=arguments.tiny_vae)
    out = arguments.out or converted_folder(name)
    with_networks = preset.networks is not None and not arguments.no_aggregation
    local = LocalFiles(
        arguments.base,
        arguments.cleandift,
        arguments.aggregation,
        arguments.aggregation_config,
        arguments.tiny_vae_folder,
    )
    try:
        convert(
            preset,
            out,
            local,
            networks=with_networks,
            tiny_vae=arguments.tiny_vae,
            revisions=dict(arguments.revision),
            dtype=getattr(torch, arguments.dtype),
            local_files_only=arguments.local_files_only,
            tell=print_text,
        )
    except ImportError as error:
        raise UsageError(str(error)) from error
    model = out if arguments.out else name
    if with_networks:
        use = f"Score with it: vsm-fast score --model {model} --refs ... --gens ..."
    else:
        use = (
            "It has no aggregation networks. Train them: "
            f"vsm-fast train --backbone {model} --pairs ... --validation ... --out ..."
        )
    print_text(f"wrote {out}\n{use}")
    return ExitCode.OK


def _revision(text: str) -> tuple[str, str]:
    """``owner/name=revision``, as the type of an argument."""
    repository, separator, revision = text.partition("=")
    if not separator or not repository or not revision:
        raise argparse.ArgumentTypeError(f"wanted REPOSITORY=REVISION; got {text!r}")
    return repository, revision


def _check(arguments: argparse.Namespace, preset: ModelPreset) -> None:
    """Refuse files that the preset has no use for."""
    given = {
        "--cleandift": (arguments.cleandift, preset.cleandift is not None),
        "--aggregation": (arguments.aggregation, preset.networks is not None),
        "--aggregation-config": (arguments.aggregation_config, preset.networks is not None),
    }
    useless = [name for name, (path, used) in given.items() if path is not None and not used]
    if arguments.tiny_vae_folder is not None and not arguments.tiny_vae:
        raise UsageError("--tiny-vae-folder is where --tiny-vae takes its files; give both.")
    if useless:
        raise UsageError(f"--preset {preset.name} takes no {', '.join(useless)}.")
    networks = (arguments.aggregation, arguments.aggregation_config)
    if arguments.no_aggregation and any(path is not None for path in networks):
        raise UsageError("--no-aggregation: leave out --aggregation and --aggregation-config.")
