"""Repositories for the Triton Inference Server, read by a protobuf with its fields."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from google.protobuf.text_format import ParseError
from server_model_config import parse as parsed

from vsm_fast import ModelError
from vsm_fast.export.triton_repository import config_text, write_repository
from vsm_fast.runtimes.exported import BatchRange, ExportRecord, read_record


def test_what_the_server_does_not_know_does_not_parse() -> None:
    for wrong in ('nome: "a"', "input [ { data_type: TYPE_FP33 } ]", 'max_batch_size: "4"'):
        with pytest.raises(ParseError):
            parsed(wrong)


@pytest.fixture
def record(small_export: Path) -> ExportRecord:
    found = read_record(small_export)
    model = dataclasses.replace(found.model, name="a model / of mine")
    return dataclasses.replace(found, batch=BatchRange(1, 3, 4), model=model)


def test_the_server_understands_a_range_of_batches(record: ExportRecord) -> None:
    config = parsed(config_text(record, plan=True))
    assert (config.name, config.platform) == ("a_model_of_mine", "tensorrt_plan")
    assert config.max_batch_size == 4
    assert list(config.dynamic_batching.preferred_batch_size) == [3]
    (image,), outputs = config.input, config.output
    assert (image.name, list(image.dims)) == ("images", [3, 32, 32])
    wanted = {"semantic": [16, 6, 6], "visual": [16, 6, 6]}
    assert {output.name: list(output.dims) for output in outputs} == wanted
    assert {tensor.data_type for tensor in (image, *outputs)} == {11}  # TYPE_FP32
    assert config.instance_group[0].kind == 1  # KIND_GPU


def test_a_fixed_batch_is_a_dimension(record: ExportRecord) -> None:
    fixed = dataclasses.replace(record, batch=BatchRange(4, 4, 4))
    config = parsed(config_text(fixed, plan=False))
    assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 0)
    assert list(config.input[0].dims) == [4, 3, 32, 32]
    assert not config.HasField("dynamic_batching")


def test_batches_that_a_server_would_not_send_are_refused(
    record: ExportRecord, tmp_path: Path
) -> None:
    wrong = dataclasses.replace(record, batch=BatchRange(2, 3, 4))
    with pytest.raises(ModelError, match=r"--dynamic 1:3:4"):
        write_repository(tmp_path / "models", tmp_path, wrong, tmp_path / "model.plan")
    assert not (tmp_path / "models").exists()


def test_a_repository_is_written_and_replaced(
    record: ExportRecord, small_export: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(small_export, tmp_path / "exported")
    plan = folder / "model-gpu-sm90-trt11.4.plan"
    for content in (b"first", b"second"):
        plan.write_bytes(content)
        made = write_repository(tmp_path / "models", folder, record, plan)
        assert made == tmp_path / "models/a_model_of_mine"
        assert (made / "1/model.plan").read_bytes() == content
        assert parsed((made / "config.pbtxt").read_text()).name == made.name
    made = write_repository(tmp_path / "models", folder, record, folder / "model.onnx")
    assert [path.name for path in (made / "1").iterdir()] == ["model.onnx"]
    (tmp_path / "models/a_model_of_mine/config.pbtxt").unlink()
    with pytest.raises(ModelError, match="left as it is"):
        write_repository(tmp_path / "models", folder, record, plan)
