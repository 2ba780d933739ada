"""Graphs in 8 bits: calibrated with photographs, compared with torch, or refused."""

import contextlib
import io

import onnx
import pytest
from tiny_models import config_of

from vsm_fast import ModelError, VSMScorer
from vsm_fast.export import onnx_int8
from vsm_fast.export.build_onnx import main
from vsm_fast.export.onnx_int8 import calibration_images, check_quantized
from vsm_fast.model.load import load_model
from vsm_fast.runtimes.exported import ONNX, read_record

PHOTOS = "examples/refs"


@pytest.fixture(scope="module")
def photos(pytestconfig):
    return pytestconfig.rootpath / PHOTOS


@pytest.fixture(scope="module")
def exported(small_model, photos, tmp_path_factory):
    """An export by the command, and its output."""
    out = tmp_path_factory.mktemp("int8") / "exported"
    command = ["--model", small_model, "--out", str(out), "--dynamic", "1:2:4"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([*command, "--dtype", "int8", "--calibration", str(photos)]) == 0
    return out, said.getvalue()


def test_convolutions_are_in_8_bits_and_the_graph_still_says_what_it_is(exported):
    out, said = exported
    model = onnx.load(out / ONNX)
    weights = [v for v in model.graph.initializer if v.data_type == onnx.TensorProto.INT8]
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(weights) >= len(convolutions) > 3
    assert {"model", "weights", "config"} <= {entry.key for entry in model.metadata_props}
    assert read_record(out).precision == "int8"
    assert {path.name for path in out.iterdir()} == {ONNX, "export.json"}
    assert "quantising with 3 photographs" in said
    assert "mean cosine" in said


def test_it_scores_nearly_as_the_model_does(exported, small_model, photos):
    images = sorted(photos.glob("*/reference.jpg"))
    int8, plain = VSMScorer.from_pretrained(exported[0]), VSMScorer.from_pretrained(small_model)
    assert (int8.runtime.name, int8.runtime.precision) == ("onnxruntime", "int8")
    found, wanted = (one.describe(images).visual for one in (int8, plain))
    cosines = (found * wanted).sum(1)
    assert 0.99 < float(cosines.mean()) < 1 - 1e-6


def test_calibration_sees_what_scoring_sees(photos):
    images = calibration_images(photos, config_of())
    assert [tuple(image.shape) for image in images] == [(1, 3, 32, 32)] * 3
    assert -1 <= min(float(image.min()) for image in images) < 0


def test_a_network_for_which_8_bits_are_too_few_is_refused(exported, small_model, photos):
    config, network = load_model(small_model)
    images = calibration_images(photos, config)
    assert check_quantized(exported[0] / ONNX, network, images) > onnx_int8.LEAST_MEAN_COSINE
    visual = network.visual
    network.semantic.forward = lambda levels: visual(levels).roll(1, 1)
    with pytest.raises(ModelError, match="8 bits are too few"):
        check_quantized(exported[0] / ONNX, network, images)


def test_wrong_usage(small_model, photos, tmp_path, capsys):
    common = ["--model", small_model, "--out", str(tmp_path / "out"), "--dynamic", "1:2:4"]
    calibrated = [*common, "--dtype", "int8", "--calibration"]
    assert main([*calibrated, str(tmp_path)]) == 4
    assert "no photographs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for wrong in (["--dtype", "int8"], ["--calibration", str(photos)]):
        with pytest.raises(SystemExit):
            main([*common, *wrong])
        assert "needs --calibration DIR" in capsys.readouterr().err


def test_the_scorer_says_how_such_a_graph_is_made(small_model):
    with pytest.raises(ValueError, match="--calibration"):
        VSMScorer.from_pretrained(small_model, runtime="onnxruntime", dtype="int8")
