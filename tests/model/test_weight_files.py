"""Weight files: lazy reading, and refusal of other formats."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from vsm_fast.errors import ModelError
from vsm_fast.model.weights import (
    check_fit,
    modern_key,
    opened,
    read_weights,
    save_weights,
)


def test_shapes_are_known_before_tensors_are_read(tmp_path):
    path = tmp_path / "a.safetensors"
    half = torch.arange(6, dtype=torch.float16).reshape(2, 3)
    save_file({"b": half, "a": torch.tensor(2.5)}, path)
    with opened(path) as file:
        assert file.shapes == {"a": (), "b": (2, 3)}
        assert torch.equal(file.tensor("b"), half)
        with pytest.raises(ModelError, match="cannot be read"):
            file.tensor("c")
    assert read_weights(path)["b"].dtype == torch.float32


@pytest.mark.parametrize("name", ["a.bin", "a.PT", "a.pth", "a.ckpt", "a.pkl", "a.pickle"])
def test_a_pickle_is_refused_even_if_it_is_not_there(tmp_path, name):
    with pytest.raises(ModelError, match="pickled checkpoint"), opened(tmp_path / name):
        pass


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff" * 99])
def test_what_is_no_safetensors_file(tmp_path, content):
    path = tmp_path / "a.safetensors"
    if content is not None:
        path.write_bytes(content)
    for read in (read_weights, lambda p: opened(p).__enter__()):
        with pytest.raises(ModelError, match=r"a\.safetensors cannot be read as safetensors"):
            read(path)


def test_values_that_do_not_fit_are_not_written(tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights({"a": torch.tensor([1e5]), "n": torch.tensor([3])}, path, torch.bfloat16)
    assert {v.dtype for v in load_file(path).values()} == {torch.bfloat16, torch.int64}
    with pytest.raises(ModelError, match=r"not finite as torch\.float16: 1 such keys \(a\)"):
        save_weights({"a": torch.tensor([1e5])}, tmp_path / "b.safetensors", torch.float16)
    assert not (tmp_path / "b.safetensors").exists()


def test_names_and_shapes_must_be_the_same():
    check_fit({"a": (1, 2)}, {"a": [1, 2]}, "x")
    with pytest.raises(ModelError, match=r"x does not fit the model: a is \[2\] instead of \[1\]"):
        check_fit({"a": (2,)}, {"a": (1,)}, "x")
    with pytest.raises(ModelError, match=r"1 unknown keys \(b\); 1 missing keys \(a\)"):
        check_fit({"b": (2,)}, {"a": (1,)}, "x")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("encoder.mid_block.attentions.0.query.weight", "to_q.weight"),
        ("encoder.mid_block.attentions.0.proj_attn.bias", "to_out.0.bias"),
        ("encoder.query.weight", "encoder.query.weight"),
    ],
)
def test_names_of_2022(old, new):
    assert modern_key(old) in (f"encoder.mid_block.attentions.0.{new}", new)
