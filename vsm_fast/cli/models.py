"""``vsm-fast models``: the known models, what of them is here, and how to get the rest."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, TypedDict

from vsm_fast.cli.common import EXIT_CODES, ExitCode, print_text

if TYPE_CHECKING:
    from vsm_fast.model.presets import ModelPreset


class ModelEntry(TypedDict):
    """One model; plain values, ready for JSON.

    ``parameters`` are the UNet's. ``networks`` is ``"embedded"``, ``"published"`` or ``"train
    your own"``. ``cached`` of ``files`` files of the Hub are in its cache.
    """

    name: str
    summary: str
    resolution: int
    parameters: int
    networks: str
    cached: int
    files: int
    folder: str | None
    get: list[str]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``models`` to the command line."""
    parser = commands.add_parser(
        "models",
        help="list the known models, and how to get them",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    parser.set_defaults(run=_models)


def _models(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast models``."""
    import json

    from vsm_fast.model.presets import PRESETS

    entries = [_embedded(), *(_entry(preset) for preset in PRESETS.values())]
    print_text(json.dumps(entries, indent=2) if arguments.json else render(entries))
    return ExitCode.OK


def _embedded() -> ModelEntry:
    """The model that comes with the package."""
    from vsm_fast.model.config import WEIGHTS
    from vsm_fast.model.load import read_config
    from vsm_fast.model.location import find_model
    from vsm_fast.model.weights import opened

    folder = find_model("tiny")
    config = read_config(folder)
    with opened(folder / "unet" / WEIGHTS) as file:
        parameters = sum(math.prod(shape) for shape in file.shapes.values())
    return ModelEntry(
        name="tiny",
        summary="embedded: a small diffusion UNet on pixels, trained for this library",
        resolution=config.backbone.resolution,
        parameters=parameters,
        networks="embedded",
        cached=0,
        files=0,
        folder=str(folder),
        get=[],
    )


def _entry(preset: ModelPreset) -> ModelEntry:
    from vsm_fast.model.presets import converted_folder

    folder = converted_folder(preset.name)
    return ModelEntry(
        name=preset.name,
        summary=preset.summary,
        resolution=preset.backbone.resolution,
        parameters=preset.parameters,
        networks="published" if preset.networks else "train your own",
        cached=sum(source.cached() for source in preset.sources),
        files=sum(len(source.files) for source in preset.sources),
        folder=str(folder) if (folder / "config.json").is_file() else None,
        get=[
            f"vsm-fast convert --preset {preset.name}",
            *([] if preset.networks else [f"vsm-fast train --backbone {preset.name} ..."]),
        ],
    )


def render(entries: list[ModelEntry]) -> str:
    """The models as a table, and a line of what each is and how to get it."""
    head = ("name", "pixels", "parameters", "networks", "files in the Hub's cache", "converted")
    rows = [head, *(_row(entry) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.append("")
    for entry in entries:
        steps = ["comes with the package"] if not entry["get"] else entry["get"]
        lines += [f"{entry['name']}: {entry['summary']}", f"  {', then '.join(steps)}"]
    return "\n".join(lines)


def _row(entry: ModelEntry) -> tuple[str, ...]:
    return (
        entry["name"],
        str(entry["resolution"]),
        f"{entry['parameters'] / 1e6:.1f} M",
        entry["networks"],
        f"{entry['cached']} of {entry['files']}" if entry["files"] else "-",
        "-" if not entry["files"] else "yes" if entry["folder"] else "no",
    )
