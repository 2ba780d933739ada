"""Masks: the pixels on the subject, orientation, and reduction to the grid."""

from __future__ import annotations

from pathlib import Path

import image_files
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import exif_of, png, saved, written
from PIL import Image

from vsm_fast.errors import Flag, Status
from vsm_fast.images.decoding import orient
from vsm_fast.images.loading import LoadedImage, load_image
from vsm_fast.images.masks import load_mask, reduce_mask, subject_mask

EXAMPLES = Path(__file__).parents[2] / "examples"
SHAPE = (5, 7)
ON = np.random.default_rng(0).random(SHAPE) > 0.5


def refused(source, status, *words, size=SHAPE):
    image_files.refused(source, status, *words, load=lambda mask: load_mask(mask, size))


def levels(off, on, dtype=np.uint8):
    return np.where(ON, on, off).astype(dtype)


# Pixels on the subject


@pytest.mark.parametrize("on", [1, 2, 38, 127, 255])
def test_two_values_are_on_where_not_zero(tmp_path, on):
    values = levels(0, on)
    sources = [values, torch.from_numpy(values), Image.fromarray(values)]
    sources += [saved(tmp_path / f"a.{suffix}", values) for suffix in ("png", "tiff", "bmp")]
    for source in (*sources, str(sources[-1])):
        mask = load_mask(source, SHAPE)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, ON)


def test_bool_and_one_bit(tmp_path):
    for source in (ON, torch.from_numpy(ON), saved(tmp_path / "a.png", Image.fromarray(ON))):
        np.testing.assert_array_equal(load_mask(source, SHAPE), ON)


def test_soft_masks_are_on_above_half(tmp_path):
    soft = np.array([[0, 1, 127, 128, 200, 255]], np.uint8)
    expected = [[False, False, False, True, True, True]]
    for source in (soft, saved(tmp_path / "a.png", soft)):
        assert load_mask(source, (1, 6)).tolist() == expected
    faint = np.array([[0, 1, 60, 127]], np.uint8)
    assert not load_mask(faint, (1, 4)).any()
    bright = np.array([[20, 100, 127, 128]], np.uint8)
    assert load_mask(bright, (1, 4)).tolist() == [[False, False, False, True]]


def test_16_bit_and_float_masks(tmp_path):
    for on in (1, 255, 65535):
        path = saved(tmp_path / "a.png", levels(0, on, np.uint16))
        np.testing.assert_array_equal(load_mask(path, SHAPE), ON)
    soft = saved(tmp_path / "b.png", np.array([[0, 32767, 32768, 65535]], np.uint16))
    assert load_mask(soft, (1, 4)).tolist() == [[False, False, True, True]]
    share = saved(tmp_path / "c.tiff", np.array([[0, 0.4, 0.6, 1]], np.float32))
    assert load_mask(share, (1, 4)).tolist() == [[False, False, True, True]]
    broken = saved(tmp_path / "d.tiff", np.array([[0, np.nan]], np.float32))
    refused(broken, Status.BAD_MASK, "NaN", size=(1, 2))


@pytest.mark.parametrize("value", [0, 1, 255])
def test_masks_of_one_value(value):
    mask = load_mask(np.full(SHAPE, value, np.uint8), SHAPE)
    assert mask.all() if value else not mask.any()


@pytest.mark.parametrize(
    ("off", "on"),
    [
        ((0, 0, 0), (255, 255, 255)),
        ((0, 0, 0), (128, 0, 0)),  # the first object in the palette of PASCAL VOC and DAVIS
        ((0, 0, 0), (0, 0, 255)),
        ((68, 1, 84), (253, 231, 36)),  # the ends of Matplotlib's default colours
    ],
)
def test_colour_masks(tmp_path, off, on):
    colours = np.where(ON[..., None], on, off).astype(np.uint8)
    opaque = np.dstack([colours, np.full(SHAPE, 255, np.uint8)])
    indexed = Image.new("P", SHAPE[::-1])
    indexed.putdata(ON.ravel().astype(int).tolist())
    indexed.putpalette([*off, *on])
    for number, image in enumerate((colours, opaque, indexed)):
        path = saved(tmp_path / f"{number}.png", image)
        np.testing.assert_array_equal(load_mask(path, SHAPE), ON)


def test_jpeg_masks(tmp_path):
    shape = (64, 64)
    expected = np.zeros(shape, bool)
    expected[16:48, 8:32] = True
    for on in ((255, 255, 255), (200, 0, 0)):
        colours = np.where(expected[..., None], on, 0).astype(np.uint8)
        path = saved(tmp_path / "a.jpg", colours, quality=85, subsampling=0)
        assert (load_mask(path, shape) == expected).mean() > 0.99
    black = saved(tmp_path / "b.jpg", np.zeros((64, 64, 3), np.uint8))
    assert not load_mask(black, shape).any()


PHOTO = np.random.default_rng(1).integers(0, 256, (*SHAPE, 3), np.uint8)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (30, 200, 90), PHOTO])
@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 255, 255)])
def test_alpha_of_one_colour_and_of_a_photograph(tmp_path, colour, hidden):
    colours = np.where(ON[..., None], colour, hidden).astype(np.uint8)
    path = saved(tmp_path / "a.png", np.dstack([colours, levels(0, 255)]))
    np.testing.assert_array_equal(load_mask(path, SHAPE), ON)


def test_black_and_white_with_some_transparency_is_read_by_luminance(tmp_path):
    rgba = np.dstack([np.repeat(levels(0, 255)[..., None], 3, 2), np.full(SHAPE, 255, np.uint8)])
    rgba[0, :, 3] = 0
    expected = ON.copy()
    expected[0] = False
    assert load_mask(saved(tmp_path / "a.png", rgba), SHAPE).tolist() == expected.tolist()


def test_opaque_black_marks_nothing_and_full_transparency_marks_nothing(tmp_path):
    for colour in ((0, 0, 0, 255), (255, 255, 255, 0)):
        path = saved(tmp_path / "a.png", Image.new("RGBA", SHAPE[::-1], colour))
        assert not load_mask(path, SHAPE).any()


# Bad masks


def test_bad_mask_files(tmp_path):
    refused(tmp_path / "none.png", Status.MISSING_FILE, "mask", "none.png")
    refused(tmp_path, Status.BAD_MASK, "folder")
    refused(written(tmp_path / "a.png", b""), Status.BAD_MASK, "0 bytes")
    refused(written(tmp_path / "b.png", b"<html>"), Status.BAD_MASK, "HTML")
    refused(written(tmp_path / "c.png", png(7, 5)), Status.BAD_MASK, "c.png")
    refused(written(tmp_path / "d.png", png(90_000, 90_000)), Status.BAD_MASK, "d.png")


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((*SHAPE, 3), np.uint8),
        np.zeros(SHAPE, np.float32),
        np.zeros(SHAPE, np.int64),
        torch.zeros(SHAPE),
        torch.zeros(1, *SHAPE, dtype=torch.bool),
    ],
)
def test_arrays_of_other_types_are_refused(source):
    refused(source, Status.BAD_MASK, "bool or uint8", str(list(source.shape)))


def test_other_sources_and_other_sizes_are_refused(tmp_path):
    refused(3, Status.BAD_MASK, "int")
    path = saved(tmp_path / "a.png", levels(0, 255))
    refused(path, Status.BAD_MASK, "a.png", "7 x 5", "8 x 6", "resize", size=(6, 8))
    refused(path, Status.BAD_MASK, "7 x 5", "5 x 7", size=(7, 5))
    refused(np.zeros((0, 0), bool), Status.BAD_MASK, "0 x 0")


# Orientation


def photograph(path, orientation, shape=SHAPE):
    return load_image(saved(path, np.zeros((*shape, 3), np.uint8), exif=exif_of(orientation)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_masks_own_exif_is_honoured(tmp_path, orientation):
    exif = exif_of(orientation)
    image = photograph(tmp_path / "photo.png", orientation)
    for name, mode in (("grey", "L"), ("colour", "RGB")):
        stored = Image.fromarray(levels(0, 255)).convert(mode)
        path = saved(tmp_path / f"{name}.png", stored, exif=exif)
        found = subject_mask(path, image)
        np.testing.assert_array_equal(found.pixels, orient(ON, orientation))
        assert ("mask: exif rotated" in found.notes) == (orientation != 1)
        assert not any("photograph" in note for note in found.notes)


@pytest.mark.parametrize("orientation", range(5, 9))
def test_a_mask_like_the_stored_photograph_is_turned_with_it(tmp_path, orientation):
    image = photograph(tmp_path / "photo.png", orientation)
    assert (image.size, image.stored_size) == ((7, 5), SHAPE)
    for source in (ON, levels(0, 255), saved(tmp_path / "m.png", levels(0, 255))):
        found = subject_mask(source, image)
        np.testing.assert_array_equal(found.pixels, orient(ON, orientation))
        assert found.notes == ("mask turned like its photograph's exif",)
        assert found.origin == "given"


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
def test_a_mask_like_the_upright_photograph_stays(tmp_path, orientation):
    upright = orient(ON, orientation)
    found = subject_mask(upright, photograph(tmp_path / "photo.png", orientation))
    np.testing.assert_array_equal(found.pixels, upright)
    assert (found.notes, found.flags) == ((), ())


@pytest.mark.parametrize("orientation", [2, 3, 4, 6, 8])
def test_the_content_decides_the_orientation_of_a_mask(orientation):
    """No mask of the shipped photographs is misplaced, and few stay in doubt."""
    decided = total = 0
    for path in sorted(EXAMPLES.glob("*/*/*_mask.png")):
        image = load_image(path.with_name(path.name.replace("_mask.png", ".jpg")))
        side = min(image.size)
        pixels, mask = image.pixels[:side, :side], load_mask(path, image.size)[:side, :side]
        turned = LoadedImage(pixels, None, (), orientation)
        stored = orient(mask, {6: 8, 8: 6}.get(orientation, orientation))
        assert (orient(stored, orientation) == mask).all()
        for source, expected in ((mask, mask), (stored, mask)):
            found = subject_mask(source, turned)
            doubtful = Flag.ORIENTATION_DOUBTFUL in found.flags
            np.testing.assert_array_equal(found.pixels, source if doubtful else expected)
            decided += not doubtful
            total += 1
    assert decided >= 0.7 * total, decided / total


@pytest.mark.parametrize(
    ("orientation", "mask"), [(6, np.eye(5, 5, 1, bool)), (3, ON), (6, np.zeros((5, 5), bool))]
)
def test_an_ambiguous_photograph_leaves_the_mask_and_a_flag(tmp_path, orientation, mask):
    image = photograph(tmp_path / "photo.png", orientation, mask.shape)
    found = subject_mask(mask, image)
    np.testing.assert_array_equal(found.pixels, mask)
    assert found.flags == ((Flag.ORIENTATION_DOUBTFUL,) if mask.any() else ())
    exif = exif_of(orientation)
    path = saved(tmp_path / "m.png", Image.fromarray(mask.astype(bool)), exif=exif)
    assert subject_mask(path, image).flags == ()  # the mask's own EXIF says how it lies
    assert subject_mask(np.ones_like(mask, bool), image).flags == ()


# Choice of mask


def test_given_then_alpha_then_whole_image():
    pixels = np.zeros((*SHAPE, 3), np.uint8)
    cut_out = LoadedImage(pixels, ~ON)
    for source, image, expected, origin in (
        (ON, cut_out, ON, "given"),
        (None, cut_out, ~ON, "alpha"),
        (None, LoadedImage(pixels, None), np.ones(SHAPE, bool), "whole image"),
    ):
        found = subject_mask(source, image)
        np.testing.assert_array_equal(found.pixels, expected)
        assert found.origin == origin
        assert found.flags == ((Flag.NO_MASK,) if origin == "whole image" else ())


# Reduction


def reduced_by_loop(mask, box, grid, rule):
    left, top, right, bottom = box
    height, width = bottom - top, right - left
    cells = np.zeros(grid, bool)
    for i in range(grid[0]):
        for j in range(grid[1]):
            for y in range(height):
                for x in range(width):
                    # Cell i covers [i, i + 1) * height / rows, pixel y covers [y, y + 1).
                    touches = (
                        y * grid[0] < (i + 1) * height
                        and (y + 1) * grid[0] > i * height
                        and x * grid[1] < (j + 1) * width
                        and (x + 1) * grid[1] > j * width
                    )
                    centre = (
                        2 * y * grid[0] <= (2 * i + 1) * height < 2 * (y + 1) * grid[0]
                        and 2 * x * grid[1] <= (2 * j + 1) * width < 2 * (x + 1) * grid[1]
                    )
                    cells[i, j] |= mask[top + y, left + x] and (
                        touches if rule == "any" else centre
                    )
    return cells


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_reduction_is_the_plain_loop(data):
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    grid = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    seed, share = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0, 0.03, 0.4, 1]))
    mask = np.random.default_rng(seed).random((height, width)) < share
    box = left, top, right, bottom
    by_any = reduced_by_loop(mask, box, grid, "any")
    nearest = reduced_by_loop(mask, box, grid, "nearest")
    result = reduce_mask(mask, box, grid, "any")
    assert result.dtype == bool
    np.testing.assert_array_equal(result, by_any)
    expected = nearest if nearest.any() else by_any
    np.testing.assert_array_equal(reduce_mask(mask, box, grid, "nearest"), expected)
    assert reduce_mask(mask, box, grid, "nearest").any() == mask[top:bottom, left:right].any()


def test_a_subject_between_the_centres_is_not_lost():
    mask = np.zeros((100, 100), bool)
    mask[0, 0] = True
    assert np.argwhere(reduce_mask(mask, (0, 0, 100, 100), (4, 4), "nearest")).tolist() == [[0, 0]]
    mask[60, 60:90] = True  # on no centre either
    cells = np.argwhere(reduce_mask(mask, (0, 0, 100, 100), (4, 4), "nearest"))
    assert cells.tolist() == [[0, 0], [2, 2], [2, 3]]


def test_reduction_refuses_invalid_arguments():
    mask = np.ones((4, 4), bool)
    with pytest.raises(ValueError, match="4 x 4"):
        reduce_mask(mask, (0, 0, 5, 4), (2, 2), "any")
    with pytest.raises(ValueError, match="rule must be"):
        reduce_mask(mask, (0, 0, 4, 4), (2, 2), "area")
    with pytest.raises(ValueError, match="grid"):
        reduce_mask(mask, (0, 0, 4, 4), (0, 2), "any")
