"""Overlays: the colour map, blending, and panels of images of any shape."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vsm_fast.results.overlay import blend, colour_map, overlay_panel, save_overlay


def luminance(colours):
    linear = (colours / 255.0) ** 2.2
    return linear @ [0.2126, 0.7152, 0.0722]


def test_colours_run_blue_pale_vermilion():
    low, middle, high = colour_map([0.0, 0.5, 1.0]).astype(int)
    assert low[2] > low[0] + 80
    assert high[0] > high[2] + 80
    assert middle.min() > 200
    np.testing.assert_array_equal(colour_map(np.nan), colour_map(0.5))


def test_lightness_rises_to_the_threshold_and_falls_after_it():
    light = luminance(colour_map(np.linspace(0, 1, 101)))
    assert (np.diff(light[:51]) > 0).all()
    assert (np.diff(light[50:]) < 0).all()


def test_both_ends_differ_for_colour_blind_readers():
    # Viénot, Brettel and Mollon (1999), in linear RGB.
    simulations = {
        "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    for matrix in simulations.values():
        for value in (0.0, 0.2, 0.35):
            pair = (colour_map([value, 1 - value]) / 255.0) ** 2.2 @ np.array(matrix).T
            seen = np.clip(pair, 0, 1) ** (1 / 2.2)
            assert np.abs(seen[0] - seen[1]).max() > 0.2


def test_blend_colours_the_subject_and_greys_the_rest():
    photograph = Image.new("RGB", (8, 6), (40, 160, 60))
    heat = np.full((6, 8), np.nan, np.float32)
    heat[:3, :4], heat[:3, 4:] = 0, 1
    result = np.asarray(blend(photograph, heat)).astype(int)
    assert (np.ptp(result[3:], axis=-1) == 0).all()
    assert (result[:3, :4, 2] > result[:3, :4, 0] + 40).all()
    assert (result[:3, 4:, 0] > result[:3, 4:, 2] + 40).all()


def test_blend_refuses_a_map_of_another_size():
    with pytest.raises(ValueError, match=r"\[6, 8\].*\[8, 6\]"):
        blend(Image.new("RGB", (8, 6)), np.zeros((8, 6)))


@pytest.mark.parametrize("size", [(512, 512), (1, 1), (20, 3000), (3000, 20), (640, 360)])
@pytest.mark.parametrize("score", [0.5, float("nan")])
def test_panel_of_any_shape_has_margins(size, score):
    image = Image.new("RGB", size, (10, 90, 200))
    heat = np.full((size[1], size[0]), 0.3)
    panel = overlay_panel(image, image, heat, score, "name/" * 80, 0.6, 1234, 2304)
    assert panel.mode == "RGB"
    assert 700 <= panel.width <= 1350
    pixels = np.asarray(panel)
    for edge in (pixels[:20], pixels[-20:], pixels[:, :20], pixels[:, -14:]):
        assert (edge == 255).all()


def test_panel_shows_the_score_and_a_drawable_title():
    image = Image.new("RGB", (64, 64))

    def panel(title, score=0.5):
        return np.asarray(overlay_panel(image, image, np.zeros((64, 64)), score, title, 0.6))

    assert (panel("a", 0.25) != panel("a", 0.75)).any()
    np.testing.assert_array_equal(panel("\u4f60\u597d.png"), panel("??.png"))
    assert (panel("Bär.png") != panel("Bxr.png")).any()


def test_saved_overlay_is_the_panel(tmp_path):
    image = Image.new("L", (30, 20), 128)
    arguments = (image, image, np.full((20, 30), 0.9), 0.1, "pair", 0.6)
    save_overlay(tmp_path / "pair.png", *arguments)
    with Image.open(tmp_path / "pair.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(overlay_panel(*arguments)))
    with pytest.raises(ValueError, match="PNG"):
        save_overlay(tmp_path / "pair.jpg", *arguments)
    assert [file.name for file in tmp_path.iterdir()] == ["pair.png"]
