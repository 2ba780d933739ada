"""``vsm-fast visualize`` with the embedded model: files, notes, exit codes and messages."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from subject_views import subject_image
from tiny_models import one_thread  # noqa: F401 (used by all tests here)

from vsm_fast.cli.main import ExitCode, main
from vsm_fast.cli.visualize import _names
from vsm_fast.lab.figures import figures, views

SIDES = ("--refs", "refs", "--gens", "gens", "--out", "out")


@pytest.fixture(autouse=True)
def small_drawings(monkeypatch):
    monkeypatch.setattr(views, "DRAWN_SIDE", 90)
    monkeypatch.setattr(figures, "_DPI", 40)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A reference and two generated images with masks beside them."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("refs/0.png", 0), ("gens/0.png", 0), ("gens/1.png", 1)):
        save(tmp_path / name, seed)
    return tmp_path


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels, mask = subject_image(seed)
    Image.fromarray(pixels).save(path)
    Image.fromarray(mask).save(path.with_name(f"{path.stem}_mask.png"))


def written(folder):
    return sorted(path.stem for path in (folder / "out").glob("*.png"))


def test_all_figures(folder, capsys):
    assert main(["visualize", *SIDES, "--crop"]) == ExitCode.OK
    assert written(folder) == ["matches_1", "matches_2", "mixing", "overview", "pca", "segments"]
    output = capsys.readouterr()
    assert sorted(output.out.split()) == [f"out/{name}.png" for name in written(folder)]
    assert output.err == ""
    for name in written(folder):
        with Image.open(folder / "out" / f"{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize(
    ("arguments", "expected", "note"),
    [
        ([*SIDES, "--segments", "--clusters", "2", "--seed", "5"], ["segments"], ""),
        ([*SIDES, "--matches", "--max-matches", "4"], ["matches_1", "matches_2"], ""),
        (["--refs", "refs/0.png", "--out", "out"], ["mixing", "overview", "pca", "segments"],
         "without --gens"),
        (["--mixing", "--out", "out"], ["mixing"], ""),
    ],
)  # fmt: skip
def test_selected_figures(folder, capsys, arguments, expected, note):
    assert main(["visualize", *arguments]) == ExitCode.OK
    assert written(folder) == expected
    assert note in capsys.readouterr().err


def test_more_generated_images_than_the_overview_shows(folder, capsys):
    for number in range(2, 6):
        save(folder / f"gens/{number}.png", number)
    assert main(["visualize", *SIDES, "--pca", "--mixing"]) == ExitCode.OK
    assert written(folder) == ["mixing", "overview", "pca"]
    assert "overview.png has room for 5 of the 7 images" in capsys.readouterr().err


def test_quiet(folder, capsys):
    assert main(["visualize", "--mixing", "--out", "out", "--quiet"]) == ExitCode.OK
    assert capsys.readouterr() == ("", "")


def test_a_pair_without_matches_is_exit_code_3(folder, capsys):
    arguments = ["--matches", "--semantic-threshold", "1", "--gens", "gens/1.png"]
    assert main(["visualize", *SIDES, *arguments]) == ExitCode.UNSCORED == 3
    assert written(folder) == ["matches_1"]
    assert "no point of 1.png matches 0.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "out"], "give --refs"),
        (["--out", "out", "--mixing", "--gens", "gens"], "give --refs"),
        (["--refs", "refs", "--out", "out", "--matches"], "give --gens"),
        ([*SIDES, "--masks", "m", "--gen-masks", "m"], "--masks is for both sides"),
        ([*SIDES, "--clusters", "10"], "9 colours .* got 10"),
        (["--refs", "nowhere", "--out", "out"], "nowhere does not exist"),
        (["--refs", "both", "--out", "out"], "one subject at a time.* 2"),
        (["--refs", "refs", "--out", "refs/0.png"], "--out"),
        ([*SIDES, "--device", "abacus"], "--device abacus"),
        (["--refs", "broken.png", "--out", "out", "--pca"], "broken.png"),
        (["--refs", "empty.png", "--out", "out", "--pca"], "marks no pixel"),
        (["--refs", "small.png", "--out", "out", "--pca"], "at least 4 points"),
        (["--refs", "small.png", "--out", "out", "--segments"], "6 segments need"),
        (["--refs", "many", "--out", "out"], "17 images"),
    ],
)
def test_wrong_inputs_are_one_line_and_exit_code_2(folder, capsys, arguments, message):
    (folder / "broken.png").write_bytes(b"no image")
    for name, value in (("empty", 0), ("small", 255)):
        Image.new("RGB", (240, 230), (90, 10, 10)).save(folder / f"{name}.png")
        mask = np.zeros((230, 240), np.uint8)
        mask[0, 0] = mask[-1, -1] = value  # two cells
        Image.fromarray(mask).save(folder / f"{name}_mask.png")
    for name in ("both/one/0", "both/two/0", *(f"many/{n}" for n in range(17))):
        if name.split("/")[0] in arguments:
            save(folder / f"{name}.png", 0)
    assert main(["visualize", *arguments]) == ExitCode.USAGE == 2
    errors = capsys.readouterr().err
    assert re.fullmatch(r"vsm-fast: error: [^\n]*\n", errors)
    assert re.search(message, errors)
    assert not list(folder.glob("out/*"))


@pytest.mark.parametrize("package", ["matplotlib", "sklearn"])
def test_a_missing_package_names_the_extra(folder, capsys, monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["visualize", *SIDES]) == ExitCode.USAGE
    errors = capsys.readouterr().err
    assert "pip install '.[lab]'" in errors
    assert package in errors
    assert not (folder / "out").exists()


def test_an_interrupted_run_leaves_whole_files(folder, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    arguments = ["visualize", "--mixing", "--out", "out"]
    main(arguments)
    before = (folder / "out/mixing.png").read_bytes()
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", interrupt)
    assert main(arguments) == ExitCode.INTERRUPTED
    assert [path.name for path in (folder / "out").iterdir()] == ["mixing.png"]
    assert (folder / "out/mixing.png").read_bytes() == before


@pytest.mark.parametrize(
    "arguments", [["--clusters", "0"], ["--seed", "-1"], ["--max-matches", "x"]]
)
def test_wrong_options_have_exit_code_2(folder, arguments):
    assert main(["visualize", *SIDES, *arguments]) == ExitCode.USAGE


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.png", "b/y.png"], ["x.png", "y.png"]),
        (["a/x.png", "b/x.png"], ["a/x.png", "b/x.png"]),
        (["a/x.png", "a/x.png"], ["x.png", "x.png"]),
    ],
)
def test_names_are_the_shortest_distinct_ends_of_paths(paths, names):
    assert _names([Path(path) for path in paths]) == names
