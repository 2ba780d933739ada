"""``vsm-fast models``: the known models, their files in the cache, and how to get them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated, TypedDict

from vsm_fast.cli.common import ExitCode, print_text
from vsm_fast.cli.options import Command, option


class ModelEntry(TypedDict):
    """One model in plain values, ready for JSON.

    ``parameters`` counts the UNet's. ``networks`` is ``"embedded"``, ``"published"`` or ``"train
    your own"``. ``cached`` of ``files`` Hub files are in the local cache.
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


@dataclass(frozen=True, kw_only=True)
class Models(Command):
    """List the known models and how to get them."""

    json: Annotated[bool, option("print one JSON array")] = False

    def run(self) -> ExitCode:
        """List the models."""
        from vsm_fast.model.config import WEIGHTS
        from vsm_fast.model.load import read_config
        from vsm_fast.model.location import find_model
        from vsm_fast.model.presets import PRESETS, converted_folder
        from vsm_fast.model.weights import opened

        tiny = find_model("tiny")
        with opened(tiny / "unet" / WEIGHTS) as file:
            parameters = sum(math.prod(shape) for shape in file.shapes.values())
        entries = [
            ModelEntry(
                name="tiny",
                summary="embedded: a small diffusion UNet on pixels, trained for this library",
                resolution=read_config(tiny).backbone.resolution,
                parameters=parameters,
                networks="embedded",
                cached=0,
                files=0,
                folder=str(tiny),
                get=[],
            )
        ]
        for preset in PRESETS.values():
            folder = converted_folder(preset.name)
            get = [f"vsm-fast convert --preset {preset.name}"]
            if not preset.networks:
                get.append(f"vsm-fast train --backbone {preset.name} ...")
            entries.append(
                ModelEntry(
                    name=preset.name,
                    summary=preset.summary,
                    resolution=preset.backbone.resolution,
                    parameters=preset.parameters,
                    networks="published" if preset.networks else "train your own",
                    cached=sum(source.cached() for source in preset.sources),
                    files=sum(len(source.files) for source in preset.sources),
                    folder=str(folder) if (folder / "config.json").is_file() else None,
                    get=get,
                )
            )
        print_text(json.dumps(entries, indent=2) if self.json else _table(entries))
        return ExitCode.OK


def _table(entries: list[ModelEntry]) -> str:
    """Return a table, then for each model its summary and the commands that get it."""
    rows = [("name", "pixels", "parameters", "networks", "files in the Hub cache", "converted")]
    for entry in entries:
        published = entry["files"] > 0
        rows.append(
            (
                entry["name"],
                str(entry["resolution"]),
                f"{entry['parameters'] / 1e6:.1f} M",
                entry["networks"],
                f"{entry['cached']} of {entry['files']}" if published else "-",
                ("yes" if entry["folder"] else "no") if published else "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.append("")
    for entry in entries:
        steps = entry["get"] or ["part of the package"]
        lines += [f"{entry['name']}: {entry['summary']}", f"  {', then '.join(steps)}"]
    return "\n".join(lines)
