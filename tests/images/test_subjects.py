from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from vsm_fast.images.framing import on_grey
from vsm_fast.images.subjects import prepare_subject
from vsm_fast.model.config import BackboneConfig, ModelConfig


def _config(background):
    backbone = BackboneConfig(("us1",), 64, 0, framing="subject", background=background)
    return ModelConfig("test", backbone)


def _picture(seed):
    """A subject on a random background, and its mask."""
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 90, 3), np.uint8)
    mask = np.zeros((60, 90), bool)
    mask[10:50, 30:70] = True
    pixels[mask] = np.random.default_rng(7).integers(0, 256, (mask.sum(), 3), np.uint8)
    return pixels, mask


@pytest.mark.parametrize(("background", "same"), [("grey", True), ("keep", False)])
def test_the_background_reaches_the_network_only_when_it_is_kept(background, same):
    config = _config(background)
    first, second = (prepare_subject(*_picture(seed), "picture", config) for seed in (1, 2))
    assert first.pixels is not None
    assert second.pixels is not None
    assert torch.equal(first.pixels, second.pixels) is same
    assert first.box == second.box


def test_on_grey_keeps_the_subject_and_nothing_else():
    pixels, mask = _picture(1)
    before = pixels.copy()
    result = on_grey(pixels, mask)
    assert np.array_equal(result[mask], pixels[mask])
    assert (result[~mask] == 127).all()
    assert np.array_equal(pixels, before)
    assert on_grey(pixels, np.ones_like(mask)) is pixels


def test_without_a_mask_the_whole_image_is_the_subject():
    pixels, _ = _picture(1)
    kept, grey = (
        prepare_subject(pixels, None, "picture", _config(name)) for name in ("keep", "grey")
    )
    assert torch.equal(kept.pixels, grey.pixels)


def test_the_background_is_part_of_the_configuration():
    config = _config("grey")
    assert ModelConfig.from_json(config.to_json()) == config
    older = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone))
    text = older.to_json().replace('"background": "grey",', "")
    assert ModelConfig.from_json(text).backbone.background == "keep"
