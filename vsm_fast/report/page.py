"""The page: template, styles, scripts and data, put together into one file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vsm_fast import __version__
from vsm_fast.files import replacing
from vsm_fast.report.data import SETTINGS, Results
from vsm_fast.report.images import Thumbnails, thumbnails
from vsm_fast.report.packing import pack

_FOLDER = Path(__file__).parent
# In the order in which they build on each other; together they are one module.
_SCRIPTS = ("dataset.js", "heat.js", "plots.js", "table.js", "points.js", "pair.js", "report.js")
DEFAULT_IMAGES = 400


def write_report(
    results: Results,
    path: str | os.PathLike[str],
    *,
    title: str = "VSM report",
    images: int = DEFAULT_IMAGES,
    root: str | os.PathLike[str] | None = None,
) -> Thumbnails:
    """Write a report, one self-contained HTML file, whole or not at all.

    Args:
        results: What to show.
        path: File to write; its folder must exist.
        title: Of the page.
        images: Rows that get pictures; the others have numbers, points and heat maps only.
        root: What relative paths of images start from; None = the current folder.

    Returns:
        The pictures in it.

    Raises:
        ImportError: Jinja2 is not installed.
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
    """The page as HTML.

    Args:
        results: What to show.
        pictures: The images in it.
        title: Of the page.
        limits: Of uploads, with which the page has the part that sends images to ``vsm-fast
            serve``; None = a page without a server.
        masks: Choices for images without a mask, the default first.
    """
    from markupsafe import Markup

    header, stream = pack(results, pictures)
    served = limits is not None
    script, style = _script(served), (_FOLDER / "static/report.css").read_text(encoding="utf-8")
    page = _template().render(
        title=title,
        policy=policy(script, style, served),
        head=_head(results, pictures),
        empty=not len(results),
        limits=limits,
        masks=masks,
        script=Markup(script),  # noqa: S704  our own file
        style=Markup(style),  # noqa: S704  our own file
        header=Markup(json_in_html(header)),  # noqa: S704  escaped by json_in_html
        stream=base64.b64encode(stream).decode("ascii"),
        images=[base64.b64encode(file).decode("ascii") for file in pictures.files],
    )
    return str(page)


def payload(results: Results, pictures: Thumbnails) -> dict[str, Any]:
    """The same data for a page that is open already, of plain JSON types."""
    header, stream = pack(results, pictures)
    return {
        "header": header,
        "stream": base64.b64encode(stream).decode("ascii"),
        "images": [base64.b64encode(file).decode("ascii") for file in pictures.files],
        "head": _head(results, pictures),
    }


def policy(script: str, style: str, served: bool) -> str:
    """The Content-Security-Policy: our own script and styles, images of its own, nothing else."""
    parts = [
        "default-src 'none'",
        f"script-src {_hash(script)}",
        f"style-src {_hash(style)}",
        "img-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return "; ".join([*parts, "connect-src 'self'"] if served else parts)


def json_in_html(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends or escapes the element."""
    text = json.dumps(value, allow_nan=False)  # ASCII, so no line separators of Unicode either
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _script(served: bool) -> str:
    names = (*_SCRIPTS, "upload.js") if served else _SCRIPTS
    parts = [(_FOLDER / "static" / name).read_text(encoding="utf-8") for name in names]
    return "\n".join([*parts, "start();\n"])


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
    """What stands under the title."""
    return [*_counts(results, pictures), *_shown_settings(results)]


def _shown_settings(results: Results) -> list[tuple[str, str]]:
    names = dict(zip(SETTINGS, ("Model", "Semantic threshold", "Visual threshold", "vsm_fast"),
                     strict=True))  # fmt: skip
    known = results.settings or {"vsm_fast_version": __version__}
    return [(names[name], value) for name, value in known.items()]


def _counts(results: Results, pictures: Thumbnails) -> list[tuple[str, str]]:
    """What there is and what failed, for the head of the page."""
    scored = np.isfinite(results.score)
    pairs = f"{len(results):,}"
    if results.planned not in (None, len(results)):
        pairs += f" of {results.planned:,}"
    counts = [("Pairs", pairs), ("Scored", f"{int(scored.sum()):,}")]
    failed = Counter(
        status or "no status"
        for status, fine in zip(results.texts["status"], scored, strict=True)
        if not fine
    )
    counts += [(name.replace("_", " "), f"{count:,}") for name, count in failed.most_common()]
    if pictures.missing:
        counts.append(("Images that could not be read", f"{pictures.missing:,}"))
    return counts
