"""``vsm-fast serve``: the report as a local page that also scores dropped images."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Literal

from vsm_fast.cli.common import ExitCode, UsageError, print_text, require
from vsm_fast.cli.options import Directory, ModelOptions, Port, QuietCommand, option

if TYPE_CHECKING:
    from vsm_fast.report.uploads import MaskChoice


@dataclass(frozen=True, kw_only=True)
class Serve(QuietCommand):
    """Explore results and score dropped images on a local page."""

    results: Annotated[Path | None, option("file or folder of results")] = field(
        default=None, kw_only=False
    )
    host: Annotated[str, option("address to listen on")] = "127.0.0.1"
    port: Annotated[Port, option("0 = any free port")] = 8000
    root: Annotated[Directory | None, option("base of relative image paths")] = None
    masks: Annotated[
        Literal["auto", "whole"],
        option(
            "images without a mask: segment the subject, or score the whole image; the page "
            "can override it"
        ),
    ] = "auto"
    model: ModelOptions = field(default_factory=ModelOptions)

    def run(self) -> ExitCode:
        """Serve until Ctrl-C."""
        require("serve", "starlette", "python_multipart", "jinja2", "uvicorn")
        from vsm_fast.report.server import is_loopback, make_app, make_server, score_images

        masks: list[MaskChoice] = ["whole", "auto"] if self.masks == "whole" else ["auto", "whole"]
        page = _page(self.results, self.root, masks)
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listener = socket.create_server((self.host, self.port), family=family)
        except OSError as error:
            raise UsageError(f"cannot listen on {self.host}, port {self.port}: {error}.") from error
        with listener:
            scorer = self.model.scorer()
            stop = Event()
            score = partial(score_images, scorer, stop)
            app = make_app(page, score, self.host, masks=masks[0])
            if not is_loopback(self.host):
                print(
                    f"vsm-fast: warning: everyone who can reach {self.host} can see these results "
                    "and use this machine; there is no password and no encryption.",
                    file=sys.stderr,
                )
            if not self.quiet:
                name = f"[{self.host}]" if ":" in self.host else self.host
                print_text(f"http://{name}:{listener.getsockname()[1]}/  (stop with Ctrl-C)")
            make_server(app, stop.set).run(sockets=[listener])  # ends with KeyboardInterrupt
        return ExitCode.OK


def _page(results: Path | None, root: Path | None, masks: Sequence[str]) -> str:
    import pyarrow as pa

    from vsm_fast.report.data import REQUIRED, read_results, results_of
    from vsm_fast.report.images import thumbnails
    from vsm_fast.report.page import DEFAULT_IMAGES, render_page
    from vsm_fast.report.uploads import Limits

    if results is None:
        empty: dict[str, Any] = {name: pa.array([], pa.string()) for name in REQUIRED}
        shown = results_of(pa.table(empty))
    else:
        shown = read_results(results)
    pictures = thumbnails(shown, DEFAULT_IMAGES, root)
    return render_page(shown, pictures, "VSM explorer", limits=asdict(Limits()), masks=masks)
