"""What figures start from: names, sizes, boxes, and points in their places."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from subject_views import PIXELS, scorer_of, small_views, subject_image

from vsm_fast.errors import InputError, PairingError, Status
from vsm_fast.lab.figures import describe_subjects
from vsm_fast.lab.figures.views import DRAWN_SIDE


@pytest.mark.parametrize("size", [(40, 30), (3, 3), (1000, 20), (13, 700)])
def test_images_are_drawn_at_one_size_in_their_aspect(size):
    width, height = size
    view = small_views([np.full((height, width, 3), 90, np.uint8)])[0]
    assert max(view.photograph.shape[:2]) == DRAWN_SIDE
    assert view.mask.shape == view.photograph.shape[:2]
    assert view.mask.all()
    shown = view.photograph.shape[1] / view.photograph.shape[0]
    assert abs(np.log(shown / (width / height))) < 0.02 * max(width / height, height / width)


def test_descriptors_are_the_scorers_and_points_lie_on_the_subject():
    scorer = scorer_of()
    pixels, mask = subject_image(0)
    views = describe_subjects(scorer, [pixels, pixels[:, ::-1]], [mask, mask[:, ::-1]])
    expected = scorer.describe([pixels], [mask])
    np.testing.assert_allclose(views[0].semantic, expected.semantic.numpy(), atol=1e-5)
    np.testing.assert_array_equal(views[0].cells, expected.cells.numpy())
    for view in views.views:
        x, y = np.floor(view.centres()).astype(int).T
        assert view.mask[y, x].all()  # cells count when the pixel at their centre is on


@pytest.mark.parametrize("framing", ["image", "subject"])
def test_painting_puts_a_point_where_it_is(framing):
    pixels, mask = subject_image(0)
    view = describe_subjects(scorer_of(framing), [pixels], [mask])[0]
    values = np.zeros((len(view.cells), 1), np.float32)
    point = len(values) // 2
    values[point] = 1
    painted = view.paint(values)[..., 0]
    np.testing.assert_array_equal(np.isnan(painted[view.mask]), False)
    assert np.isnan(painted[~view.mask]).all()
    y, x = np.unravel_index(np.nanargmax(painted), painted.shape)
    left, top, right, bottom = view.box
    cell = (right - left) / view.grid[1], (bottom - top) / view.grid[0]
    distance = np.abs(view.centres()[point] - (x + 0.5, y + 0.5)) / cell
    assert (distance < 0.05).all()


def test_crop_keeps_what_the_network_sees():
    pixels, mask = subject_image(0)
    whole, cropped = (
        describe_subjects(scorer_of("subject"), [pixels], [mask], crop=crop)[0]
        for crop in (False, True)
    )
    np.testing.assert_array_equal(whole.semantic, cropped.semantic)
    height, width = cropped.photograph.shape[:2]
    assert cropped.box == (0, 0, width, height)
    left, top, right, bottom = whole.box
    assert (right - left) / (bottom - top) == pytest.approx(width / height, rel=0.02)
    assert cropped.mask.mean() > whole.mask.mean()


def test_a_subject_of_one_pixel_stays_visible():
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1600, 3), np.uint8)
    mask = np.zeros((1500, 1600), bool)
    mask[700, 800] = True
    view = describe_subjects(scorer_of(), [pixels], [mask])[0]
    assert 1 <= view.mask.sum() <= 4
    assert len(view.cells) == 1


def test_names_and_thresholds(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "bear.png")
    views = describe_subjects(scorer_of(), [tmp_path / "bear.png", PIXELS])
    assert [view.name for view in views.views] == ["bear.png", "image 1"]
    named = describe_subjects(scorer_of(), [PIXELS], names=["Bär"], visual_threshold=0.1)
    assert named[0].name == "Bär"
    assert (named.semantic_threshold, named.visual_threshold) == (0.7, 0.1)


def test_bad_inputs_say_which_image(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png") as caught:
        describe_subjects(scorer_of(), [PIXELS, tmp_path / "broken.png"])
    assert caught.value.status is Status.UNREADABLE
    empty = np.zeros(PIXELS.shape[:2], bool)
    with pytest.raises(InputError, match=r"second.*marks no pixel"):
        describe_subjects(scorer_of(), [PIXELS] * 2, [None, empty], names=["first", "second"])
    with pytest.raises(PairingError, match="1 masks"):
        describe_subjects(scorer_of(), [PIXELS] * 2, [None])
    with pytest.raises(ValueError, match="at least one image"):
        describe_subjects(scorer_of(), [])
    with pytest.raises(ValueError, match=r"semantic_threshold.*2"):
        describe_subjects(scorer_of(), [PIXELS], semantic_threshold=2)
    with pytest.raises(ValueError, match="one per image, 2; got 1"):
        describe_subjects(scorer_of(), [PIXELS] * 2, names=["a"])
