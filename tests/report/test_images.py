"""Thumbnails: selection of rows, one file per image."""

from io import BytesIO

import numpy as np
from PIL import Image
from report_tables import made_images, made_scores

from vsm_fast.report import results_of
from vsm_fast.report.images import LONGEST, illustrated_rows, thumbnails


def test_few_rows_are_all_illustrated():
    assert illustrated_rows(np.float32([0.5, np.nan, 0.1]), 3).tolist() == [0, 1, 2]
    assert illustrated_rows(np.float32([]), 3).tolist() == []
    assert illustrated_rows(np.float32([0.5]), 0).tolist() == []


def test_many_rows_keep_both_ends_and_a_sample():
    score = np.linspace(0, 1, 100, dtype=np.float32)[::-1].copy()
    score[:10] = np.nan
    rows = illustrated_rows(score, 20)
    assert len(set(rows.tolist())) == 20
    lowest, highest = set(range(90, 100)), set(range(10, 15))
    assert lowest | highest <= set(rows.tolist())
    between = [row for row in rows if row not in lowest | highest]
    assert min(np.diff(between)) > 5
    assert np.isnan(score[rows]).any()


def test_thumbnails_are_distinct_and_small(tmp_path):
    paths = made_images(tmp_path, 3)
    big = tmp_path / "big.png"
    Image.new("RGB", (1000, 400), (200, 30, 30)).save(big)
    scores = made_scores(6, points=3, refs=paths[:1], gens=[*paths[1:], str(big)])
    pictures = thumbnails(results_of(scores.to_arrow()), 6)
    assert len(pictures.files) == 4
    assert pictures.missing == 0
    assert set(pictures.reference.tolist()) == {0}
    assert len(set(pictures.generation.tolist())) == 3
    shown = Image.open(BytesIO(pictures.files[pictures.generation[2]]))
    assert (shown.format, shown.size) == ("WEBP", (LONGEST, 144))
    assert shown.convert("RGB").getpixel((50, 50))[0] > 180


def test_missing_images_and_root(tmp_path):
    made_images(tmp_path, 2)
    scores = made_scores(3, points=3, refs=["0.png"], gens=["1.png", "gone.png", "1.png"])
    results = results_of(scores.to_arrow())
    pictures = thumbnails(results, 3, tmp_path)
    assert pictures.generation.tolist() == [1, -2, 1]
    assert pictures.missing == 1
    assert thumbnails(results, 1, tmp_path).generation.tolist().count(-1) == 2
    assert thumbnails(results, 3).missing == 3  # from the current folder: none is there
