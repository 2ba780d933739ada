"""Small model, images and manifests for job tests."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tiny_models import aggregation_pair, config_of, pixel_unet, write_folder

from vsm_fast.jobs.job_folder import SUMMARY

TIMES = ["seconds"]
SIDE = 48


def write_model(folder: Path) -> Path:
    """Write a random model that scores an image of ``SIDE`` pixels in milliseconds."""
    folder.mkdir()
    write_folder(folder, config_of(), pixel_unet(), *aggregation_pair((24, 8)))
    return folder


def picture(seed: int, changed: int = 0) -> Image.Image:
    """Return blocks of random colours, ``changed`` of them different."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (6, 6, 3), np.uint8)
    for _ in range(changed):
        blocks[tuple(rng.integers(0, 6, 2))] = rng.integers(0, 256, 3)
    return Image.fromarray(blocks).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def write_pairs(
    folder: Path, rows: int, references: int = 3, name: str = "pairs.csv", broken: tuple = ()
) -> Path:
    """Write a manifest whose rows cycle through the references; ``broken`` rows have no image."""
    folder.mkdir(exist_ok=True)
    for ref in range(references):
        picture(ref).save(folder / f"ref{ref}.png")
    with (folder / name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "subject", "generator", "ref", "gen"])
        for row in range(rows):
            ref = row % references
            if row in broken:
                (folder / f"gen{row}.png").write_bytes(b"no image")
            else:
                picture(ref, row % 7).save(folder / f"gen{row}.png")
            writer.writerow(
                [f"pair {row}", f"s{ref}", f"g{row % 2}", f"ref{ref}.png", f"gen{row}.png"]
            )
    return folder / name


def read_rows(out: Path) -> pa.Table:
    """Return all rows of a job in order, without times and metadata."""
    table = pq.read_table(out).drop_columns(TIMES)
    assert table["row"].to_pylist() == list(range(table.num_rows))
    return table.replace_schema_metadata(None)


def same_files(out: Path) -> set[str]:
    """Return the file names of a finished job."""
    assert (out / SUMMARY).exists()
    return {path.name for path in out.iterdir()}


def write_tar(path: Path, members: Iterable[tuple[str, bytes | tuple[bytes, str]]]) -> Path:
    """Write a tar of files (name, content) and links (name, (type, target)), in order."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return path
