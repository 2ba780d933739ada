"""The files: what they say, that they are complete or absent, and that figures can be drawn."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from dataclasses import replace

import matplotlib
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vsm_fast.lab.evaluation import Bootstrap
from vsm_fast.lab.evaluation.outputs import write_outputs
from vsm_fast.lab.evaluation.plots import draw_kde, draw_localisation, draw_scatter, oracle_bins
from vsm_fast.lab.evaluation.run import PairMeasurement, summarise
from vsm_fast.lab.evaluation.tables import as_json, csv_rows, markdown, markdown_table

KINDS = ("none", "recolour", "shuffle", "other subject")
FILES = {
    "scatter.png", "kde.png", "localisation.png", "pairs.parquet", "evaluation.csv", "table.md",
    "evaluation.json",
}  # fmt: skip


def measurement(number: int, **changes: object) -> PairMeasurement:
    rng = np.random.default_rng(number)
    kind = KINDS[number % 4]
    oracle = {"none": 1.0, "other subject": 0.0}.get(kind, float(rng.uniform(0.4, 1)))
    histograms = None
    if kind in KINDS[1:3]:
        histograms = np.stack([rng.multinomial(90, np.full(1024, 1 / 1024)) for _ in range(2)])
    vsm = float(np.clip(oracle + 0.1 * rng.normal(), 0, 1))
    row = PairMeasurement(
        id=f"pair {number}",
        subject=("cup", "a|b")[number // 4 % 2],
        kind=kind,
        view="photo",
        oracle=oracle,
        values={
            "vsm@0.725": vsm, "vsm@0.6": vsm**2, "psnr": 20 * vsm + rng.normal(),
            "silent": math.nan,
        },
        n_matched=30,
        n_source=40,
        status="ok",
        points=histograms,
        pixels=histograms,
    )  # fmt: skip
    return dataclasses.replace(row, **changes)


def evaluation(rows=None, human=None, skipped=()):
    rows = tuple([measurement(i) for i in range(48)] if rows is None else rows)
    bootstrap = Bootstrap(resamples=50)
    settings = {
        "model": "tiny", "semantic_threshold": 0.45, "visual_threshold": 0.725,
        "bootstrap": {**dataclasses.asdict(bootstrap), "unit": "pair"},
    }  # fmt: skip
    return summarise(rows, settings, human, bootstrap, "pair", dict(skipped))


def test_every_file(tmp_path) -> None:
    found = evaluation(human=np.arange(48.0), skipped={"clip-i": "no weights."})
    assert {path.name for path in write_outputs(found, tmp_path / "new" / "out")} == FILES
    out = tmp_path / "new" / "out"
    assert {path.name for path in out.iterdir()} == FILES

    content = json.loads((out / "evaluation.json").read_text())
    assert content["counts"]["pairs"] == 48
    assert content["counts"]["kind"] == dict.fromkeys(sorted(KINDS), 12)
    assert content["skipped_baselines"] == {"clip-i": "no weights."}
    row = content["correlations"][0]
    assert row["metric"] == "vsm@0.725"
    assert row["correlation"]["pearson"]["value"] == found.overall("vsm@0.725").pearson.value
    assert content["separation"]["silent"]["higher"] is None

    table = pq.read_table(out / "pairs.parquet").to_pydict()
    assert table["id"][5] == "pair 5"
    assert table["psnr"] == found.column("psnr").tolist()
    assert table["human"][7] == 7

    with (out / "evaluation.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(found.metrics)
    assert float(rows["psnr"]["pearson"]) == found.overall("psnr").pearson.value
    assert float(rows["psnr"]["headline_minus_this_pearson"]) == found.gains["psnr"].pearson.value
    assert rows["silent"]["pearson"] == rows["vsm@0.725"]["headline_minus_this_pearson"] == ""
    assert rows["psnr"]["human_n"] == "48"
    assert float(rows["vsm@0.6"]["pearson_kind_shuffle"]) > 0.5

    for name in ("scatter.png", "kde.png", "localisation.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 400
            assert len(set(picture.convert("RGB").resize((64, 64)).get_flattened_data())) > 20


def test_the_table_keeps_theirs_apart_from_ours() -> None:
    text = markdown(evaluation(skipped={"clip-i": "no weights."}))
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line[:1] == "|"}
    ours = lines["vsm@0.6"].split("|")
    assert [cell.strip() for cell in ours[-3:-1]] == ["0.448", "0.582"]
    assert lines["**vsm@0.725** (the model's threshold)"].split("|")[-2].strip() == "–"
    vlm = [cell.strip() for cell in lines["VLM (GPT-4o)"].split("|")[1:-1]]
    assert vlm == ["VLM (GPT-4o)", *"–––––", "0.072", "0.091"]
    gain = evaluation().gains["psnr"].pearson
    shown = lines["psnr"].split("|")[5].strip()
    assert shown == f"{gain.value:.3f} [{gain.low:.3f}, {gain.high:.3f}]"
    assert "VSM, visual threshold 0.5" in lines  # theirs at a threshold that was not asked for
    assert "Published figures" in text
    assert "(36 undefined)" in lines["silent"]
    assert "Baseline clip-i skipped: no weights." in text
    assert "12 unaltered, 12 of two subjects" in text
    assert "a\\|b" in text
    widths = {len(line) for line in text.split("###")[1].splitlines() if line[:1] == "|"}
    assert len(widths) == 1


def test_undefined_pairs_are_in_the_table() -> None:
    rows = [measurement(i) for i in range(12)]
    rows[0] = measurement(0, subject="")
    rows[1] = measurement(1, status="no_semantic_match", points=None, pixels=None)
    assert "Pairs without a VSM score: 1 (no_semantic_match)." in markdown(evaluation(rows))


def test_nothing_is_nan_in_json() -> None:
    json.dumps(as_json(evaluation([measurement(0)])), allow_nan=False)


def test_what_has_nothing_to_show_is_not_drawn(tmp_path) -> None:
    full, alone = evaluation(), evaluation([measurement(0)])
    write_outputs(full, tmp_path)
    assert draw_kde(alone) is None
    assert draw_localisation(alone) is None
    names = {path.name for path in write_outputs(alone, tmp_path)}
    assert names == {path.name for path in tmp_path.iterdir()} == FILES - {
        "kde.png", "localisation.png",
    }  # fmt: skip
    nothing = evaluation([measurement(3, values=dict.fromkeys(("vsm@0.725", "x"), math.nan))])
    assert draw_scatter(nothing) is None
    assert "| x" in markdown(nothing)


def test_a_group_of_equal_values_is_a_line() -> None:
    rows = [measurement(i) for i in range(24)]
    constant = [
        replace(row, values={**row.values, "psnr": 40.0}) if row.kind == "none" else row
        for row in rows
    ]
    figure = draw_kde(evaluation(constant))
    assert figure is not None
    drawn = {axes.get_title(loc="left"): axes for axes in figure.axes}
    lines = drawn["PSNR of the masked crop"].get_lines()
    flat = [line for line in lines if list(line.get_xdata()) == [40.0, 40.0]]
    assert [line.get_label() for line in flat] == ["consistent"]


def test_an_interrupted_run_leaves_what_was_there(tmp_path, monkeypatch) -> None:
    write_outputs(evaluation(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vsm_fast.lab.evaluation.plots.oracle_bins", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_outputs(evaluation([measurement(i) for i in range(12)]), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    figure = draw_scatter(evaluation())
    assert dict(matplotlib.rcParams) == before
    assert figure is not None
    assert len([ax for ax in figure.axes if ax.axison]) == 3  # the silent metric has no panel
    assert figure.axes[0].get_title(loc="left").endswith("(model's own)")


def test_bins_of_the_oracle() -> None:
    rows = [measurement(0), measurement(1, oracle=0.7 + 1e-9), measurement(1, oracle=0.69),
            measurement(3), measurement(1, oracle=math.nan)]  # fmt: skip
    bins = {name: np.flatnonzero(m).tolist() for name, m in oracle_bins(evaluation(rows)).items()}
    assert bins == {
        "consistent": [0], "slightly altered": [1], "strongly altered": [2], "other subject": [3],
    }  # fmt: skip


def test_tables_line_up() -> None:
    assert markdown_table(("a", "b"), [("x|y", "1"), ("z", "12345")]).splitlines() == [
        "| a    |     b |",
        "| ---- | ----: |",
        "| x\\|y |     1 |",
        "| z    | 12345 |",
    ]
    assert [row["metric"] for row in csv_rows(evaluation())] == [
        "vsm@0.725", "vsm@0.6", "psnr", "silent",
    ]  # fmt: skip
