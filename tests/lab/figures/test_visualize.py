"""``vsm-fast visualize`` with the embedded model: files, notes, exit codes and messages."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from PIL import Image
from subject_views import subject_image
from tiny_models import one_thread  # noqa: F401 (used by all tests here)

from vsm_fast.cli.main import ExitCode, main
from vsm_fast.lab.figures import views


@pytest.fixture(autouse=True)
def small_drawings(monkeypatch):
    monkeypatch.setattr(views, "DRAWN_SIDE", 90)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A reference and two generations with masks beside them."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("refs/0.png", 0), ("gens/0.png", 0), ("gens/1.png", 1)):
        save(tmp_path / name, seed)
    return tmp_path


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels, mask = subject_image(seed)
    Image.fromarray(pixels).save(path)
    Image.fromarray(mask).save(path.with_name(f"{path.stem}_mask.png"))


SIDES = ("--refs", "refs", "--gens", "gens", "--out", "out")


def written(folder):
    return sorted(path.name for path in (folder / "out").iterdir())


def test_all_figures(folder, capsys):
    assert main(["visualize", *SIDES, "--crop"]) == ExitCode.OK
    wanted = ["matches_1.png", "matches_2.png", "mixing.png", "overview.png", "pca.png",
              "segments.png"]  # fmt: skip
    assert written(folder) == wanted
    output = capsys.readouterr()
    assert sorted(output.out.split()) == [f"out/{name}" for name in wanted]
    assert output.err == ""
    for name in wanted:
        with Image.open(folder / "out" / name) as image:
            assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (["--pca"], ["pca.png"]),
        (["--segments", "--clusters", "2", "--seed", "5"], ["segments.png"]),
        (["--matches", "--max-matches", "4"], ["matches_1.png", "matches_2.png"]),
        (["--pca", "--mixing"], ["mixing.png", "overview.png", "pca.png"]),
    ],
)
def test_what_is_asked_for(folder, capsys, asked, wanted):
    assert main(["visualize", *SIDES, *asked, "--quiet"]) == ExitCode.OK
    assert written(folder) == wanted
    assert capsys.readouterr() == ("", "")


def test_one_image_has_no_matches(folder, capsys):
    assert main(["visualize", "--refs", "refs/0.png", "--out", "out"]) == ExitCode.OK
    assert written(folder) == ["mixing.png", "overview.png", "pca.png", "segments.png"]
    assert "without --gens" in capsys.readouterr().err


def test_mixing_alone_needs_no_image(folder):
    assert main(["visualize", "--mixing", "--out", "out"]) == ExitCode.OK
    assert written(folder) == ["mixing.png"]


def test_more_generations_than_the_overview_has_room_for(folder, capsys):
    for number in range(2, 6):
        save(folder / f"gens/{number}.png", number)
    assert main(["visualize", *SIDES, "--pca", "--mixing"]) == ExitCode.OK
    assert "overview.png has room for 5 of the 7 images" in capsys.readouterr().err


def test_a_pair_without_matches_is_exit_code_3(folder, capsys):
    arguments = ["--matches", "--semantic-threshold", "1", "--gens", "gens/1.png"]
    assert main(["visualize", *SIDES, *arguments]) == ExitCode.UNSCORED == 3
    assert written(folder) == ["matches_1.png"]
    assert "no point of gens/1.png" not in (errors := capsys.readouterr().err)
    assert "no point of 1.png matches 0.png" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "out"], "give --refs"),
        (["--out", "out", "--mixing", "--gens", "gens"], "give --refs"),
        (["--refs", "refs", "--out", "out", "--matches"], "give --gens"),
        ([*SIDES, "--masks", "m", "--gen-masks", "m"], "--masks is for both sides"),
        ([*SIDES, "--clusters", "10"], "only 9 colours can be told apart; got 10"),
        (["--refs", "nowhere", "--out", "out"], "nowhere does not exist"),
        (["--refs", "both", "--out", "out"], "one subject at a time; got sub-folders for 2"),
        (["--refs", "refs", "--out", "refs/0.png"], "--out"),
        ([*SIDES, "--device", "abacus"], "--device abacus"),
        (["--refs", "broken.png", "--out", "out", "--pca"], "broken.png"),
        (["--refs", "empty.png", "--out", "out", "--pca"], "marks no pixel"),
        (["--refs", "small.png", "--out", "out", "--pca"], "at least 4 points"),
        (["--refs", "small.png", "--out", "out", "--segments"], "6 segments need"),
    ],
)
def test_wrong_inputs_are_one_line_and_exit_code_2(folder, capsys, arguments, message):
    (folder / "broken.png").write_bytes(b"no image")
    for name, value in (("empty", 0), ("small", 255)):
        Image.new("RGB", (240, 230), (90, 10, 10)).save(folder / f"{name}.png")
        mask = np.zeros((230, 240), np.uint8)
        mask[0, 0] = mask[-1, -1] = value  # two cells
        Image.fromarray(mask).save(folder / f"{name}_mask.png")
    for subject in ("one", "two"):
        save(folder / "both" / subject / "0.png", 0)
    assert main(["visualize", *arguments]) == ExitCode.USAGE == 2
    errors = capsys.readouterr().err
    assert re.fullmatch(r"vsm-fast: error: [^\n]*\n", errors)
    assert message in errors
    assert not list(folder.glob("out/*"))


def test_too_many_images(folder, capsys):
    for number in range(17):
        save(folder / f"many/{number}.png", number)
    assert main(["visualize", "--refs", "many", "--out", "out"]) == ExitCode.USAGE
    assert "17 images" in capsys.readouterr().err


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
    from vsm_fast.lab.figures import page

    def stopped(*of: object, **settings: object) -> None:
        raise KeyboardInterrupt

    main(["visualize", *SIDES, "--mixing", "--quiet"])
    before = (folder / "out/mixing.png").read_bytes()
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", stopped)
    assert page.DPI == 200
    assert main(["visualize", *SIDES, "--mixing"]) == ExitCode.INTERRUPTED
    assert written(folder) == ["mixing.png"]
    assert (folder / "out/mixing.png").read_bytes() == before


@pytest.mark.parametrize(
    "arguments", [["--clusters", "0"], ["--seed", "-1"], ["--max-matches", "x"]]
)
def test_wrong_options_have_exit_code_2(folder, arguments):
    assert main(["visualize", *SIDES, *arguments]) == ExitCode.USAGE


def test_names_are_as_short_as_tells_them_apart():
    from pathlib import Path

    from vsm_fast.cli.visualize import _names

    assert _names([Path("a/x.png"), Path("b/y.png")]) == ["x.png", "y.png"]
    assert _names([Path("a/x.png"), Path("b/x.png")]) == ["a/x.png", "b/x.png"]
    assert _names([Path("a/x.png"), Path("a/x.png")]) == ["x.png", "x.png"]
