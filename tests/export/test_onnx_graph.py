"""Exported graphs: valid, folded, checked against torch, complete or not there."""

from __future__ import annotations

import json
from collections import Counter

import onnx
import pytest
import tiny_models
import torch
from tiny_models import aggregation_pair, condition_unet, config_of, context, small_vae

from benchmarks.flops import operations_per_image
from vsm_fast import ModelError
from vsm_fast.export.build_onnx import main
from vsm_fast.export.onnx_check import check_graph
from vsm_fast.export.onnx_graph import ExportOptions, export_onnx
from vsm_fast.export.trt_dry_run import graph_facts
from vsm_fast.model.load import load_model
from vsm_fast.model.save import save_model
from vsm_fast.runtimes.exported import ONNX, RECORD, BatchRange, read_record, verify_graph

one_thread = tiny_models.one_thread


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model laid out like SD 2.1's."""
    folder = tmp_path_factory.mktemp("model") / "model"
    config = config_of(("us3", "us8"), 64, pixel_unshuffle=1)
    save_model(
        folder, config, condition_unet(), *aggregation_pair((16, 8)), torch.float32,
        vae=small_vae(), conditioning={"encoder_hidden_states": context()},
    )  # fmt: skip
    return str(folder)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "exported"
    options = ExportOptions(batch=BatchRange(1, 4, 8))
    return out, export_onnx(model, out, options)


def test_the_record_says_what_was_exported(exported, model):
    out, record = exported
    assert read_record(out) == record
    assert {path.name for path in out.iterdir()} == {ONNX, RECORD}
    assert verify_graph(out, record) == out / ONNX
    config, _ = load_model(model)
    assert record.model == config
    assert {"vsm_fast", "torch", "onnx", "onnxscript"} == set(record.versions)


def test_the_file_alone_says_what_it_is(exported, model):
    graph = onnx.load(exported[0] / ONNX)
    said = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(said["config"])["thresholds"] == {"semantic": 0.7, "visual": 0.6}
    assert said["precision"] == "float32"
    assert len(said["weights"]) == 64
    batch, *rest = graph.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [size.dim_value for size in rest] == [3, 64, 64]


def test_nothing_constant_is_left_to_compute(exported, model):
    """No time embedding, no prompt, no strided writes, no second copy of a weight."""
    graph = onnx.load(exported[0] / ONNX).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert not {"Sin", "Cos", "ScatterND", "If", "Loop"} & set(kinds), kinds
    given = {value.name for value in graph.initializer}
    constant = [n.op_type for n in graph.node if n.input and set(n.input) <= given]
    assert not constant
    parameters = sum(parameter.numel() for parameter in load_model(model)[1].parameters())
    stored = sum(
        onnx.numpy_helper.to_array(v).size
        for v in graph.initializer
        if v.data_type == onnx.TensorProto.FLOAT
    )
    assert stored < 1.05 * parameters + 2000


@pytest.mark.parametrize("wrong", ["other weights", "a batch it does not take", "not ONNX"])
def test_a_graph_that_computes_something_else_is_not_built(exported, model, tmp_path, wrong):
    _, network = load_model(model)
    options = ExportOptions(batch=BatchRange(1, 4, 8))
    path = exported[0] / ONNX
    if wrong == "other weights":
        network.visual.mixing_weights.data.add_(torch.tensor([0.0, 3.0]))
    elif wrong == "not ONNX":
        path = tmp_path / ONNX
        path.write_bytes((exported[0] / ONNX).read_bytes()[:-100])
    else:
        network.semantic.forward = lambda levels: levels[0]
    with pytest.raises(ModelError, match=r"inaccurate|not valid ONNX|torch gives"):
        check_graph(path, network, options)
    if wrong == "other weights":
        check_graph(exported[0] / ONNX, load_model(model)[1], options)


def test_an_interrupted_export_leaves_nothing(small_model, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vsm_fast.export.onnx_graph.to_onnx", interrupted)
    assert main(["--model", small_model, "--out", str(tmp_path / "out")]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_as_it_is(small_model, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelError, match="Choose a new folder"):
        export_onnx(small_model, tmp_path)
    assert (tmp_path / "notes.txt").exists()


def test_a_fixed_batch_and_float16(small_model, tmp_path):
    options = ExportOptions("float16", BatchRange(2, 2, 2))
    record = export_onnx(small_model, tmp_path / "out", options)
    graph = onnx.load(tmp_path / "out" / ONNX).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert (record.precision, record.batch.static) == ("float16", True)
    counted = graph_facts(tmp_path / "out" / ONNX).operations
    assert counted == operations_per_image(load_model(small_model)[1], 32)
    assert any(v.data_type == onnx.TensorProto.FLOAT16 for v in graph.initializer)
    other = export_onnx(
        small_model, tmp_path / "out", ExportOptions("bfloat16", BatchRange(2, 2, 2))
    )
    assert read_record(tmp_path / "out") == other


def test_the_command(small_model, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--model", small_model, "--out", str(out), "--dynamic", "1:2:4", "--fuse-matching"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"wrote {out}" in said
    assert f"vsm-fast score --model {out}" in said
    assert "graph of the scores" in said
    record = read_record(out)
    assert record.batch == BatchRange(1, 2, 4)
    assert set(record.files) == {ONNX, "scores.onnx"}
    assert verify_graph(out, record)
    assert main(["--model", str(tmp_path / "absent"), "--out", str(out)]) == 4
    assert "no model" in capsys.readouterr().err
    assert main(["--model", small_model, "--out", str(tmp_path / "old"), "--opset", "5"]) == 4
    assert "cannot be exported in operator set 5" in capsys.readouterr().err
    assert not (tmp_path / "old").exists()
    for batch in ("4:2:1", "1:2", "x"):
        with pytest.raises(SystemExit):
            main(["--model", small_model, "--out", str(out), "--dynamic", batch])
        assert "LEAST <= BEST <= MOST" in capsys.readouterr().err
