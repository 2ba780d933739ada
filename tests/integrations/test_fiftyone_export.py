"""The folder for FiftyOne, checked against the rules of its importer (release 1.22)."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vsm_fast import VSMScorer
from vsm_fast.cli.main import main
from vsm_fast.integrations.fiftyone import heatmap_pixels, to_fiftyone

EXAMPLES = Path(__file__).parents[2] / "examples"
TOYS = EXAMPLES / "gens" / "robot_toy"
REFERENCE = str(EXAMPLES / "refs" / "robot_toy" / "reference.jpg")
GENS = [str(TOYS / "repainted.jpg"), str(TOYS / "other_photo.jpg"), "/missing/image.png"]
FIELD_TYPES = {
    "fiftyone.core.fields.StringField": str,
    "fiftyone.core.fields.FloatField": float,
    "fiftyone.core.fields.IntField": int,
    "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.Heatmap)": dict,
}
OWN = {"filepath", "tags", "metadata", "_media_type"}  # fields of every FiftyOne sample


@pytest.fixture(scope="module")
def scores():
    scorer = VSMScorer.from_pretrained("tiny", device="cpu")
    masks = [str(TOYS / "repainted_mask.png"), None, None]
    found = scorer.score([REFERENCE], GENS, gen_masks=masks, heatmaps=True)
    return found.with_columns({"id": ["a", "b", "c"], "subject": ["robot_toy"] * 3})


def _read(folder):
    """Return metadata and samples after the checks of FiftyOne's importer."""
    metadata = json.loads((folder / "metadata.json").read_text())
    assert "version" not in metadata  # with it, documents of that version's database are expected
    assert metadata["media_type"] == "image"
    schema = metadata["sample_fields"]
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    for sample in samples:
        assert OWN <= set(sample) <= OWN | set(schema)
        assert (folder / sample["filepath"]).suffix in (".png", ".jpg")
        for field, kind in schema.items():
            assert re.fullmatch(r"[a-z]\w*", field)
            value = sample.get(field)
            assert value is None or type(value) is FIELD_TYPES[kind]
            if isinstance(value, dict):
                assert value["_cls"] == "Heatmap"
                # Relative paths are completed only for fields that have a folder there.
                assert value["map_path"].startswith(f"fields/{field}/")
                assert (folder / value["map_path"]).is_file()
    return metadata, samples


def test_a_folder_has_a_sample_a_pair(scores, tmp_path):
    to_fiftyone(scores, tmp_path / "new", name="toys")
    metadata, samples = _read(tmp_path / "new")
    assert metadata["name"] == "toys"
    assert metadata["info"]["vsm"]["model"] == "tiny"
    assert [sample["filepath"] for sample in samples] == GENS
    assert [sample["vsm_id"] for sample in samples] == ["a", "b", "c"]
    assert [sample["tags"] for sample in samples] == [[], [], ["vsm_undefined"]]
    assert samples[0]["vsm_score"] == pytest.approx(float(scores.score[0]))
    assert samples[0]["vsm_reference"] == REFERENCE
    assert samples[2]["vsm_score"] is None
    assert samples[2]["vsm_status"] == "missing_file"
    assert "vsm_heatmap" not in samples[2]


def test_a_heat_map_is_zero_off_the_subject_and_nowhere_else(scores, tmp_path):
    to_fiftyone(scores, tmp_path)
    drawn = np.asarray(Image.open(tmp_path / "fields" / "vsm_heatmap" / "000000.png"))
    heat = scores.heatmap(0)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn == 0, np.isnan(heat))
    on = ~np.isnan(heat)
    np.testing.assert_allclose((drawn[on] - 1.0) / 254, heat[on], atol=0.5 / 254 + 1e-6)
    ends = heatmap_pixels(np.array([[0, 1, np.nan]], np.float32))
    assert ends.tolist() == [[1, 255, 0]]


def test_a_copied_folder_can_be_moved(scores, tmp_path):
    to_fiftyone(scores, tmp_path / "here", copy_images=True)
    shutil.move(tmp_path / "here", tmp_path / "there")
    _, samples = _read(tmp_path / "there")
    copied = tmp_path / "there" / samples[0]["filepath"]
    assert copied.read_bytes() == Path(GENS[0]).read_bytes()
    assert samples[2]["filepath"] == GENS[2]


def test_images_without_a_file_are_written(tmp_path):
    image = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    scores = VSMScorer.from_pretrained("tiny", device="cpu").score([image], [image])
    with pytest.raises(ValueError, match=r"images=\[\.\.\.\]"):
        to_fiftyone(scores, tmp_path / "a")
    with pytest.raises(ValueError, match="one per pair, 1; got 2"):
        to_fiftyone(scores, tmp_path / "a", [image, image])
    assert not (tmp_path / "a").exists()
    to_fiftyone(scores, tmp_path / "a", [image])
    metadata, samples = _read(tmp_path / "a")
    assert "vsm_heatmap" not in metadata["sample_fields"]
    written = Image.open(tmp_path / "a" / samples[0]["filepath"])
    assert written.size == (32, 24)


def test_no_pair_gives_an_empty_data_set(tmp_path):
    scores = VSMScorer.from_pretrained("tiny", device="cpu").score([REFERENCE], [])
    to_fiftyone(scores, tmp_path)
    assert _read(tmp_path)[1] == []


def test_a_folder_with_something_in_it_is_left_alone(scores, tmp_path):
    (tmp_path / "samples.json").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        to_fiftyone(scores, tmp_path)
    assert (tmp_path / "samples.json").read_text() == "mine"


def test_the_command_writes_it(tmp_path, capsys):
    out = tmp_path / "fiftyone"
    arguments = ["score", "--refs", REFERENCE, "--gens", GENS[0], "--fiftyone", str(out)]
    assert main(arguments) == 0
    assert f"FiftyOne data set: {out}" in capsys.readouterr().out
    _, samples = _read(out)
    assert samples[0]["filepath"] == GENS[0]
    assert samples[0]["vsm_heatmap"]
    assert main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "other"), "--visual-threshold", "1"]) == 2
    assert "below 1" in capsys.readouterr().err
