"""A few hundred damaged files of mutate_images.py; its command reads any number."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from io import StringIO
from unittest.mock import Mock

import mutate_images as fuzz
import pytest

SEED = 7


@pytest.fixture(scope="module")
def whole():
    return fuzz.seeds()


def test_whole_files_load(whole, tmp_path):
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
        assert fuzz.outcome(tmp_path / name) == fuzz.Outcome("loaded"), name


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("count", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_files_load_or_are_refused(whole, tmp_path, capfd, count):
    kinds, bad = Counter(), []
    for number in range(count):
        name, content = fuzz.mutated(whole, SEED, number)
        (tmp_path / "image").write_bytes(content)
        found = fuzz.outcome(tmp_path / "image")
        kinds[found.kind] += 1
        if found.bad:
            bad.append((number, name, found.kind))
    capfd.readouterr()  # libtiff reports each damaged TIFF
    assert not bad
    assert kinds["loaded"] > 0.1 * count  # some damage goes unnoticed,
    assert kinds["unreadable_image"] > 0.4 * count  # most does not


def test_a_number_is_the_same_file_each_time(whole):
    assert fuzz.mutated(whole, 1, 5) == fuzz.mutated(whole, 1, 5)
    assert fuzz.mutated(whole, 1, 5) != fuzz.mutated(whole, 2, 5)


def test_unhandled_files_are_reported(monkeypatch, whole, tmp_path):
    (tmp_path / "image").write_bytes(whole["png"])
    monkeypatch.setattr("vsm_fast.images.loading.load_image", lambda path: 1 / 0)
    assert fuzz.outcome(tmp_path / "image") == fuzz.Outcome(
        "ZeroDivisionError: division by zero", bad=True
    )
    monkeypatch.undo()
    monkeypatch.setattr(fuzz, "CPU_SECONDS", 0.0)
    assert fuzz.outcome(tmp_path / "image").bad


def test_a_crashed_reader_is_reported_and_restarted(monkeypatch, capsys):
    answers = [[0, 1], [3]]  # the first reader dies at number 2

    class Reader:
        def __init__(self, command, **_):
            start = int(command[command.index("--start") + 1])
            lines = [json.dumps({"number": number, "kind": "loaded", "bad": False, "peak": 0})
                     for number in answers.pop(0)]  # fmt: skip
            assert start in (0, 3)
            self.stdout = StringIO("".join(f"{line}\n" for line in lines))

        kill = wait = Mock(return_value=0)

    monkeypatch.setattr(subprocess, "Popen", Reader)
    monkeypatch.setattr(sys, "argv", ["mutate_images.py", "--count", "4"])
    assert fuzz.main() == 1
    output = capsys.readouterr().out
    assert "3 loaded" in output
    assert "not handled: number 2" in output
