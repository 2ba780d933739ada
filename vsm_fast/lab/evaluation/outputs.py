"""Output files of an evaluation."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vsm_fast.files import replacing
from vsm_fast.lab.evaluation.plots import draw_kde, draw_localisation, draw_scatter
from vsm_fast.lab.evaluation.run import Evaluation
from vsm_fast.lab.evaluation.tables import as_json, csv_rows, markdown, pair_columns


def write_outputs(evaluation: Evaluation, folder: str | os.PathLike[str]) -> list[Path]:
    """Write tables, rows and figures into a folder, created if missing, and return their paths.

    Each file is written completely or left unchanged; ``evaluation.json`` is last and marks
    completion. A figure without data is not written, and one from an earlier run is removed.

    Raises:
        ImportError: If matplotlib or scipy is not installed. Names the extra.
    """
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    figures = {
        "scatter.png": draw_scatter, "kde.png": draw_kde, "localisation.png": draw_localisation,
    }  # fmt: skip
    for name, draw in figures.items():
        figure = draw(evaluation)
        if figure is None:
            (out / name).unlink(missing_ok=True)
            continue
        with replacing(out / name) as temporary:
            figure.savefig(temporary, dpi=200)
        written.append(out / name)
    with replacing(out / "pairs.parquet") as temporary:
        pq.write_table(pa.table(pair_columns(evaluation)), temporary)
    with (
        replacing(out / "evaluation.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        rows = csv_rows(evaluation)
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {name: "" if value != value else value for name, value in row.items()} for row in rows
        )
    with replacing(out / "table.md") as temporary:
        temporary.write_text(markdown(evaluation), encoding="utf-8")
    with replacing(out / "evaluation.json") as temporary:
        text = json.dumps(as_json(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    names = ("pairs.parquet", "evaluation.csv", "table.md", "evaluation.json")
    return [*written, *(out / name for name in names)]
