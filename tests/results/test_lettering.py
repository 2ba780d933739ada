"""Names in pictures: which font, what of a name it can show, and how a long name is cut."""

from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import ImageFont

from vsm_fast.results import lettering
from vsm_fast.results.lettering import drawable, elide, has_glyph, pillow_font

PLAIN = ImageFont.load_default(20)  # Pillow's own


@pytest.fixture
def without_matplotlib(monkeypatch):
    monkeypatch.setattr(lettering, "find_spec", lambda name: None)
    lettering.dejavu_sans.cache_clear()
    yield
    lettering.dejavu_sans.cache_clear()


def test_with_matplotlib_accents_and_greek_are_drawn():
    pytest.importorskip("matplotlib")
    font = pillow_font(20)
    assert font.getname()[0] == "DejaVu Sans"
    assert all(has_glyph(font, character) for character in "aäßéœτя…× ")
    assert not has_glyph(font, "你")


def test_finding_the_font_does_not_import_matplotlib():
    code = "import sys; from vsm_fast.results.lettering import *; pillow_font(9); print(sys.modules.keys())"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'matplotlib'" not in seen.stdout


@pytest.mark.usefixtures("without_matplotlib")
def test_without_matplotlib_pillow_has_the_font():
    assert pillow_font(20).getname() == PLAIN.getname()


def test_glyphs_of_pillows_font():
    assert all(has_glyph(PLAIN, character) for character in "az09 ?…")
    assert not any(has_glyph(PLAIN, character) for character in "äτ你")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("bear 1.png", "bear 1.png"),
        ("Bär.png", "Bar.png"),
        ("Ba\u0308r.png", "Bar.png"),  # stored as letter and accent
        ("你好_熊.png", "??_?.png"),
        ("a\nb\x1b[31m", "a?b?[31m"),
        ("", ""),
    ],
)
def test_what_the_font_lacks_becomes_the_base_letter_or_a_question_mark(name, shown):
    assert drawable(name, lambda character: has_glyph(PLAIN, character)) == shown


def test_what_the_font_has_stays():
    assert drawable("Ba\u0308r你", lambda character: True) == "Bär你"


def test_long_names_keep_both_ends():
    name = "first/" + "x" * 3000 + "/last.png"
    cut = elide(name, PLAIN.getlength, 300)
    assert cut.startswith("first/")
    assert cut.endswith("/last.png")
    assert PLAIN.getlength(cut) <= 300
    kept = len(cut) - 1
    longer = f"{name[: kept + 1 - (kept + 1) // 2]}…{name[-((kept + 1) // 2) :]}"
    assert PLAIN.getlength(longer) > 300  # no room was left unused


def test_short_names_stay_and_hopeless_ones_are_dots():
    assert elide("short", PLAIN.getlength, 300) == "short"
    assert elide("long name", PLAIN.getlength, 1) == "…"
    assert elide("", PLAIN.getlength, 0) == ""
