"""``--masks auto`` on the command line, with shipped photographs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models
from PIL import Image
from pretrained_models import save_grounding_dino, save_sam

from vsm_fast.cli.inputs import MaskOptions, MaskSource
from vsm_fast.cli.main import ExitCode, main

one_thread = tiny_models.one_thread
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Two subjects; of the masks only the references' of one."""
    monkeypatch.chdir(tmp_path)
    for side in ("refs", "gens"):
        for subject in ("bear_plushie", "robot_toy"):
            shutil.copytree(EXAMPLES / side / subject, tmp_path / side / subject)
    for mask in [*tmp_path.glob("gens/*/*_mask.png"), *tmp_path.glob("refs/robot_toy/*_mask.png")]:
        mask.unlink()
    return tmp_path


FOLDERS = ("--refs", "refs", "--gens", "gens")


def scored(*arguments):
    code = main(["score", *arguments, "--device", "cpu", "--out", "scores.jsonl"])
    rows = [json.loads(line) for line in Path("scores.jsonl").read_text().splitlines()]
    return code, rows


def test_masks_are_found_where_there_are_none_and_the_table_says_so(photographs, capsys):
    Image.new("RGB", (64, 64), "grey").save("gens/robot_toy/flat.png")
    code, rows = scored(*FOLDERS, "--masks", "auto", "--mask-method", "grabcut")
    assert code == ExitCode.UNSCORED
    assert [(row["id"], row["status"], row["ref_mask_origin"], row["gen_mask_origin"])
            for row in rows] == [
        ("bear_plushie/other_photo.jpg", "ok", "given", "grabcut"),
        ("bear_plushie/repainted.jpg", "ok", "given", "grabcut"),
        ("robot_toy/flat.png", "no_subject_found", "grabcut", ""),
        ("robot_toy/other_photo.jpg", "ok", "grabcut", "grabcut"),
        ("robot_toy/repainted.jpg", "ok", "grabcut", "grabcut"),
    ]  # fmt: skip
    output = capsys.readouterr().out
    assert "masks: references 3 grabcut, 2 given; generated images 4 grabcut, 1 unknown" in output
    assert "gens/robot_toy/flat.png: grabcut found no 'robot_toy'. Pass a mask." in output


def test_a_manifest_leaves_masks_to_auto(photographs):
    Path("pairs.csv").write_text(
        "ref,gen,ref_mask\n"
        "refs/bear_plushie/reference.jpg,gens/bear_plushie/repainted.jpg,"
        "refs/bear_plushie/reference_mask.png\n"
    )
    _, (row,) = scored("--manifest", "pairs.csv", "--gen-masks", "auto")
    assert (row["ref_mask_origin"], row["gen_mask_origin"]) == ("given", "grabcut")
    assert row["status"] == "ok"


def test_the_subject_of_grounded_sam_is_its_folder_or_the_prompt(photographs, tmp_path):
    models = ("--detector-model", str(save_grounding_dino(tmp_path / "dino")),
              "--sam-model", str(save_sam(tmp_path / "sam")))  # fmt: skip
    _, rows = scored(*FOLDERS, "--masks", "auto", *models)
    assert {row["gen_mask_origin"] for row in rows} <= {"grounded-sam", ""}
    options = MaskOptions(masks="auto", detector_model=models[1], sam_model=models[3])
    found = MaskSource(replace(options, mask_prompt="toy robot"), "cpu")
    row = SimpleNamespace(subject="robot_toy", ref_mask=None, gen_mask=Path("m.png"))
    ref, gen = found.of_pair(row)
    assert (ref.subject, ref.device, gen) == ("toy robot", "cpu", Path("m.png"))
    assert MaskSource(options, "auto").of_pair(row)[0].subject == "robot_toy"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*FOLDERS, "--mask-prompt", "bear"), "--mask-prompt: only --masks auto"),
        ((*FOLDERS, "--masks", "auto", "--gen-masks", "auto"), "--masks is for both sides"),
        ((*FOLDERS, "--masks", "./auto"), "auto does not exist"),
        ((*FOLDERS, "--masks", "auto", "--mask-method", "grabcut", "--sam-model", "a/b"),
         "loads no model"),
        (("--refs", "refs/robot_toy", "--gens", "refs/robot_toy", "--masks", "auto",
          "--mask-method", "grounded-sam"), "needs the name"),
        (("--manifest", "pairs.csv", "--masks", "masks"), "leave out folders of masks"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_one_line(photographs, capsys, arguments, message):
    assert main(["score", *arguments]) == ExitCode.USAGE
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_missing_models_are_exit_code_4(photographs, capsys):
    models = ("--detector-model", "refs", "--sam-model", "refs")
    assert main(["score", *FOLDERS, "--masks", "auto", *models]) == ExitCode.MODEL
    assert "refs" in capsys.readouterr().err


def test_pictures_of_found_masks(photographs):
    code = main(["visualize", "--refs", "refs/robot_toy", "--masks", "auto", "--pca",
                 "--device", "cpu", "--out", "figures"])  # fmt: skip
    assert code == ExitCode.OK
    assert Path("figures/pca.png").exists()
