from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vsm_fast.errors import PairingError
from vsm_fast.images.inputs import distinct, image_list, image_names, mask_list, pair_up

IMAGE = np.zeros((4, 5, 3), np.uint8)


class _BytesPath:
    def __fspath__(self):
        return b"a.png"


@pytest.mark.parametrize(
    "single",
    ["a.png", Path("a.png"), b"a.png", Image.new("RGB", (2, 2)), IMAGE, torch.zeros(3, 4, 5)],
)
def test_a_single_image_is_a_list_of_one(single):
    assert len(image_list(single, "gens")) == 1


@pytest.mark.parametrize(
    "paths",
    [
        [b"a.png", "b.png"], [_BytesPath(), "b.png"], np.array(["a.png", "b.png"]),
        np.array(["a.png", "b.png"], object), np.array([b"a.png", b"b.png"]),
        (name for name in ("a.png", "b.png")),
    ],
)  # fmt: skip
def test_paths_of_many_kinds_are_texts(paths):
    assert image_list(paths, "gens") == ["a.png", "b.png"]


def test_a_batch_array_is_a_list_of_its_images():
    assert [i.shape for i in image_list(np.stack([IMAGE] * 3), "gens")] == [(4, 5, 3)] * 3
    assert [i.shape for i in image_list(torch.zeros(2, 3, 4, 5), "gens")] == [(3, 4, 5)] * 2


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({"a.png", "b.png"}, "gens is a set"),
        ({"a.png": 1}.keys(), "gens is a dict_keys"),
        ({"a.png": "b.png"}, "gens is a dict"),
        (None, "gens is a NoneType"),
        (3, "gens is a int"),
        (torch.zeros(2, 3, 4, 5).to_sparse(), "sparse or nested"),
        (os.fspath(Path(__file__).parent), "gens is the folder .*glob.*--refs DIR"),
        (os.fsencode(Path(__file__).parent), "gens is the folder"),
        (Path(__file__).parent, "gens is the folder"),
    ],
)
def test_unordered_values_and_folders_are_refused(images, words):
    with pytest.raises(TypeError, match=words):
        image_list(images, "gens")
    if images is not None:  # a mask's None is the whole image
        with pytest.raises(TypeError, match=words.replace("gens is", "gen_masks is")):
            mask_list(images, 2, "gen")


def test_names_are_paths_or_positions():
    assert image_names(["x/a.png", IMAGE, Path("b.png")], "gen") == ["x/a.png", "gen[1]", "b.png"]


def test_equal_lists_pair_in_order_and_one_reference_serves_all():
    assert pair_up(None, 3, 3).tolist() == [[0, 0], [1, 1], [2, 2]]
    assert pair_up(None, 1, 3).tolist() == [[0, 0], [0, 1], [0, 2]]


@pytest.mark.parametrize(("refs", "gens"), [(0, 0), (1, 0), (3, 0)])
def test_no_generation_gives_no_pair(refs, gens):
    assert pair_up(None, refs, gens).shape == (0, 2)


@pytest.mark.parametrize(("refs", "gens"), [(2, 3), (3, 1), (0, 2)])
def test_unequal_lists_are_never_guessed(refs, gens):
    with pytest.raises(PairingError, match=f"{refs} references with {gens} generations"):
        pair_up(None, refs, gens)


@pytest.mark.parametrize("pairs", [[[0, 3]], [[2, 0]], [[-1, 0]]])
def test_a_pair_out_of_range_is_refused(pairs):
    with pytest.raises(PairingError, match="must lie in"):
        pair_up(pairs, 2, 3)


@pytest.mark.parametrize("pairs", [[0, 1], [[0, 1, 2]], [[0.0, 1.0]]])
def test_pairs_of_another_shape_or_type_are_refused(pairs):
    with pytest.raises(PairingError, match="integers"):
        pair_up(pairs, 3, 3)


def test_masks_need_one_entry_per_image():
    assert mask_list(None, 2, "gen") == [None, None]
    assert mask_list(["m.png", None], 2, "gen") == ["m.png", None]
    with pytest.raises(PairingError, match="1 masks for 2 images"):
        mask_list("m.png", 2, "gen")
    assert len(mask_list(np.zeros((3, 4, 5), bool), 3, "gen")) == 3


def test_equal_paths_with_equal_masks_are_one_image(tmp_path):
    array = np.zeros((2, 2, 3), np.uint8)
    images = ["a.png", array, Path("a.png"), "b.png", array, "a.png", "a.png"]
    masks = [None, None, None, None, None, "m.png", Path("m.png")]
    first, places = distinct(images, masks)
    assert first == [0, 1, 3, 4, 5]
    assert places.tolist() == [0, 1, 0, 2, 3, 4, 4]
    assert distinct([], [])[1].tolist() == []
