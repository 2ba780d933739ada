"""The command line, with the embedded model: results, exit codes and messages."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

import vsm_fast
from vsm_fast.cli.main import ExitCode, main
from vsm_fast.images.automatic_masks import METHODS
from vsm_fast.results.scores import VSMScores
from vsm_fast.results.table import score_table
from vsm_fast.runtimes.choose import RUNTIMES


def draw(path, seed, suffix=".png"):
    """A blob with texture on a plain ground, and its mask beside it."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 255, (8, 8, 3), np.uint8)
    image = Image.fromarray(texture).resize((160, 160), Image.Resampling.BICUBIC)
    mask = Image.new("L", (160, 160))
    ImageDraw.Draw(mask).ellipse((30, 40, 120, 140), fill=255)
    ground = Image.new("RGB", (160, 160), (200, 200, 190))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.composite(image, ground, mask).save(path.with_suffix(suffix))
    mask.save(path.with_name(f"{path.stem}_mask.png"))


@pytest.fixture
def subjects(tmp_path, monkeypatch):
    """Two subjects; the first generation of each is the reference itself."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("ant", "bee")):
        draw(tmp_path / "refs" / name / "0.png", seed)
        draw(tmp_path / "gens" / name / "same.png", seed)
        draw(tmp_path / "gens" / name / "other.png", seed + 10)
    return tmp_path


FOLDERS = ("--refs", "refs", "--gens", "gens")


def test_score_prints_writes_and_draws(subjects, capsys):
    code = main(["score", *FOLDERS, "--out", "new/scores.parquet", "--heatmaps", "new/maps"])
    output = capsys.readouterr()
    table = pq.read_table("new/scores.parquet").to_pylist()
    assert [row["id"] for row in table] == [
        "ant/other.png", "ant/same.png", "bee/other.png", "bee/same.png",
    ]  # fmt: skip
    assert [row["subject"] for row in table] == ["ant", "ant", "bee", "bee"]
    for row in table:
        if row["id"].endswith("same.png"):
            assert row["status"] == "ok"
            assert row["score"] == 1.0
            assert f"{row['n_matched']}/{row['n_source']}" in output.out
        assert row["ref_mask_origin"] == row["gen_mask_origin"] == "given"
    scored = [row for row in table if row["status"] == "ok"]
    assert code == (ExitCode.OK if len(scored) == 4 else ExitCode.UNSCORED)
    maps = sorted(path.name for path in (subjects / "new/maps").iterdir())
    assert maps == sorted(f"{row['id'].replace('/', '_')}.png" for row in scored)
    assert "mean score" in output.out
    assert "new/scores.parquet" in output.out
    assert output.err == ""  # no bar: standard error is not a terminal


def test_command_and_library_agree(subjects, capsys):
    quiet = ["--out", "scores.jsonl", "--heatmaps", "maps", "--limit-heatmaps", "1", "--quiet"]
    main(["score", *FOLDERS, *quiet, "--visual-threshold", "0.5"])
    assert capsys.readouterr() == ("", "")
    assert len(list((subjects / "maps").iterdir())) == 1
    rows = [json.loads(line) for line in (subjects / "scores.jsonl").read_text().splitlines()]
    for row in rows:
        ref, gen = subjects / row["ref_id"], subjects / row["gen_id"]
        masks = [str(path.with_name(f"{path.stem}_mask.png")) for path in (ref, gen)]
        scores = vsm_fast.score_batch(
            [str(ref)], [str(gen)], ref_masks=masks[:1], gen_masks=masks[1:], visual_threshold=0.5
        )
        expected = None if np.isnan(scores.score[0]) else float(scores.score[0])
        assert row["score"] == pytest.approx(expected, abs=1e-5)
        assert row["n_source"] == scores.n_source[0]


def test_rows_without_a_score_give_exit_code_3(subjects, capsys):
    (subjects / "gens/ant/broken.png").write_bytes(b"no image")
    draw(subjects / "gens/ant/gone.png", 5)
    manifest = subjects / "pairs.csv"
    manifest.write_text(
        "id,ref,gen,ref_mask\n"
        "good,refs/ant/0.png,gens/ant/same.png,refs/ant/0_mask.png\n"
        "broken,refs/ant/0.png,gens/ant/broken.png,refs/ant/0_mask.png\n"
        "missing,refs/ant/0.png,gens/ant/nowhere.png,refs/ant/0_mask.png\n"
    )
    code = main(["score", "--manifest", "pairs.csv", "--out", "scores.csv"])
    assert code == ExitCode.UNSCORED == 3
    with (subjects / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "good": "ok", "broken": "unreadable_image", "missing": "missing_file",
    }  # fmt: skip
    assert rows["broken"]["score"] == ""
    assert rows["good"]["score"] != ""
    output = capsys.readouterr().out
    assert "without a score" in output
    assert "nowhere.png" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --refs and --gens, or --manifest"),
        (["--refs", "refs"], "give --refs and --gens, or --manifest"),
        ([*FOLDERS, "--manifest", "pairs.csv"], "leave out --refs, --gens"),
        ([*FOLDERS, "--masks", "m", "--ref-masks", "m"], "--masks is for both sides"),
        ([*FOLDERS, "--out", "scores.xlsx"], "--out must end in"),
        ([*FOLDERS, "--out", "gens.csv"], "is a folder"),
        ([*FOLDERS, "--out", "file/scores.csv"], "file"),
        ([*FOLDERS, "--limit-heatmaps", "2"], "needs --heatmaps"),
        ([*FOLDERS, "--heatmaps", "m", "--visual-threshold", "1"], "below 1"),
        (["--manifest", "p.csv", "--out", "p.csv"], "overwrite the manifest"),
        (["--refs", "refs", "--gens", "nowhere"], "nowhere does not exist"),
        ([*FOLDERS, "--device", "abacus"], "--device abacus"),
        ([*FOLDERS, "--visual-threshold", "2"], "[-1, 1]"),
        ([*FOLDERS, "--visual-threshold", "nan"], "[-1, 1]"),
        ([*FOLDERS, "--out", "job/", "--thresholds", "0.5", "x"], "--thresholds"),
        ([*FOLDERS, "--batch-size", "0"], "at least 1; got 0"),
        ([*FOLDERS, "--batch-size", "1.5"], "whole number; got '1.5'"),
        ([*FOLDERS, "--out", "job/", "--actors", "1", "1.5"], "--actors"),
        ([*FOLDERS, "--dtype", "int4"], "int4"),
        ([*FOLDERS, "--nonsense"], "--nonsense"),
        ([*FOLDERS, "--no-points"], "--no-points"),
        ([*FOLDERS, "--out"], "--out"),
        (["--gens", "gens", "--refs"], "--refs"),
        (["stray"], "stray"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(subjects, capsys, arguments, message):
    (subjects / "gens.csv").mkdir()
    (subjects / "file").write_bytes(b"")
    assert main(["score", *arguments]) == ExitCode.USAGE == 2
    output = capsys.readouterr()
    assert re.fullmatch(r"vsm-fast: error: [^\n]*\n", output.err)
    assert message in output.err
    assert output.out == ""


@pytest.mark.parametrize("arguments", [[], ["bake"], ["--nonsense"]])
def test_a_missing_or_unknown_command_is_wrong_usage(capsys, arguments):
    assert main(arguments) == ExitCode.USAGE
    assert re.fullmatch(r"vsm-fast: error: [^\n]*command[^\n]*\n", capsys.readouterr().err)


def test_the_last_of_a_repeated_option_counts(subjects):
    (subjects / "gens/bee/same.png").rename("[1].png")  # a name that is not read as JSON
    again = ["--gens", "[1].png", "--out", "a.csv", "--out", "b.csv", "-q", "-q"]
    main(["score", "--refs", "refs", "--refs", "refs/bee/0.png", "--gens", "gens", *again])
    assert not (subjects / "a.csv").exists()
    assert len((subjects / "b.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("verbose", [[], ["-v"]])
def test_missing_model_is_exit_code_4(subjects, capsys, verbose):
    assert main(["score", *FOLDERS, "--model", "./no-such-model", *verbose]) == ExitCode.MODEL == 4
    errors = capsys.readouterr().err
    assert "no-such-model" in errors
    assert ("Traceback" in errors) == bool(verbose)


def test_reader_that_goes_away_is_no_error():
    command = f"'{sys.executable}' -m vsm_fast doctor --model ./none; echo $? >&2"
    ended = subprocess.run(
        ["bash", "-c", f"({command}) | true"], capture_output=True, text=True, check=True
    )
    assert ended.stderr.strip() == str(int(ExitCode.FAILED))


def test_help_is_plain_text_of_a_fixed_width(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    for command in ("", "score", "report", "serve", "make-pairs", "train", "evaluate", "visualize",
                    "models", "convert", "doctor"):  # fmt: skip
        assert main([command, "-h"] if command else ["--help"]) == ExitCode.OK
        text = capsys.readouterr().out
        assert text.isascii()
        assert text.replace("\n", "").isprintable()
        assert 60 < max(map(len, text.splitlines())) <= 100
        for code in ExitCode:
            assert re.search(rf"^  {code:d} ", text, re.MULTILINE)
    main(["score", "--help"])
    text = capsys.readouterr().out
    assert f"--runtime {{{','.join(RUNTIMES)}}}" in text
    assert f"--mask-method {{{','.join(METHODS)}}}" in text


def test_module_runs_and_command_line_is_light():
    listing = (
        "import sys, vsm_fast.cli.main; print('torch' in sys.modules, 'diffusers' in sys.modules)"
    )
    seen = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True
    )
    assert seen.stdout.split() == ["False", "False"]
    version = subprocess.run(
        [sys.executable, "-m", "vsm_fast", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.strip() == f"vsm_fast {vsm_fast.__version__}"


def many_scores(count):
    odd = np.arange(count) % 2 == 1
    return VSMScores(
        score=np.where(odd, np.nan, 0.5).astype(np.float32),
        n_matched=np.where(odd, 0, 2), n_source=np.full(count, 4),
        status=np.where(odd, "no_semantic_match", "ok"), reason=["bad\x1b[31m\nthing"] * count,
        ref_id=["r"] * count, gen_id=["g"] * count,
        visual_similarity=np.tile(np.float32([0.9, 0.1]), (count + 1) // 2),
        offsets=np.concatenate([[0], np.cumsum(np.where(odd, 0, 2))]),
        semantic_threshold=0.7, visual_threshold=0.6, model="tiny",
        flags=["no_mask,tiny_subject" if number < 2 else "" for number in range(count - 1)]
        + ["tiny_subject"],
    )  # fmt: skip


def test_table_is_cut_aligned_and_clean():
    ids = [f"pair {i} " + "x" * (i * 3) for i in range(100)]
    text = score_table(many_scores(100), ids, ["cat"] * 60 + ["dog"] * 40)
    lines = text.splitlines()
    assert "… and 60 more" in lines
    assert "  … and 40 more" in lines
    assert len({line.index(word) for line, word in zip(lines[:3], ("score", "0.500", "-"),
                                                       strict=True)}) == 1  # fmt: skip
    assert max(map(len, lines[:41])) < 110
    assert "mean 0.500 over 50 of 100 pairs (model tiny, visual threshold 0.6)" in lines
    assert any(re.fullmatch(r"cat +0\.500 +30/60", line) for line in lines)
    assert "\x1b" not in text
    assert lines[-1] == "flags: 3 tiny_subject, 2 no_mask"
    text = score_table(many_scores(2), ["a", "b"], ["", ""])
    assert "mean score" not in text
    assert "mean 0.500 over 1 of 2 pairs" in text


def test_a_missing_extra_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("Run: pip install torchao")

    monkeypatch.setattr("vsm_fast.scorer.VSMScorer.from_pretrained", missing)
    command = ["score", "--refs", "examples/refs", "--gens", "examples/gens"]
    assert main([*command, "--dtype", "int8"]) == ExitCode.USAGE
    assert "pip install torchao" in capsys.readouterr().err
