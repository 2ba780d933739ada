"""``vsm-fast rank`` and ``vsm-fast compare``: outputs, exit codes and messages."""

import json
from pathlib import Path

import pytest
from report_tables import made_scores

from vsm_fast.cli.main import ExitCode, main
from vsm_fast.cli.rank import _FORMATS
from vsm_fast.report import read_results
from vsm_fast.report.ranking import DRAWS, compare, rank
from vsm_fast.report.ranking_tables import FORMATS, as_text


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two files of results of the same pairs, in the current folder."""
    monkeypatch.chdir(tmp_path)
    made_scores(30, points=20).to_parquet("a.parquet")
    made_scores(30, points=20, seed=1).to_csv("b.csv")


def test_rank_prints_and_writes(results, capsys):
    outputs = [f"new/table{suffix}" for suffix in FORMATS]
    assert main(["rank", "a.parquet", "--out", *outputs]) == ExitCode.OK
    printed = capsys.readouterr()
    expected = rank(read_results("a.parquet"))
    assert printed.out == f"{as_text(expected)}\n\nwritten: {', '.join(outputs)}\n"
    assert printed.err == ""
    for word in ("generator", "sdxl", "flux", "95 % interval", "no_semantic_match", "tiny_subject",
                 "3 pairs without a score", "2,000 resamples"):  # fmt: skip
        assert word in printed.out
    groups = json.loads(Path(outputs[2]).read_text())["groups"]
    assert [group["name"] for group in groups] == [group.name for group in expected.groups]
    assert main(["rank", "a.parquet", "--by", "subject", "--resamples", "50", "--seed", "3"]) == 0
    assert "50 resamples, seed 3" in capsys.readouterr().out
    assert main(["rank", "a.parquet", "--out", "again.md", "-q"]) == ExitCode.OK
    assert capsys.readouterr().out == ""


def test_compare_prints_and_writes(results, capsys):
    assert main(["compare", "a.parquet", "b.csv", "--out", "c.md", "c.png"]) == ExitCode.OK
    printed = capsys.readouterr().out
    expected = compare(read_results("a.parquet"), read_results("b.csv"))
    assert printed == f"{as_text(expected)}\n\nwritten: c.md, c.png\n"
    assert "matched by subject and id" in printed
    assert main(["compare", "a.parquet", "b.csv", "--on", "gen_id"]) == ExitCode.OK
    assert "matched by gen_id" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rank", "none.parquet"], "does not exist"),
        (
            ["rank", "a.parquet", "--by", "prompt"],
            "no column 'prompt' to rank by. Its columns: id,",
        ),
        (["rank", "a.parquet", "--on", "seed"], "no column 'seed' to match images by"),
        (["rank", "a.parquet", "--out", "t.txt"], "must end in .md, .csv, .json, .png; got t.txt"),
        (["rank", "a.parquet", "--out", "."], "must end in"),
        (["rank", "a.parquet", "--seed", "-1"], "expected a whole number"),
        (["compare", "a.parquet", "b.csv", "--on", "seed"], "A has no column 'seed'"),
        (["compare", "a.parquet", "b.csv", "--out", "a.parquet/t.md"], "--out must be a folder"),
    ],
)
def test_wrong_usage(results, capsys, arguments, message):
    assert main(arguments) == ExitCode.USAGE
    assert message in capsys.readouterr().err


def test_a_figure_without_matplotlib_names_the_extra(results, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert main(["rank", "a.parquet", "--out", "t.md", "t.png"]) == ExitCode.USAGE
    assert "pip install '.[lab]'" in capsys.readouterr().err


def test_constants_of_the_parser_are_those_of_the_library():
    assert _FORMATS == FORMATS
    assert DRAWS == 2000  # the help text's default
