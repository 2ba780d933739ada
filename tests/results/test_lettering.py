"""Text in pictures: the font, its glyphs, and cuts of long names."""

from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import ImageFont

from vsm_fast.results import lettering
from vsm_fast.results.lettering import drawable, elide, has_glyph, pillow_font

PLAIN = ImageFont.load_default(20)  # Pillow's own


def test_matplotlibs_font_has_accents_and_greek():
    pytest.importorskip("matplotlib")
    font = pillow_font(20)
    assert font.getname()[0] == "DejaVu Sans"
    assert all(has_glyph(font, character) for character in "aäßéœτя…× ")
    assert not has_glyph(font, "你")


def test_locating_the_font_does_not_import_matplotlib():
    code = (
        "import sys; from vsm_fast.results import lettering; "
        "lettering.pillow_font(9); print([*sys.modules])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'matplotlib'" not in seen.stdout


def test_pillows_font_is_the_fallback(monkeypatch):
    monkeypatch.setattr(lettering, "dejavu_sans", lettering.dejavu_sans.__wrapped__)
    monkeypatch.setattr(lettering, "find_spec", lambda name: None)
    assert pillow_font(20).getname() == PLAIN.getname()
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
def test_missing_glyphs_become_the_base_letter_or_a_question_mark(name, shown):
    assert drawable(name, lambda character: has_glyph(PLAIN, character)) == shown


def test_available_glyphs_stay():
    assert drawable("Ba\u0308r你", lambda character: True) == "Bär你"


def test_long_names_keep_both_ends_and_fill_the_room():
    name = "first/" + "x" * 3000 + "/last.png"
    cut = elide(name, PLAIN.getlength, 300)
    assert cut.startswith("first/")
    assert cut.endswith("/last.png")
    assert PLAIN.getlength(cut) <= 300
    kept = len(cut) - 1
    longer = f"{name[: kept + 1 - (kept + 1) // 2]}…{name[-((kept + 1) // 2) :]}"
    assert PLAIN.getlength(longer) > 300


@pytest.mark.parametrize(
    ("name", "room", "shown"), [("short", 300, "short"), ("long name", 1, "…"), ("", 0, "")]
)
def test_short_names_stay_and_hopeless_ones_become_dots(name, room, shown):
    assert elide(name, PLAIN.getlength, room) == shown
