"""Records of exported models: round trip and integrity checks."""

import hashlib
import json

import pytest
from tiny_models import config_of

from vsm_fast import ModelError
from vsm_fast.runtimes.exported import (
    ONNX,
    RECORD,
    BatchRange,
    ExportRecord,
    is_exported,
    read_record,
    verify_graph,
)

CONFIG = config_of(mask_reduction="any")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / ONNX).write_bytes(b"graph")
    digest = hashlib.sha256(b"graph").hexdigest()
    record = ExportRecord(
        CONFIG, "float32", BatchRange(1, 8, 32), 20, {"torch": "2.13.0"}, {ONNX: digest}
    )
    assert not is_exported(tmp_path)
    record.write(tmp_path)
    return tmp_path


def test_a_record_is_read_as_it_was_written(folder):
    assert is_exported(folder)
    record = read_record(folder)
    assert record.model == CONFIG
    assert (record.batch, record.precision, record.opset) == (BatchRange(1, 8, 32), "float32", 20)
    assert not record.batch.static
    assert BatchRange(4, 4, 4).static
    assert verify_graph(folder, record) == folder / ONNX


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 4), (1, 8, 4)])
def test_batch_sizes_in_a_wrong_order_are_refused(sizes):
    with pytest.raises(ValueError, match="least <= best <= most"):
        BatchRange(*sizes)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(format="other/1"),
        lambda content: content.pop("batch"),
        lambda content: content.update(batch={"least": 3, "best": 2, "most": 1}),
        lambda content: content["batch"].update(extra=1),
        lambda content: content.update(files=["model.onnx"]),
        lambda content: content["model"].pop("backbone"),
    ],
)
def test_a_wrong_record_names_the_file_and_the_command(folder, change):
    content = json.loads((folder / RECORD).read_text())
    change(content)
    (folder / RECORD).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"export\.json"):
        read_record(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "null"])
def test_something_else_in_the_record_is_an_error(folder, text):
    (folder / RECORD).write_text(text)
    with pytest.raises(ModelError, match=r"does not describe an exported model.*build_onnx"):
        read_record(folder)


def test_a_file_of_the_graph_without_a_hash_is_refused(folder):
    (folder / f"{ONNX}.data").write_bytes(b"weights")
    with pytest.raises(ModelError, match=r"no sha256 for \['model.onnx.data'\]"):
        verify_graph(folder, read_record(folder))


def test_altered_missing_and_escaping_files_are_refused(folder):
    record = read_record(folder)
    (folder / ONNX).write_bytes(b"grapH")
    with pytest.raises(ModelError, match="altered or cut off"):
        verify_graph(folder, record)
    (folder / ONNX).unlink()
    with pytest.raises(ModelError, match="is not a file in it"):
        verify_graph(folder, record)
    content = json.loads((folder / RECORD).read_text())
    content["files"]["../outside"] = "0"
    (folder / RECORD).write_text(json.dumps(content))
    (folder / ONNX).write_bytes(b"graph")
    with pytest.raises(ModelError, match="is not a file in it"):
        verify_graph(folder, read_record(folder))
