"""Report page: template, styles, scripts and packed data in one HTML file.

Columns travel as compressed bytes, which the script unpacks into typed arrays. A header lists the
blocks, widest types first, so that each block is aligned. Texts form one JSON block: names and
reasons never appear in the page as markup, and repeated ones are stored once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vsm_fast import __version__
from vsm_fast.files import replacing
from vsm_fast.report.data import Results
from vsm_fast.report.images import Thumbnails, thumbnails
from vsm_fast.results.heatmap import SMOOTHING_REACH, SMOOTHING_SIGMA
from vsm_fast.results.overlay import BLEND, COLOUR_ANCHORS, DIMMED, DIMMED_TOWARDS

DEFAULT_IMAGES = 400
_FOLDER = Path(__file__).parent
# One module, in the order of definition.
_SCRIPTS = ("dataset.js", "heat.js", "plots.js", "table.js", "points.js", "pair.js", "report.js")
_ZLIB_LEVEL = 6  # 9 takes three times as long for half a percent
_LABELS = {
    "model": "Model",
    "semantic_threshold": "Semantic threshold",
    "visual_threshold": "Visual threshold",
    "vsm_fast_version": "vsm_fast",
}


def write_report(
    results: Results,
    path: str | os.PathLike[str],
    *,
    title: str = "VSM report",
    images: int = DEFAULT_IMAGES,
    root: str | os.PathLike[str] | None = None,
) -> Thumbnails:
    """Write a report, one self-contained HTML file, atomically.

    Args:
        results: Results to show.
        path: File to write; its folder must exist.
        title: Page title.
        images: Number of rows with pictures; the others have numbers, points and heat maps.
        root: Base of relative image paths; None = the current folder.

    Returns:
        The pictures of the page.

    Raises:
        ImportError: If Jinja2 is not installed.
    """
    pictures = thumbnails(results, images, root)
    page = render_page(results, pictures, title)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    return pictures


def render_page(
    results: Results,
    pictures: Thumbnails,
    title: str,
    *,
    limits: Mapping[str, float] | None = None,
    masks: Sequence[str] = (),
) -> str:
    """Return the page as HTML.

    Args:
        results: Results to show.
        pictures: Thumbnails of the results.
        title: Page title.
        limits: Upload limits, for a page of ``vsm-fast serve`` with an upload form; None = a page
            without a server.
        masks: Choices for images without a mask, the default first.
    """
    from markupsafe import Markup

    served = limits is not None
    names = (*_SCRIPTS, "upload.js") if served else _SCRIPTS
    parts = [(_FOLDER / "static" / name).read_text(encoding="utf-8") for name in names]
    script = "\n".join([*parts, "start();\n"])
    style = (_FOLDER / "static/report.css").read_text(encoding="utf-8")
    data = payload(results, pictures)
    page = _template().render(
        title=title,
        policy=_policy(script, style, served),
        empty=not len(results),
        limits=limits,
        masks=masks,
        script=Markup(script),  # noqa: S704  our own file
        style=Markup(style),  # noqa: S704  our own file
        **{**data, "header": Markup(json_in_html(data["header"]))},  # noqa: S704  escaped
    )
    return str(page)


def payload(results: Results, pictures: Thumbnails) -> dict[str, Any]:
    """Return the data of a page as JSON values: header, stream, images and head."""
    header, stream = pack(results, pictures)
    return {
        "header": header,
        "stream": base64.b64encode(stream).decode("ascii"),
        "images": [base64.b64encode(file).decode("ascii") for file in pictures.files],
        "head": _head(results, pictures),
    }


def pack(results: Results, pictures: Thumbnails) -> tuple[dict[str, Any], bytes]:
    """Pack the columns for the script.

    Returns:
        The header, of JSON values, and the zlib stream that it describes.
    """
    blocks: dict[str, NDArray[Any]] = {
        "score": results.score,
        "matched": results.n_matched.astype(np.uint32),
        "source": results.n_source.astype(np.uint32),
        "reference": pictures.reference,
        "generation": pictures.generation,
    }
    texts = {}
    for name, column in results.texts.items():
        values = list(dict.fromkeys(column))
        codes = {value: code for code, value in enumerate(values)}
        blocks[f"text:{name}"] = np.array([codes[value] for value in column], np.uint32)
        texts[name] = values
    points = results.points
    if points is not None:
        visual = points.visual_similarity.astype("<f4").view(np.uint8).reshape(-1, 4)
        semantic = points.semantic_similarity.astype(np.float64).clip(-1, 1)
        blocks |= {
            # First bytes of all values, then second ones, …: exact, and compresses better.
            "visual": np.ascontiguousarray(visual.T).reshape(-1),
            # Display only: [-1, 1] in 255 steps, an error below 0.004.
            "semantic": np.rint((semantic + 1) * 127.5).astype(np.uint8),
            "subjectCounts": points.subject_counts.astype(np.uint32),
            "genFrame": points.gen_frame,
            "refFrame": points.ref_frame,
        }
        for name, cells in (
            ("cells", points.cells),
            ("targets", points.targets),
            ("subjectCells", points.subject_cells),
        ):
            # Differences modulo 65,536, mostly small: cells ascend.
            blocks[name] = np.diff(cells, prepend=np.uint16(0))
    blocks["texts"] = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    ordered = sorted(blocks.items(), key=lambda block: -block[1].itemsize)
    header = {
        "count": len(results),
        "settings": dict(results.settings),
        "grid": None if points is None else list(points.grid),
        "withoutPoints": results.without_points,
        "missingImages": pictures.missing,
        "heat": {
            "sigma": SMOOTHING_SIGMA, "reach": SMOOTHING_REACH, "blend": BLEND, "dimmed": DIMMED,
            "dimmedTowards": DIMMED_TOWARDS, "anchors": COLOUR_ANCHORS.tolist(),
        },
        "blocks": [[name, array.dtype.name, array.size] for name, array in ordered],
    }  # fmt: skip
    stream = b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for _, array in ordered)
    return header, zlib.compress(stream, _ZLIB_LEVEL)


def _policy(script: str, style: str, served: bool) -> str:
    """Return the Content-Security-Policy: one script, one style sheet, own images, no more."""

    def hashed(text: str) -> str:
        digest = hashlib.sha256(text.encode("utf-8")).digest()
        return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"

    parts = [
        "default-src 'none'",
        f"script-src {hashed(script)}",
        f"style-src {hashed(style)}",
        "img-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return "; ".join([*parts, "connect-src 'self'"] if served else parts)


def json_in_html(value: Any) -> str:
    """Return JSON for a script element, without characters that could end the element."""
    text = json.dumps(value, allow_nan=False)  # ASCII, so no Unicode line separators either
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@lru_cache(maxsize=1)
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _head(results: Results, pictures: Thumbnails) -> list[tuple[str, str]]:
    """Return the counts and settings below the page title, as labels and values."""
    scored = np.isfinite(results.score)
    pairs = f"{len(results):,}"
    if results.planned not in (None, len(results)):
        pairs += f" of {results.planned:,}"
    head = [("Pairs", pairs), ("Scored", f"{int(scored.sum()):,}")]
    failed = Counter(
        status or "no status"
        for status, has_score in zip(results.texts["status"], scored, strict=True)
        if not has_score
    )
    head += [(name.replace("_", " "), f"{count:,}") for name, count in failed.most_common()]
    if pictures.missing:
        head.append(("Unreadable images", f"{pictures.missing:,}"))
    settings = results.settings or {"vsm_fast_version": __version__}
    return head + [(_LABELS[name], value) for name, value in settings.items()]
