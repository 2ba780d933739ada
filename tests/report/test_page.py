"""The report file: security of its content, packed data, and the command."""

import base64
import hashlib
import json
import re
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
from report_tables import HOSTILE, made_images, made_scores

from vsm_fast.cli.main import main
from vsm_fast.cli.report import _IMAGES
from vsm_fast.report import read_results, results_of, write_report
from vsm_fast.report.images import thumbnails
from vsm_fast.report.page import DEFAULT_IMAGES, json_in_html, pack, render_page


class Elements(HTMLParser):
    """Start tags with attributes, and the text of each element."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.inside = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.texts.append("")
        self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data

    def of(self, name):
        return [
            (attributes, text)
            for (tag, attributes), text in zip(self.tags, self.texts, strict=True)
            if tag == name
        ]


def page_of(scores, **options):
    results = results_of(scores.to_arrow(points=True))
    return render_page(results, thumbnails(results, 0), options.get("title", "title"))


def test_the_policy_allows_this_script_and_these_styles_only():
    elements = Elements(page_of(made_scores(3, points=4)))
    policy = next(a["content"] for a, _ in elements.of("meta") if "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    code = [text for attributes, text in elements.of("script") if attributes["type"] == "module"]
    for kind, text in (("script", code[0]), ("style", elements.of("style")[0][1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert len(code) == 1


def test_the_page_loads_nothing():
    elements = Elements(page_of(made_scores(3, points=4)))
    for tag, attributes in elements.tags:
        assert tag not in ("link", "iframe", "object", "img"), tag
        assert not {"src", "srcset", "action", "style"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
    code = elements.of("script")[-1][1]
    assert len(code) > 10_000
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                 "</script", "<!--", "://", "fetch("):  # fmt: skip
        assert sink not in code.replace('"http://www.w3.org/2000/svg"', ""), sink


def test_table_texts_cannot_become_markup():
    scores = made_scores(5, points=4, names=HOSTILE)
    object.__setattr__(scores, "model", HOSTILE[0])
    page = page_of(scores, title=HOSTILE[1])
    tags = {tag for tag, _ in Elements(page).tags}
    assert "img" not in tags
    assert page.count("<svg") == 2  # the histogram and the lines
    assert "\u2028" not in page


def test_json_cannot_end_its_element():
    text = json_in_html({"a": list(HOSTILE)})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"a": list(HOSTILE)}


def test_packed_columns_equal_the_table():
    scores = made_scores(12, points=5)
    results = results_of(scores.to_arrow(points=True))
    header, stream = pack(results, thumbnails(results, 0))
    content = zlib.decompress(stream)
    blocks, place = {}, 0
    for name, kind, length in header["blocks"]:
        assert place % np.dtype(kind).itemsize == 0
        blocks[name] = np.frombuffer(content, f"<{np.dtype(kind).str[1:]}", length, place)
        place += blocks[name].nbytes
    assert place == len(content)
    apart = blocks["visual"].reshape(4, -1)
    first = struct.unpack("<f", bytes(apart[:, 0]))[0]
    assert np.float32(first) == scores.visual_similarity[0]
    cells = np.cumsum(blocks["cells"], dtype=np.uint16)
    np.testing.assert_array_equal(cells, results.points.cells)
    texts = json.loads(blocks["texts"].tobytes())
    assert [texts["id"][code] for code in blocks["text:id"]] == results.texts["id"]
    assert len(texts["subject"]) == 3
    shown = blocks["semantic"] / 127.5 - 1
    assert np.abs(shown - results.points.semantic_similarity).max() < 0.004


def test_pages_are_reproducible(tmp_path):
    made_scores(4, points=3, gens=made_images(tmp_path, 2)).to_parquet(
        tmp_path / "r.parquet", points=True
    )
    pages = []
    for name in ("a.html", "b.html"):
        write_report(read_results(tmp_path / "r.parquet"), tmp_path / name)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_the_command(tmp_path, capsys):
    images = made_images(tmp_path, 2)
    scores = made_scores(4, points=3, refs=images[:1], gens=[images[1], "gone.png"])
    scores.to_parquet(tmp_path / "r.parquet", points=True)
    out = tmp_path / "new/report.html"
    assert main(["report", str(tmp_path / "r.parquet"), "--out", str(out), "--title", "Mine"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"report: .*report\.html \(0\.\d MB, 4 pairs, 2 images\)", said)
    assert "1 images could not be read" in said
    assert "<title>Mine</title>" in out.read_text()
    quiet = ["report", str(tmp_path / "r.parquet"), "--out", str(out), "--no-images", "--quiet"]
    assert main(quiet) == 0
    assert capsys.readouterr().out == ""
    assert 'id="image-0"' not in out.read_text()


def test_the_default_of_the_command():
    assert _IMAGES == DEFAULT_IMAGES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.parquet", "--out", "x.html"], "does not exist"),
        (["r.parquet", "--out", "x.pdf"], "must end in .html"),
        (["r.parquet", "--out", "x.html", "--root", "r.parquet"], "--root must be a folder"),
        (["text.parquet", "--out", "x.html"], "not a Parquet file"),
    ],
)
def test_wrong_inputs(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    made_scores(1, points=3).to_parquet("r.parquet", points=True)
    (tmp_path / "text.parquet").write_text("no")
    assert main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()
