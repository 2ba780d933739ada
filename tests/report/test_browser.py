"""The report page in a browser: numbers, interactions, hostile texts, no complaints."""

from __future__ import annotations

import json

import numpy as np
import pytest
from browser import chromium, needs_chromium
from PIL import Image
from report_tables import GRID, HOSTILE, SIZE, made_images, made_scores

from vsm_fast.report import results_of, write_report
from vsm_fast.results.heatmap import fill_cells, inconsistency
from vsm_fast.results.overlay import blend, colour_map

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser():
    with chromium() as tab:
        yield tab


@pytest.fixture
def tab(browser):
    """Return a wide, light tab and check that its pages report nothing."""
    browser.complaints.clear()
    browser.requests.clear()
    browser.page.set_viewport_size({"width": 1440, "height": 900})
    browser.page.emulate_media(color_scheme="light", reduced_motion="reduce")
    yield browser
    assert browser.complaints == []
    addresses = {address.split(":")[0] for address in browser.requests}
    assert addresses <= {"file", "blob", "about"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return the scores of 3 pairs (match, no match, no image), and their page."""
    folder = tmp_path_factory.mktemp("small")
    images = made_images(folder, 3)
    scores = made_scores(3, 60, refs=images[:1], gens=[*images[1:], str(folder / "gone.png")])
    page = folder / "report.html"
    write_report(results_of(scores.to_arrow(points=True)), page)
    return scores, page


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return the scores of 5,000 pairs with 60 points each, and their page."""
    folder = tmp_path_factory.mktemp("large")
    images = made_images(folder, 20)
    scores = made_scores(5000, 60, refs=images[:4], gens=images[4:])
    page = folder / "report.html"
    write_report(results_of(scores.to_arrow(points=True)), page)
    return scores, page


def numbers(tab, code):
    """Return a typed array of the page; NaN arrives as None."""
    return np.array([np.nan if x is None else x for x in tab.run(f"Array.from({code})")])


def shown_rows(tab):
    return tab.run(
        "[...document.querySelectorAll('#table .rows [role=row]:not([hidden])')]"
        ".sort((a, b) => a.ariaRowIndex - b.ariaRowIndex)"
        ".map(line => line.innerText.split('\\n')[0])"
    )


@pytest.mark.parametrize(
    ("size", "thresholds"),
    [("small", (-1, -0.05, 0, 0.3, 0.6599999, 0.66, 0.7, 0.999, 1)), ("large", (0.3, 0.66))],
)
def test_scores_equal_python_at_any_threshold(tab, size, thresholds, request):
    scores, page = request.getfixturevalue(size)
    tab.open(page)
    for threshold in thresholds:
        tab.fill("#threshold-number", str(threshold), "change")
        found = numbers(tab, "vsmReport.scores").astype(np.float32)
        np.testing.assert_array_equal(found, scores.at(threshold))
        mean = np.nanmean(scores.at(threshold), dtype=np.float64)
        assert float(tab.text("mean")) == pytest.approx(mean, abs=6e-4)


def test_the_slider_updates_all_views(tab, small):
    scores, page = small
    tab.open(page)
    tab.fill("#threshold", "0.4")
    expected = f"{scores.at(0.4)[0]:.3f}"
    assert expected in shown_rows(tab)
    assert tab.run("document.getElementById('threshold-number').value") == "0.4"
    tab.select(0)
    assert tab.text("pair-score") == f"VSM {expected}"
    assert tab.run("document.querySelector('.scale .threshold-value').textContent") == "0.4"
    tab.run("document.getElementById('threshold').focus()")
    tab.key("ArrowRight")
    assert tab.run("vsmReport.threshold") == pytest.approx(0.405)
    tab.click_on("#threshold-reset")
    assert tab.run("vsmReport.threshold") == 0.66


def test_heat_maps_equal_python(tab, small):
    scores, page = small
    tab.open(page)
    points = scores.points[0]
    for threshold in (0.66, 0.2, -0.5):
        heat = numbers(tab, f"vsmReport.heat.grid(0, {threshold})").astype(np.float32)
        values = inconsistency(points.visual_similarity, threshold)
        np.testing.assert_array_equal(heat[points.cells], values)
        dense, judged = np.zeros(GRID, np.float32), np.zeros(GRID, bool)
        dense.flat[points.cells], judged.flat[points.cells] = values, True
        np.testing.assert_allclose(heat.reshape(GRID), fill_cells(dense, judged), atol=1e-6)
    assert tab.run("vsmReport.heat.grid(0, 1)") is None
    assert tab.run("vsmReport.heat.grid(1, 0.5)") is None
    for value in np.linspace(0, 1, 31):
        found = tab.run(f"vsmReport.heat.colour({value})")
        assert np.abs(np.array(found) - colour_map(value)).max() <= 1


def test_the_heat_map_canvas_equals_the_overlay(tab, small):
    scores, page = small
    tab.open(page)
    pixels = tab.run(
        "(async () => { const bitmap = await vsmReport.dataset.bitmap('generation', 0);"
        "const canvas = document.createElement('canvas');"
        "vsmReport.heat.draw(canvas, bitmap, 0, 0.66, 160);"
        "return Array.from(canvas.getContext('2d').getImageData(0, 0, 160, 120).data) })()"
    )
    found = np.array(pixels, np.float32).reshape(*SIZE, 4)[..., :3]
    photograph = Image.open(scores.gen_id[0])
    expected = np.asarray(blend(photograph, scores.heatmap(0)), np.float32)
    subject = np.zeros(GRID, bool)
    subject.flat[scores.points[0].subject_cells] = True
    middles = np.zeros((4, 4), bool)  # the box is 128 x 96 pixels, 4 x 4 a cell: its centre
    middles[1:3, 1:3] = True
    inside = np.zeros(SIZE, bool)
    inside[12:108, 16:144] = np.kron(subject, middles)
    assert inside.sum() == 4 * len(scores.points[0].subject_cells)
    assert np.abs(found - expected)[inside].mean() < 4  # of 255: WebP is lossy
    off = np.zeros(SIZE, bool)
    off[:10] = True
    grey = blend(photograph, np.full(SIZE, np.nan, np.float32))
    assert np.abs(found - np.asarray(grey, np.float32))[off].mean() < 4


def test_sorting(tab, small):
    scores, page = small
    tab.open(page)
    ids = "[...vsmReport.rows].map(row => vsmReport.dataset.text('id', row))"
    best_last = [f"pair {row}" for row in np.argsort(scores.score, kind="stable")]
    assert tab.run(ids) == best_last
    assert tab.run("document.querySelector('[data-key=score]').ariaSort") == "ascending"
    tab.click_on("[data-key=score] button")
    assert tab.run(ids) == [best_last[1], best_last[0], "pair 1"]  # without a score: last
    assert tab.run("document.querySelector('[data-key=score]').ariaSort") == "descending"
    tab.click_on("[data-key=subject] button")
    assert tab.run("[...vsmReport.rows].map(row => vsmReport.dataset.text('subject', row))") == [
        "cat", "dog", "vase",
    ]  # fmt: skip


def test_numbers_in_names_sort_by_value(tab, large):
    tab.open(large[1])
    tab.click_on("[data-key=id] button")
    assert tab.run("[...vsmReport.rows.slice(0, 3)]") == [0, 1, 2]
    assert tab.run("vsmReport.rows[10]") == 10


def test_filters_of_5000_rows(tab, large):
    _, page = large
    tab.open(page)
    assert tab.run("document.querySelectorAll('#table .rows [role=row]').length") < 60
    tab.fill("#search", "PAIR 4999")
    assert tab.run("[...vsmReport.rows]") == [4999]
    tab.fill("#search", "pair nowhere")
    assert not tab.run("document.querySelector('.nothing').hidden")
    tab.fill("#search", "")
    code = tab.run("vsmReport.dataset.texts.subject.indexOf('dog')")
    tab.fill("#filter-subject", str(code), "change")
    assert tab.run("vsmReport.rows.length") == 1667
    assert "1,667 of 5,000 pairs" in tab.text("shown")
    tab.click_on("#groups-generator [data-name=flux]")
    assert tab.run("vsmReport.rows.every(row => row % 6 === 1)")
    tab.click_on("#groups-generator [data-name=flux]")
    tab.click_on("#clear")
    assert tab.run("vsmReport.rows.length") == 5000


def test_scrolling_shows_the_right_rows(tab, large):
    tab.open(large[1])
    tab.run("document.getElementById('table').scrollTop = 34 * 3000")
    tab.settle()
    rows = tab.run("[...document.querySelectorAll('#table .rows [role=row]')].map(line => "
                   "[line.ariaRowIndex - 2, Number(line.dataset.row)])")  # fmt: skip
    assert 3000 in [position for position, _ in rows]
    order = tab.run("[...vsmReport.rows]")
    assert all(order[position] == row for position, row in rows)


def test_the_table_by_keyboard(tab, large):
    tab.open(large[1])
    tab.run("document.getElementById('table').focus()")
    tab.key("End")
    assert tab.run("vsmReport.selected === vsmReport.rows[4999]")
    tab.key("ArrowUp")
    assert tab.run("vsmReport.selected === vsmReport.rows[4998]")
    active = "document.getElementById('table').getAttribute('aria-activedescendant')"
    assert tab.run(f"document.getElementById({active}).ariaSelected") == "true"
    tab.key("Home")
    tab.key("ArrowDown")
    tab.key("PageDown")
    assert tab.run("vsmReport.rows.indexOf(vsmReport.selected)") > 5
    name = tab.run("vsmReport.dataset.text('id', vsmReport.selected)")
    assert tab.text("pair-name") == name


def test_every_control_has_a_name_and_takes_focus(tab, small):
    tab.open(small[1])
    protocol = tab.page.context.new_cdp_session(tab.page)
    nodes = protocol.send("Accessibility.getFullAXTree")["nodes"]
    kinds = ("button", "slider", "spinbutton", "combobox", "searchbox", "radio", "grid", "image")
    named = [node for node in nodes if node.get("role", {}).get("value") in kinds]
    assert len(named) > 15
    assert [node for node in named if not node.get("name", {}).get("value")] == []
    wanted = set(tab.run(
        "[...document.querySelectorAll('button, input, select, [tabindex=\"0\"]')]"
        ".filter(e => e.checkVisibility() && !e.disabled && e.id).map(e => e.id)"))  # fmt: skip
    reached = set()
    for _ in range(60):
        tab.key("Tab")
        reached.add(tab.run("document.activeElement.id"))
        outline = tab.run("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or tab.run("document.activeElement === document.body")
    assert wanted <= reached


def test_a_click_on_a_point_shows_its_match(tab, small):
    scores, page = small
    tab.open(page)
    tab.select(0)
    points = scores.points[0]
    tab.run("document.getElementById('panels').scrollIntoView({block: 'center'})")
    box, rows, columns = (16, 12, 144, 108), *GRID

    def centre(side, cell):
        left, top, width, height = tab.run(
            f"(() => {{ const b = document.querySelector('#frame-{side} img')"
            ".getBoundingClientRect(); return [b.x, b.y, b.width, b.height] })()"
        )
        x = box[0] + (cell % columns + 0.5) * (box[2] - box[0]) / columns
        y = box[1] + (cell // columns + 0.5) * (box[3] - box[1]) / rows
        return left + width * x / SIZE[1], top + height * y / SIZE[0]

    for point in (0, 30, 59):
        tab.click(*centre("generation", int(points.cells[point])))
        assert tab.run("vsmReport.pair.layer.chosen") == point
        said = tab.text("point-said")
        fails = not points.visual_similarity[point] > np.float32(0.66)
        assert f"Point {point + 1} of 60: {'mismatched' if fails else 'matched'}." in said
        assert f"{points.visual_similarity[point]:.3f}" in said
        rings = tab.run("(() => { const o = document.getElementById('links')"
                        ".getBoundingClientRect(); return [...document.querySelectorAll("
                        "'#links circle.over')].map(c => [o.x + c.cx.baseVal.value, "
                        "o.y + c.cy.baseVal.value]) })()")  # fmt: skip
        ends = (centre("generation", int(points.cells[point])),
                centre("reference", int(points.targets[point])))  # fmt: skip
        np.testing.assert_allclose(rings, ends, atol=1)
    tab.click(*centre("reference", int(points.targets[7])))
    assert tab.run("vsmReport.pair.layer.chosen") == 7


def test_points_by_keyboard(tab, small):
    scores, page = small
    tab.open(page)
    tab.select(0)
    tab.run("document.getElementById('frame-generation').focus()")
    tab.key("Home")
    assert tab.run("vsmReport.pair.layer.chosen") == 0  # its similarity equals the threshold
    assert tab.run("document.getElementById('point-said').dataset.kind") == "mismatched"
    tab.key("ArrowRight")
    cells = scores.points[0].cells
    chosen = tab.run("vsmReport.pair.layer.chosen")
    assert cells[chosen] % GRID[1] > cells[0] % GRID[1]
    failing = np.flatnonzero(~(scores.points[0].visual_similarity > np.float32(0.66)))
    tab.key("Enter")
    assert tab.run("vsmReport.pair.layer.chosen") == failing[failing > chosen][0]
    tab.key("Escape")
    assert tab.run("document.querySelectorAll('#links circle').length") == 0
    assert tab.text("point-said") == ""


def test_blend_wipe_points_and_lines(tab, small):
    scores, page = small
    tab.open(page)
    tab.select(0)
    tab.fill("#strength", "30")
    assert tab.run("vsmReport.pair.canvas.style.opacity") == "0.3"
    tab.click_on("input[value=wipe]")
    assert tab.run("vsmReport.pair.canvas.style.clipPath") == "inset(0px 70% 0px 0px)"
    assert tab.run("vsmReport.pair.divider.checkVisibility()")
    tab.fill("#shown-points", "mismatched", "change")
    tab.fill("#shown-lines", "all", "change")
    failing = int((scores.points[0].visual_similarity <= np.float32(0.66)).sum())
    assert tab.run("vsmReport.pair.layer.places.size") == failing
    lines = tab.run("document.querySelector('#links .mismatched.over').getAttribute('d')")
    assert lines.count("L") == failing
    tab.fill("#shown-points", "none", "change")
    assert tab.run("document.getElementById('links').childElementCount") == 0


def test_dark_mode_follows_the_system_and_the_button(tab, small):
    tab.open(small[1])
    paper = "getComputedStyle(document.body).backgroundColor"
    light = tab.run(paper)
    tab.page.emulate_media(color_scheme="dark")
    dark = tab.run(paper)
    assert light != dark
    tab.click_on("#theme")
    assert tab.run(paper) == light
    tab.page.emulate_media(color_scheme="light")
    tab.click_on("#theme")
    assert tab.run(paper) == dark
    tab.open(small[1])
    assert tab.run(paper) == dark  # it stays
    tab.click_on("#theme")
    assert tab.text("theme") == "Theme: auto"


def test_a_narrow_window_scrolls_vertically_only(tab, small):
    tab.page.set_viewport_size({"width": 360, "height": 740})
    tab.open(small[1])
    assert tab.run("document.documentElement.scrollWidth") <= 360


def test_missing_images_leave_a_note(tab, small):
    tab.open(small[1])
    tab.select(2)
    assert "could not be read" in tab.run("document.getElementById('frame-generation').innerText")
    assert tab.run("document.querySelector('#frame-heat canvas').checkVisibility()")
    assert tab.run("document.querySelector('#frame-reference img').naturalWidth") == SIZE[1]
    tab.select(1)
    assert "no point matched" in tab.text("no-heat")
    assert tab.text("pair-detail") == ("no point matched semantically")


def test_without_points_and_without_rows(tab, tmp_path):
    plain = made_scores(4, 20)
    write_report(results_of(plain.to_arrow()), tmp_path / "plain.html")
    tab.open(tmp_path / "plain.html")
    assert tab.run("document.getElementById('threshold').disabled")
    assert "--points" in tab.text("without-points")
    found = numbers(tab, "vsmReport.scores").astype(np.float32)
    np.testing.assert_array_equal(found, plain.score)
    write_report(results_of(plain.to_arrow(points=True).slice(0, 0)), tmp_path / "none.html")
    tab.open(tmp_path / "none.html")
    assert "no rows" in tab.run("document.body.innerText")


def test_hostile_texts_stay_text(tab, tmp_path):
    scores = made_scores(5, 20, names=HOSTILE, gens=list(HOSTILE), refs=list(HOSTILE[::-1]))
    for column in ("reason", "notes", "status", "ref_mask_origin"):
        getattr(scores, column)[:] = list(HOSTILE)
    scores.extra["subject"][:] = HOSTILE
    scores = scores.with_columns({"generator": list(HOSTILE), "<b>more</b>": list(HOSTILE)})
    object.__setattr__(scores, "model", HOSTILE[0])
    write_report(results_of(scores.to_arrow(points=True)), tmp_path / "h.html", title=HOSTILE[1])
    tab.open(tmp_path / "h.html")
    for row, name in enumerate(HOSTILE):
        tab.select(row)
        assert tab.text("pair-name") == name
        facts = tab.run("[...document.querySelectorAll('#facts dd')].map(dd => dd.textContent)")
        assert facts.count(name) >= 4
    assert tab.run("document.title") == HOSTILE[1]
    names = tab.run("[...document.querySelectorAll('#filter-subject option')].map(o => o.text)")
    assert json.dumps(HOSTILE[0]) in map(json.dumps, names)
    assert (
        tab.run("document.querySelectorAll('[onerror], [onload], b[title], img[src=x]').length")
        == 0
    )
