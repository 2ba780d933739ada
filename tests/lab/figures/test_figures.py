"""Figures: that everything stands inside the page, in its aspect and clear of everything else."""

from __future__ import annotations

from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from subject_views import PIXELS, scorer_of, small_views, subject_image, two_subjects
from tiny_models import one_thread  # noqa: F401 (used by all tests here)

from vsm_fast.lab.figures import (
    TooFewPointsError,
    matches_figure,
    mixing_figure,
    overview_figure,
    pca_figure,
    save_figure,
    segments_figure,
    views,
)
from vsm_fast.lab.figures.correspondences import correspond
from vsm_fast.lab.figures.figures import mixing_weights
from vsm_fast.lab.figures.panels import segments_panel

SHAPES = [(512, 384), (300, 400), (9, 7), (600, 15), (15, 600)]  # width, height


@pytest.fixture(autouse=True)
def small_drawings(monkeypatch):
    monkeypatch.setattr(views, "DRAWN_SIDE", 90)


def shaped_views(shapes=SHAPES, **settings):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, width, 3), np.uint8) for width, height in shapes]
    names = [f"folder/{'long ' * 40}{index} $a_b$.png" for index in range(len(shapes))]
    return small_views(images, names=names, **settings)


def words_of(figure):
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def check_layout(figure):
    """Every text on the page, clear of all others and of the images, which keep their aspect."""
    figure.draw_without_rendering()
    hidden = {  # the text objects of ticks exist without being drawn
        label
        for axes in figure.axes
        for axis, low, high in (
            (axes.xaxis, *sorted(axes.get_xlim())), (axes.yaxis, *sorted(axes.get_ylim()))
        )
        for tick, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        if not axes.axison or not low <= tick <= high
    }  # fmt: skip
    texts = {
        f"{text.get_text()} {id(text)}": text.get_window_extent()
        for text in figure.findobj(mpl.text.Text)
        if text.get_text() and text.get_visible() and text not in hidden
    }
    page = figure.bbox.padded(2)  # files have a margin around it
    for name, box in texts.items():
        assert page.x0 <= box.x0 < box.x1 <= page.x1, name
        assert page.y0 <= box.y0 < box.y1 <= page.y1, name
    for (one, box), (other, second) in combinations(texts.items(), 2):
        assert not box.overlaps(second), (one, other)
    images = []
    for image in (image for axes in figure.axes for image in axes.get_images()):
        box = image.get_window_extent()
        rows, columns = image.get_array().shape[:2]
        assert box.width / box.height == pytest.approx(columns / rows, rel=1e-6)
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
        for name, text in texts.items():
            assert not text.overlaps(box), name
        images.append(box)
    assert not any(box.overlaps(second) for box, second in combinations(images, 2))


@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[:1], SHAPES[3:], SHAPES[2:4]])
def test_layout_of_any_shapes(shapes):
    views = shaped_views(shapes, semantic_threshold=0.2)
    check_layout(overview_figure(views, clusters=2))
    if len(shapes) == 2:
        check_layout(pca_figure(views))
        check_layout(matches_figure(views))


@pytest.mark.parametrize("kinds", [["segments", "mixing"], ["mixing"], ["pca", "matches"]])
def test_layout_of_any_kinds(kinds):
    check_layout(overview_figure(shaped_views(SHAPES[:2]), kinds=kinds, clusters=2))


@pytest.mark.parametrize("weight", ["one", "mixing"])
def test_mixing_bars_are_the_networks_weights(weight):
    scorer = scorer_of(first_level_weight=weight)
    mixing = mixing_weights(scorer)
    figure = mixing_figure(scorer)
    check_layout(figure)
    heights = np.array([bar.get_height() for bar in figure.axes[0].patches]).reshape(2, -1)
    for branch, bars in zip(("semantic", "visual"), heights, strict=True):
        softmax = getattr(scorer.network, branch).mixing_weights.softmax(0).numpy()
        np.testing.assert_allclose(bars[1:], softmax[1:], rtol=1e-5)
        np.testing.assert_allclose(bars[0], 1 if weight == "one" else softmax[0], rtol=1e-5)
        np.testing.assert_array_equal(mixing[branch], bars)
    hatched = [bool(bar.get_hatch()) for bar in figure.axes[0].patches]
    assert hatched == ([True, False] * 2 if weight == "one" else [False] * 4)
    assert ("first level has weight 1" in words_of(figure)) == (weight == "one")
    assert "model small  ·  semantic threshold 0.7  ·  visual threshold 0.6" in words_of(figure)


def drawn_points(axes):
    """Numbers of dots and of crosses; each cross has a white rim below it."""
    sizes = {"dots": 0, "crosses": 0}
    for collection in axes.collections:
        if isinstance(collection, mpl.collections.PathCollection):
            kind = "crosses" if len(collection.get_paths()[0].vertices) == 4 else "dots"
            sizes[kind] += len(collection.get_offsets())
    return sizes["dots"], sizes["crosses"] // 2


def test_crosses_are_the_points_that_failed():
    described = two_subjects(semantic_threshold=0.2, visual_threshold=0.97)
    found = correspond(described, 0, 1)
    passed, total = int(found.passed.sum()), len(found.points)
    assert 0 < passed < total
    figure = matches_figure(described, max_matches=1000)
    semantic, visual = figure.axes  # each with the points on both images
    assert drawn_points(semantic) == (2 * total, 0)
    assert drawn_points(visual) == (2 * passed, 2 * (total - passed))
    lines = [c for c in visual.collections if isinstance(c, mpl.collections.LineCollection)]
    assert [len(line.get_segments()) for line in lines] == [passed, total - passed]
    assert "drawn" not in words_of(figure)
    thinned = matches_figure(described, max_matches=3)
    assert sum(drawn_points(thinned.axes[1])) == 2 * 3
    assert "3 drawn" in words_of(thinned)
    assert f"VSM {found.score:.3f}" in words_of(thinned)


def test_a_pair_without_matches_is_drawn_and_says_so():
    described = two_subjects(semantic_threshold=1)
    for figure in (matches_figure(described), overview_figure(described, clusters=2)):
        check_layout(figure)
        assert "VSM undefined" in " ".join(words_of(figure).split())


def test_segments_have_one_colour_each_and_the_rest_is_grey():
    pixels, mask = subject_image(0)
    view = small_views([pixels], [mask])[0]
    labels = (view.centres()[:, 0] > view.centres()[:, 0].mean()).astype(np.int64)
    shown = segments_panel(view, labels, 2).astype(int)
    assert (np.ptp(shown[~view.mask], axis=-1) == 0).all()
    left, right = (shown[view.mask & (np.arange(90) < x if x < 40 else np.arange(90) > x)[None]]
                   for x in (30, 60))  # fmt: skip
    assert (left[:, 0] > left[:, 2]).mean() > 0.99  # rose
    assert (right[:, 2] > right[:, 0]).mean() > 0.99  # indigo


def test_too_few_points_and_bad_settings():
    one = np.zeros(PIXELS.shape[:2], bool)
    one[20, 30] = True
    tiny = small_views([PIXELS], [one])
    for draw in (pca_figure, segments_figure, overview_figure):
        with pytest.raises(TooFewPointsError, match="have 1"):
            draw(tiny)
    full = small_views([PIXELS] * 6)
    with pytest.raises(ValueError, match=r"1 to 9.*got 10"):
        segments_figure(full, clusters=10)
    with pytest.raises(ValueError, match="room for 4 generations; got 5"):
        overview_figure(full, 0, [1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="kinds must be some of pca, segments"):
        overview_figure(full, kinds=["tsne"])
    with pytest.raises(ValueError, match="count must be at least 1"):
        matches_figure(small_views([PIXELS] * 2, semantic_threshold=0), max_matches=0)


def test_a_saved_figure_has_200_dots_per_inch(tmp_path):
    figure = mixing_figure(scorer_of())
    save_figure(figure, tmp_path / "mixing.png")
    with Image.open(tmp_path / "mixing.png") as saved:
        assert np.allclose(saved.size, (figure.get_size_inches() + 0.4) * 200, atol=40)
        assert saved.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    with pytest.raises(ValueError, match=r"'mixing\.pdf'.*\.png"):
        save_figure(figure, "mixing.pdf")
    assert [path.name for path in tmp_path.iterdir()] == ["mixing.png"]


def test_the_callers_style_and_backend_stay():
    before = dict(mpl.rcParams)
    with mpl.rc_context({"font.size": 30, "font.family": "serif", "figure.autolayout": True}):
        chosen = dict(mpl.rcParams)
        styled = mixing_figure(scorer_of())
        assert dict(mpl.rcParams) == chosen
    plain = mixing_figure(scorer_of())
    assert dict(mpl.rcParams) == before
    pictures = []
    for figure in (styled, plain):
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba()))
    np.testing.assert_array_equal(*pictures)


@pytest.mark.filterwarnings("error")  # matplotlib warns of a missing glyph
def test_names_without_glyphs_are_replaced():
    figure = pca_figure(small_views([PIXELS], names=["Bär 你好 $x$"]))
    figure.draw_without_rendering()
    assert "Bär ?? $x$" in words_of(figure)
