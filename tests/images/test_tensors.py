"""Batches of tensors against images prepared one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import config_of

from vsm_fast import InputError, Status
from vsm_fast.images.framing import subject_box, to_input
from vsm_fast.images.masks import load_mask, reduce_mask
from vsm_fast.images.subjects import prepare_subject
from vsm_fast.images.tensors import prepare_tensors, reduce_masks, resize, subject_frames

GOOD = torch.zeros(2, 3, 8, 8)
SIZES = [(5, 7), (33, 33), (40, 97), (128, 64), (301, 200)]


def _image(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)


def _mask(size, seed=0):
    """A random rectangle, sometimes at a border, sometimes a single pixel or line."""
    rng = np.random.default_rng(seed)
    (top, bottom), (left, right) = (np.sort(rng.integers(0, side + 1, 2)) for side in size)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    return mask


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", SIZES)
def test_resizing_equals_pillows_up_to_rounding(size, interpolation):
    height, width = size
    boxes = [(0, 0, width, height), (width // 4, height // 3, width, height), (1, 1, 3, 5)]
    image = _image(size)
    batch = image[None].float().expand(3, -1, -1, -1)
    found = resize(batch, torch.tensor(boxes), 32, interpolation)
    for box, mine in zip(boxes, found, strict=True):
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        expected = (to_input(pixels, box, 32, interpolation) + 1) * 127.5
        difference = (mine - expected).abs()
        if width >= height:
            assert difference.max() <= 1.001
            assert (difference > 0.5).float().mean() < 0.05
        else:  # Pillow 13 may have resized the rows first, and noise is the worst case of it
            assert difference.mean() < 0.5


@pytest.mark.parametrize("framing", ["image", "subject"])
@pytest.mark.parametrize("size", SIZES)
def test_frames_and_cells_are_those_of_single_masks(size, framing):
    masks = torch.stack([*(_mask(size, seed) for seed in range(60)), torch.zeros(size).bool()])
    frames = subject_frames(masks, framing)
    for rule in ("nearest", "any"):
        cells = reduce_masks(masks, frames, (6, 5), rule)
        for mask, frame, found in zip(masks, frames.expand(len(masks), -1), cells, strict=True):
            box = subject_box(mask.numpy(), framing)
            assert tuple(frame.tolist()) == box
            np.testing.assert_array_equal(found, reduce_mask(mask.numpy(), box, (6, 5), rule))


@pytest.mark.parametrize("rule", ["nearest", "any"])
@pytest.mark.parametrize("background", ["keep", "grey"])
@pytest.mark.parametrize("framing", ["image", "subject"])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float16])
def test_a_batch_is_prepared_like_its_images(kind, framing, background, rule):
    config = config_of(framing=framing, background=background, mask_reduction=rule)
    images = [_image((48, 40), seed) for seed in range(3)]
    if kind.is_floating_point:
        images = [(image / 255).to(kind) for image in images]
    masks = [_mask((48, 40), seed) for seed in range(3)]
    pixels, cells = prepare_tensors(torch.stack(images), torch.stack(masks), config)
    assert pixels.dtype == torch.float32
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        expected = prepare_subject(image, mask.numpy(), "image", config)
        assert (pixels[row] - expected.pixels).abs().max() <= 1.001 / 127.5
        np.testing.assert_array_equal(cells[row], expected.cell_mask)
    listed = prepare_tensors(images, masks, config)
    torch.testing.assert_close(listed, (pixels, cells), atol=1.001 / 127.5, rtol=0)


def test_without_masks_the_whole_images_count():
    config = config_of()
    for rounded in (GOOD - 5e-4, GOOD + 1.0005):  # rounding may leave [0, 1]
        assert prepare_tensors(rounded, None, config)[1].all()
    pixels, cells = prepare_tensors(torch.stack([_image((20, 30))] * 2), None, config)
    assert pixels.shape == (2, 3, 32, 32)
    assert cells.shape == (2, *config.aggregation.grid)
    assert cells.all()


@pytest.mark.parametrize("top", [1, 7, 128, 255])
def test_grey_masks_follow_the_rule_of_loaded_masks(top):
    generator = torch.Generator().manual_seed(0)
    soft = torch.randint(0, top + 1, (2, 12, 12), generator=generator, dtype=torch.uint8)
    labelled = (soft > top // 2).to(torch.uint8) * top
    config = config_of()
    for masks in (soft, labelled):
        binary = torch.stack([torch.from_numpy(load_mask(mask, (12, 12))) for mask in masks])
        images = torch.stack([_image((12, 12))] * 2)
        torch.testing.assert_close(
            prepare_tensors(images, masks, config), prepare_tensors(images, binary, config)
        )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_only_an_image_with_nan_loses_its_subject(bad):
    images = torch.stack([_image((20, 20)) / 255] * 3)
    images[1, 0, 3, 4] = bad
    pixels, cells = prepare_tensors(images, None, config_of())
    assert pixels.isfinite().all()
    assert cells.flatten(1).any(1).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("images", "masks", "status", "word"),
    [
        (GOOD[0], None, Status.UNREADABLE, r"\[3, 8, 8\]"),
        (GOOD.permute(0, 2, 3, 1), None, Status.UNREADABLE, r"\[2, 8, 8, 3\]"),
        (GOOD.long(), None, Status.UNREADABLE, "int64"),
        (GOOD[..., :0], None, Status.UNREADABLE, "no pixels"),
        ([], None, Status.UNREADABLE, "no tensor"),
        (GOOD.to_sparse(), None, Status.UNREADABLE, "sparse_coo"),
        (GOOD.to("meta"), None, Status.UNREADABLE, "on meta"),
        (torch.nested.nested_tensor(list(GOOD)), None, Status.UNREADABLE, "nested"),
        (GOOD.to(torch.complex64), None, Status.UNREADABLE, "complex64"),
        (GOOD, GOOD[:, 0].bool().to_sparse(), Status.BAD_MASK, "sparse_coo"),
        (GOOD, GOOD[:, 0].bool().to("meta"), Status.BAD_MASK, "on meta"),
        (GOOD - 1, None, Status.BAD_VALUES, "from -1 to -1"),
        (GOOD + 255, None, Status.BAD_VALUES, "clamp"),
        (GOOD, GOOD[:, 0], Status.BAD_MASK, "float32"),
        (GOOD, GOOD[:, :1].bool(), Status.BAD_MASK, "without an axis of channels"),
        (GOOD, GOOD[:1, 0].bool(), Status.BAD_MASK, r"\[2, 8, 8\]"),
        (list(GOOD), [GOOD[0, 0].bool()], Status.BAD_MASK, "1 masks for 2 images"),
    ],
)
def test_unusable_tensors_are_refused(images, masks, status, word):
    with pytest.raises(InputError, match=word) as caught:
        prepare_tensors(images, masks, config_of())
    assert caught.value.status is status


def test_neither_pillow_nor_numpy_is_used(monkeypatch):
    def refuse(name):
        def used(*_, **__):
            raise AssertionError(f"Tensor.{name} was called")

        return used

    for name in ("numpy", "cpu", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, refuse(name))
    prepare_tensors(GOOD, torch.ones(2, 8, 8, dtype=torch.bool), config_of(framing="subject"))
