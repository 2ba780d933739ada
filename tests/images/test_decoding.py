"""Decoding: the status of every bad file, orientation, and frames."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import PIXELS, exif_of, png, refused, saved, written
from PIL import ExifTags, Image, ImageOps

from vsm_fast.errors import Status
from vsm_fast.images.decoding import FORMATS, MAX_PIXELS, orient
from vsm_fast.images.loading import load_image


def test_missing_files(tmp_path):
    refused(tmp_path / "none.png", Status.MISSING_FILE, "none.png")
    refused("", Status.MISSING_FILE)
    refused("a\0b.png", Status.MISSING_FILE)
    refused("x" * 5000, Status.MISSING_FILE)
    refused(saved(tmp_path / "a.png", PIXELS) / "b.png", Status.MISSING_FILE)
    refused("https://example.org/cat.png", Status.MISSING_FILE, "download")


def test_files_that_are_no_images(tmp_path):
    refused(tmp_path, Status.UNREADABLE, "folder")
    refused(written(tmp_path / "empty.png", b""), Status.UNREADABLE, "0 bytes")
    noise = written(tmp_path / "noise.png", bytes(range(256)) * 4)
    refused(noise, Status.UNREADABLE, "none of PNG")
    page = b"\n<!DOCTYPE html><html><body>404</body></html>"
    refused(written(tmp_path / "page.png", page), Status.UNREADABLE, "HTML")
    refused(written(tmp_path / "error.jpg", b'{"error": "quota"}'), Status.UNREADABLE, "JSON")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_circular_links_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", Status.UNREADABLE, "regular")
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    refused(tmp_path / "a.png", Status.UNREADABLE, "cannot be read")
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere.png")
    refused(tmp_path / "c.png", Status.MISSING_FILE)


@pytest.mark.parametrize("change", [lambda f: f.write(b"more"), lambda f: f.truncate(9)])
def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch, change):
    path = saved(tmp_path / "a.png", PIXELS)

    def opened(file, formats):
        image = plain(BytesIO(file.read()), formats=formats)  # intact: only the file has changed
        with path.open("ab") as writer:
            change(writer)
        return image

    plain = Image.open
    monkeypatch.setattr("vsm_fast.images.decoding.Image.open", opened)
    refused(path, Status.UNREADABLE, "changed while it was read")


def test_damaged_further_pages_are_damage(tmp_path):
    pages = [Image.new("L", (4, 4), value) for value in (40, 120)]
    content = saved(tmp_path / "a.tiff", pages[0], save_all=True, append_images=pages[1:])
    data = bytearray(content.read_bytes())
    start = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[start : start + 2], "little")
    link = start + 2 + 12 * entries
    second = int.from_bytes(data[link : link + 4], "little")
    data[second + 2 : second + 4] = b"\xff\xff"  # replaces its first entry, the width
    refused(written(tmp_path / "b.tiff", bytes(data)), Status.UNREADABLE, "damaged")


def test_formats_that_start_other_programs_are_not_opened(tmp_path):
    refused(saved(tmp_path / "a.eps", PIXELS), Status.UNREADABLE, "none of")
    refused(written(tmp_path / "a.png", (tmp_path / "a.eps").read_bytes()), Status.UNREADABLE)
    assert not {"EPS", "PDF", "PSD", "WMF"} & set(FORMATS)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif", "ppm"])
@pytest.mark.parametrize("share", [0.02, 0.6])
def test_truncated_files(tmp_path, suffix, share):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    content = saved(tmp_path / f"whole.{suffix}", noise).read_bytes()
    cut = written(tmp_path / f"cut.{suffix}", content[: max(int(len(content) * share), 1)])
    refused(cut, Status.UNREADABLE, str(cut))


def test_size_is_checked_before_decoding(tmp_path):
    # These files have no pixel data: decoding would report truncation instead.
    refused(written(tmp_path / "a.png", png(4, 4)), Status.TOO_LARGE, "4 x 4", "15", max_pixels=15)
    refused(written(tmp_path / "b.png", png(4, 4)), Status.UNREADABLE, max_pixels=16)
    refused(written(tmp_path / "c.png", png(90_000, 90_000)), Status.TOO_LARGE)


def test_default_limit_is_80_megapixels_and_below_pillows(tmp_path, monkeypatch):
    refused(written(tmp_path / "a.png", png(10_001, 8_000)), Status.TOO_LARGE, "80,000,000")
    refused(written(tmp_path / "b.png", png(10_000, 8_000)), Status.UNREADABLE)
    assert Image.MAX_IMAGE_PIXELS > MAX_PIXELS
    monkeypatch.setenv("VSM_FAST_MAX_PIXELS", "34")
    for source in (PIXELS, torch.zeros(3, 5, 7), saved(tmp_path / "c.png", PIXELS)):
        refused(source, Status.TOO_LARGE, "at most 34")
    monkeypatch.setenv("VSM_FAST_MAX_PIXELS", "35")
    assert load_image(tmp_path / "c.png").size == (5, 7)


@pytest.mark.parametrize("text", ["0", "-3", "many", ""])
def test_an_invalid_limit_is_refused(monkeypatch, text):
    monkeypatch.setenv("VSM_FAST_MAX_PIXELS", text)
    with pytest.raises(ValueError, match=f"above 0; got '{text}'"):
        load_image(PIXELS)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_pillows_own_limit_has_the_same_status(tmp_path):
    refused(written(tmp_path / "a.png", png(10_000, 9_999)), Status.TOO_LARGE, "MAX_IMAGE_PIXELS")


def test_size_limit_holds_for_every_source():
    for source in (PIXELS, Image.fromarray(PIXELS), torch.zeros(3, 5, 7)):
        refused(source, Status.TOO_LARGE, "7 x 5", max_pixels=34)
        assert load_image(source, max_pixels=35).size == (5, 7)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_files_are_closed(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (0, 99)]
    good = [
        saved(tmp_path / f"a.{s}", PIXELS) for s in ("png", "jpg", "webp", "bmp", "tiff", "ppm")
    ]
    for suffix in ("gif", "tif"):
        frames[0].save(tmp_path / f"b.{suffix}", save_all=True, append_images=frames[1:])
        good.append(tmp_path / f"b.{suffix}")
    bad = [written(tmp_path / "d.png", b"<html>"), written(tmp_path / "e.png", png(9, 9))]
    load_image(good[0])
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = [load_image(path) for path in good]
    for path in bad:
        refused(path, Status.UNREADABLE)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(kept) == len(good)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff", "ppm"])
def test_lossless_formats_give_their_pixels(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    loaded = load_image(str(saved(tmp_path / f"a.{suffix}", PIXELS, **options)))
    np.testing.assert_array_equal(loaded.pixels, PIXELS)
    assert (loaded.pixels.dtype, loaded.alpha, loaded.notes) == (np.uint8, None, ())


def test_the_name_does_not_decide_the_format(tmp_path):
    saved(tmp_path / "a.png", PIXELS)
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(load_image(tmp_path / "a.jpg").pixels, PIXELS)


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path, suffix, orientation):
    exif = exif_of(orientation)
    options = {"lossless": True} if suffix == "webp" else {}
    rgba = np.dstack([PIXELS, np.where(PIXELS[..., 0] > 127, 255, 0).astype(np.uint8)])
    path = saved(tmp_path / f"a.{suffix}", rgba, exif=exif, **options)
    tagged = Image.fromarray(rgba)
    tagged.getexif()[ExifTags.Base.Orientation] = orientation
    upright = np.asarray(ImageOps.exif_transpose(tagged))
    np.testing.assert_array_equal(orient(rgba, orientation), upright)
    for source in (path, tagged, Image.open(BytesIO(path.read_bytes()))):
        loaded = load_image(source)
        np.testing.assert_array_equal(loaded.alpha, upright[..., 3] > 127)
        shown = loaded.alpha
        np.testing.assert_array_equal(loaded.pixels[shown], upright[..., :3][shown])
        assert loaded.pixels.flags.c_contiguous
        assert loaded.orientation == orientation
        assert loaded.stored_size == (5, 7)
        assert ("exif rotated" in loaded.notes) == (orientation != 1)


@pytest.mark.parametrize(
    ("exif", "notes"),
    [
        *[(exif_of(orientation), ()) for orientation in (0, 9, 77)],
        (b"Exif\0\0not a TIFF header", ("damaged exif ignored",)),
    ],
)
def test_invalid_orientations_and_damaged_exif_are_ignored(tmp_path, exif, notes):
    loaded = load_image(saved(tmp_path / "a.png", PIXELS, exif=exif))
    np.testing.assert_array_equal(loaded.pixels, PIXELS)
    assert (loaded.orientation, loaded.notes) == (1, notes)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("L", (4, 4), value) for value in (40, 120, 200)]
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    loaded = load_image(path)
    assert np.unique(loaded.pixels).tolist() == [40]
    assert loaded.notes[0] == "first frame of 3"
    with Image.open(path) as image:
        image.seek(1)
        loaded = load_image(image)
        assert image.tell() == 1
    assert np.unique(loaded.pixels).tolist() == [120]
    assert loaded.notes[0] == "frame 2 of 3"


def test_the_depth_map_of_a_photograph_is_no_frame(tmp_path):
    main, depth = Image.new("RGB", (8, 8), (90, 90, 90)), Image.new("RGB", (8, 8))
    main.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[depth])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.n_frames == 2
    loaded = load_image(tmp_path / "a.jpg")
    assert np.unique(loaded.pixels).tolist() == [90]
    assert loaded.notes == ()


def test_pil_images_stay_open_and_unchanged(tmp_path):
    with Image.open(saved(tmp_path / "a.png", PIXELS, exif=exif_of(6))) as image:
        assert load_image(image).size == (7, 5)
        assert image.size == (7, 5)
        np.testing.assert_array_equal(np.asarray(image), PIXELS)
        assert load_image(image).size == (7, 5)
    image = Image.open(tmp_path / "a.png")
    image.close()
    refused(image, Status.UNREADABLE, "PIL image")


def test_an_animation_that_was_closed_after_loading(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "tiff", "webp", "png"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        with Image.open(tmp_path / f"a.{suffix}") as image:
            image.load()
        assert load_image(image).pixels[0, 0, 0] >= 250
