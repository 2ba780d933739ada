"""Loading and framing: exact pixels of every conversion, and the status of every bad array."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import PIXELS, grey, icc_profile, png, refused, saved, written
from PIL import Image, ImageCms

from vsm_fast.errors import Status
from vsm_fast.images.framing import subject_box, to_input
from vsm_fast.images.loading import load_image


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_grey_one_bit_and_palette(tmp_path, suffix):
    levels = np.array([[0, 128, 255]], np.uint8)
    loaded = load_image(saved(tmp_path / f"l.{suffix}", levels))
    np.testing.assert_array_equal(loaded.pixels, grey(levels))
    assert loaded.notes == ("grey->rgb",)

    one_bit = Image.fromarray(levels).point(lambda value: value > 100 and 255, "1")
    loaded = load_image(saved(tmp_path / f"1.{suffix}", one_bit))
    np.testing.assert_array_equal(loaded.pixels, grey([[0, 255, 255]]))
    assert loaded.notes == ("1-bit->rgb",)

    indexed = Image.new("P", (2, 1))
    indexed.putpalette([9, 8, 7, 200, 100, 50])
    indexed.putpixel((1, 0), 1)
    loaded = load_image(saved(tmp_path / f"p.{suffix}", indexed))
    assert loaded.pixels.tolist() == [[[9, 8, 7], [200, 100, 50]]]
    assert loaded.notes == ("palette->rgb",)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    loaded = load_image(saved(tmp_path / f"a.{suffix}", values))
    np.testing.assert_array_equal(loaded.pixels, grey([[0, 0, 1, 1, 128, 254, 255, 255]]))
    assert loaded.notes == ("16-bit->8-bit", "grey->rgb")


def test_16_bit_ppm_is_scaled_and_16_bit_colour_keeps_the_high_byte(tmp_path):
    data = b"P5\n3 1\n65535\n" + struct.pack(">3H", 0, 129, 255)
    loaded = load_image(written(tmp_path / "a.pgm", data))
    np.testing.assert_array_equal(loaded.pixels, grey([[0, 1, 1]]))  # dark, but not 8-bit
    data = b"\0" + struct.pack(">6H", 0xFFFF, 0x12FF, 0x0100, 0, 255, 256)
    loaded = load_image(written(tmp_path / "a.png", png(2, 1, data, depth=16)))
    assert loaded.pixels.tolist() == [[[255, 0x12, 1], [0, 0, 1]]]


def test_32_bit_integers(tmp_path):
    dark = load_image(saved(tmp_path / "a.tiff", np.array([[0, 200, 255]], np.int32)))
    np.testing.assert_array_equal(dark.pixels, grey([[0, 200, 255]]))
    assert dark.notes[0] == "32-bit->8-bit"
    wide = load_image(saved(tmp_path / "b.tiff", np.array([[0, 257, 65535]], np.int32)))
    np.testing.assert_array_equal(wide.pixels, grey([[0, 1, 255]]))
    for values in ([[0, 70000]], [[-1, 5]]):
        path = saved(tmp_path / "c.tiff", np.array(values, np.int32))
        refused(path, Status.BAD_VALUES, str(values[0][0]), str(values[0][1]))


def test_float_tiff(tmp_path):
    loaded = load_image(saved(tmp_path / "a.tiff", np.array([[0, 0.25, 1]], np.float32)))
    np.testing.assert_array_equal(loaded.pixels, grey([[0, 64, 255]]))
    assert loaded.notes == ("float->8-bit", "grey->rgb")
    path = saved(tmp_path / "b.tiff", np.array([[0, 12.5]], np.float32))
    refused(path, Status.BAD_VALUES, "12.5")


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk_also_adobe_inverted(tmp_path, suffix):
    inks = Image.new("CMYK", (16, 8), (255, 0, 0, 0))
    inks.paste((0, 0, 0, 102), (8, 0, 16, 8))
    path = saved(tmp_path / f"a.{suffix}", inks)
    # JPEG stores inks inverted when it carries Adobe's marker, TIFF does not.
    assert (b"Adobe" in path.read_bytes()) == (suffix == "jpg")
    loaded = load_image(path)
    assert np.abs(loaded.pixels[:, :8] - np.array([0.0, 255, 255])).max() <= 2
    assert np.abs(loaded.pixels[:, 8:] - 153.0).max() <= 2
    assert loaded.notes == ("cmyk->rgb",)


# Transparency


def test_transparency_becomes_a_mask_and_lies_on_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 128], [0, 0, 255, 127]]])
    rgba = rgba.astype(np.uint8)
    expected = [[[10, 20, 30], [255, 255, 255], [127, 177, 227], [128, 128, 255]]]
    for source in (rgba, Image.fromarray(rgba), saved(tmp_path / "a.png", rgba)):
        loaded = load_image(source)
        assert loaded.pixels.tolist() == expected
        assert loaded.alpha.dtype == bool
        assert loaded.alpha.tolist() == [[True, False, True, False]]
        assert loaded.notes == ("transparency on white",)


@pytest.mark.parametrize("mode", ["LA", "PA", "La", "RGBa"])
def test_other_modes_with_alpha(mode):
    rgba = Image.new("RGBA", (2, 1), (50, 50, 50, 255))
    rgba.putpixel((1, 0), (80, 80, 80, 0))
    image = rgba.convert(mode) if mode == "RGBa" else rgba.convert("LA").convert(mode)
    if mode == "PA":
        image.putpixel((1, 0), (80, 0))  # Pillow's conversion makes it opaque
    assert image.mode == mode
    loaded = load_image(image)
    assert loaded.pixels.tolist() == [[[50] * 3, [255] * 3]]
    assert loaded.alpha.tolist() == [[True, False]]


def test_opaque_alpha_counts_as_none(tmp_path):
    opaque = np.dstack([PIXELS, np.full((5, 7), 255, np.uint8)])
    for source in (opaque, saved(tmp_path / "a.png", opaque)):
        loaded = load_image(source)
        assert loaded.alpha is None
        assert loaded.notes == ()
        np.testing.assert_array_equal(loaded.pixels, PIXELS)


def test_transparent_colours_of_png(tmp_path):
    indexed = Image.new("P", (3, 1))
    indexed.putpalette([9, 8, 7, 200, 100, 50, 0, 0, 0])
    for index in range(3):
        indexed.putpixel((index, 0), index)
    by_index = load_image(saved(tmp_path / "p.png", indexed, transparency=1))
    assert by_index.alpha.tolist() == [[True, False, True]]
    assert by_index.pixels.tolist() == [[[9, 8, 7], [255, 255, 255], [0, 0, 0]]]
    by_table = load_image(saved(tmp_path / "t.png", indexed, transparency=b"\0\xff\x80"))
    assert by_table.alpha.tolist() == [[False, True, True]]
    assert by_table.pixels.tolist() == [[[255, 255, 255], [200, 100, 50], [127, 127, 127]]]
    colour = saved(tmp_path / "c.png", indexed.convert("RGB"), transparency=(9, 8, 7))
    assert load_image(colour).alpha.tolist() == [[False, True, True]]
    level = saved(tmp_path / "l.png", np.array([[3, 4]], np.uint8), transparency=3)
    assert load_image(level).alpha.tolist() == [[False, True]]
    deep = saved(tmp_path / "d.png", np.array([[300, 301]], np.uint16), transparency=301)
    assert load_image(deep).alpha.tolist() == [[True, False]]


# Colour profiles


def linear_to_srgb(levels):
    share = np.asarray(levels) / 255.0
    return 255 * np.where(share <= 0.0031308, 12.92 * share, 1.055 * share ** (1 / 2.4) - 0.055)


def test_icc_profile_is_converted_to_srgb(tmp_path):
    linear = icc_profile(b"RGB ")
    loaded = load_image(saved(tmp_path / "a.png", PIXELS, icc_profile=linear))
    assert np.abs(loaded.pixels - linear_to_srgb(PIXELS)).max() <= 2
    assert loaded.notes == ("icc profile->srgb",)
    turned = icc_profile(b"RGB ", order="gbr")
    loaded = load_image(saved(tmp_path / "b.png", PIXELS, icc_profile=turned))
    assert np.abs(loaded.pixels - linear_to_srgb(PIXELS[..., [2, 0, 1]])).max() <= 2


def test_icc_profile_of_grey_and_of_transparent_images(tmp_path):
    level = np.array([[0, 30, 128, 255]], np.uint8)
    loaded = load_image(saved(tmp_path / "a.png", level, icc_profile=icc_profile(b"GRAY")))
    assert np.abs(loaded.pixels - linear_to_srgb(grey(level))).max() <= 2
    assert loaded.notes == ("icc profile->srgb", "grey->rgb")
    rgba = np.dstack([grey(level), np.array([[255, 255, 255, 0]], np.uint8)])
    loaded = load_image(saved(tmp_path / "b.png", rgba, icc_profile=icc_profile(b"RGB ")))
    assert np.abs(loaded.pixels - linear_to_srgb(grey(level))).max() <= 2
    assert loaded.alpha.tolist() == [[True, True, True, False]]


def test_srgb_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    loaded = load_image(saved(tmp_path / "a.png", PIXELS, icc_profile=profile))
    np.testing.assert_array_equal(loaded.pixels, PIXELS)
    assert loaded.notes == ()


@pytest.mark.parametrize("profile", [b"garbage" * 40, icc_profile(b"GRAY")])
def test_an_unusable_icc_profile_is_ignored_and_noted(tmp_path, profile):
    loaded = load_image(saved(tmp_path / "a.png", PIXELS, icc_profile=profile))
    np.testing.assert_array_equal(loaded.pixels, PIXELS)
    assert len(loaded.notes) == 1
    assert loaded.notes[0].startswith("icc profile ignored")


# Arrays, tensors and PIL images


def test_arrays_give_their_pixels_in_a_copy():
    own = PIXELS.copy()
    loaded = load_image(own)
    own[:] = 0
    np.testing.assert_array_equal(loaded.pixels, PIXELS)
    np.testing.assert_array_equal(load_image(PIXELS[::-1, ::2]).pixels, PIXELS[::-1, ::2])
    for flat in (PIXELS[..., 0], PIXELS[..., :1]):
        np.testing.assert_array_equal(load_image(flat).pixels, grey(PIXELS[..., 0]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_and_tensors_are_rounded(dtype):
    unit = (PIXELS / 255).astype(dtype)
    np.testing.assert_array_equal(load_image(unit).pixels, PIXELS)
    tensor = torch.from_numpy(unit).permute(2, 0, 1).requires_grad_()
    loaded = load_image(tensor)
    np.testing.assert_array_equal(loaded.pixels, PIXELS)
    assert loaded.notes == ("float->8-bit",)
    assert loaded.pixels.flags.c_contiguous


def test_uint8_and_bfloat16_tensors():
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    np.testing.assert_array_equal(load_image(tensor).pixels, PIXELS)
    extremes = torch.tensor([0.0, 0.5, 1.0], dtype=torch.bfloat16).reshape(3, 1, 1)
    assert load_image(extremes).pixels.tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_are_refused(value):
    tensor = torch.zeros(3, 4, 4)
    tensor[1, 2, 3] = value
    refused(tensor, Status.BAD_VALUES, "1 values of 48")
    refused(tensor.permute(1, 2, 0).numpy(), Status.BAD_VALUES, "1 values of 48")


def test_values_outside_the_unit_range():
    refused(torch.full((3, 2, 2), -0.25), Status.BAD_VALUES, "-0.25", "(x + 1) / 2")
    refused(torch.full((3, 2, 2), 200.5), Status.BAD_VALUES, "200.5", "x / 255")
    refused(np.full((2, 2, 3), 1.002), Status.BAD_VALUES, "1.002")
    nearly = torch.tensor([-0.0009, 0.5, 1.0009]).reshape(3, 1, 1)
    assert load_image(nearly).pixels.tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((3, 4, 5), np.uint8), ["[3, 4, 5]", "transpose(1, 2, 0)"]),
        (np.zeros((2, 4, 5, 3), np.uint8), ["[2, 4, 5, 3]", "batch"]),
        (np.zeros((4, 5, 3), np.int64), ["int64"]),
        (np.zeros((4, 5), np.float32), ["float32 [4, 5]"]),
        (np.zeros(7, np.uint8), ["uint8 [7]"]),
        (torch.zeros(4, 5, 3), ["[4, 5, 3]", "permute(2, 0, 1)"]),
        (torch.zeros(3, 4, 5, dtype=torch.int32), ["int32"]),
        (np.zeros((0, 5, 3), np.uint8), ["no pixels", "5 x 0"]),
        (torch.zeros(3, 5, 0), ["no pixels", "0 x 5"]),
        (Image.new("RGB", (0, 3)), ["no pixels"]),
        (None, ["NoneType"]),
        (float("nan"), ["float"]),
        (b"a.png", ["bytes"]),
    ],
)
def test_other_sources_are_refused(source, words):
    refused(source, Status.UNREADABLE, *words)


# Framing and resizing


def masked(shape, box):
    mask = np.zeros(shape, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


@pytest.mark.parametrize(
    ("shape", "subject", "expected"),
    [
        ((100, 200), (60, 40, 100, 60), (56, 26, 104, 74)),  # 40 wide, margin 4: a square of 48
        ((100, 200), (0, 40, 40, 60), (0, 26, 48, 74)),  # moved inwards at the left
        ((100, 200), (180, 90, 200, 100), (176, 76, 200, 100)),  # and in the corner
        ((100, 200), (20, 0, 180, 100), (4, 0, 196, 100)),  # as square as the image allows
        ((50, 50), (7, 7, 8, 8), (7, 7, 8, 8)),  # one pixel has no margin
        ((1, 1), (0, 0, 1, 1), (0, 0, 1, 1)),
    ],
)
def test_subject_box(shape, subject, expected):
    mask = masked(shape, subject)
    assert subject_box(mask, "subject") == expected
    assert subject_box(mask, "image") == (0, 0, shape[1], shape[0])


def test_subject_box_of_nothing_and_of_unknown_framing():
    assert subject_box(np.zeros((4, 6), bool), "subject") == (0, 0, 6, 4)
    with pytest.raises(ValueError, match="framing must be"):
        subject_box(np.ones((4, 6), bool), "centre")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_subject_box_holds_the_subject_and_its_margin(data):
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    box = subject_box(masked((height, width), (left, top, right, bottom)), "subject")
    assert 0 <= box[0] <= left < right <= box[2] <= width
    assert 0 <= box[1] <= top < bottom <= box[3] <= height
    longer = max(right - left, bottom - top)
    side = longer + 2 * round(0.1 * longer)
    assert (box[2] - box[0], box[3] - box[1]) == (min(side, width), min(side, height))
    assert all(type(edge) is int for edge in box)


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_to_input_is_pillows_resize_in_minus_one_to_one(name):
    pixels = np.random.default_rng(2).integers(0, 256, (40, 50, 3), np.uint8)
    result = to_input(pixels, (3, 4, 45, 30), 16, name)
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    resized = Image.fromarray(pixels).resize((16, 16), filters[name], box=(3, 4, 45, 30))
    expected = np.asarray(resized, np.float32).transpose(2, 0, 1) / 127.5 - 1
    assert (result.dtype, result.shape) == (torch.float32, (3, 16, 16))
    assert result.is_contiguous()
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)


def test_to_input_keeps_pixels_of_the_same_size_and_the_ends_of_the_range():
    pixels = np.random.default_rng(3).integers(0, 256, (8, 8, 3), np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255
    result = to_input(pixels, (0, 0, 8, 8), 8)
    np.testing.assert_array_equal(((result + 1) * 127.5).round().permute(1, 2, 0).numpy(), pixels)
    assert (result.min(), result.max()) == (-1, 1)


def test_one_pixel_fills_the_square():
    result = to_input(np.array([[[255, 0, 51]]], np.uint8), (0, 0, 1, 1), 32)
    expected = np.broadcast_to(np.array([1, -1, -0.6]).reshape(3, 1, 1), (3, 32, 32))
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("box", [(0, 0, 9, 8), (-1, 0, 8, 8), (4, 4, 4, 8), (5, 0, 3, 8)])
def test_to_input_refuses_invalid_boxes_and_filters(box):
    with pytest.raises(ValueError, match="8 x 8"):
        to_input(np.zeros((8, 8, 3), np.uint8), box, 4)
    with pytest.raises(ValueError, match="'lanczos'"):
        to_input(np.zeros((8, 8, 3), np.uint8), (0, 0, 8, 8), 4, "lanczos")
