"""``vsm-fast serve``: the report as a local page that also scores what is dropped on it."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from vsm_fast.cli.common import (
    EXIT_CODES,
    ExitCode,
    UsageError,
    add_model,
    add_verbosity,
    load_scorer,
    print_text,
)
from vsm_fast.extras import required

if TYPE_CHECKING:
    from vsm_fast.report.uploads import MaskChoice


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``serve`` to the command line."""
    parser = commands.add_parser(
        "serve",
        help="explore results, and score images that you drop, on a local page",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "results", type=Path, nargs="?", metavar="RESULTS", help="file of results, or folder"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument(
        "--port", type=_port, default=8000, help="0 = any that is free (default: %(default)s)"
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="what relative image paths start from"
    )
    parser.add_argument(
        "--masks",
        choices=("auto", "whole"),
        default="auto",
        help="images without a mask: find the subject, or score the whole image; the page can "
        "override it (default: %(default)s)",
    )
    add_model(parser)
    add_verbosity(parser)
    parser.set_defaults(run=_serve)


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f"a port lies in 0 to 65535; got {text}")
    return value


def _serve(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast serve``."""
    try:
        for module in ("starlette", "python_multipart", "jinja2", "uvicorn"):
            required(module, "vsm-fast serve")
    except ImportError as error:
        raise UsageError(str(error)) from error
    from vsm_fast.report.server import is_loopback, make_app, make_server, score_images

    masks: list[MaskChoice] = ["whole", "auto"] if arguments.masks == "whole" else ["auto", "whole"]
    page = _page(arguments.results, arguments.root, masks)
    with _listening(arguments.host, arguments.port) as listener:
        scorer = load_scorer(arguments)
        stop = Event()
        app = make_app(page, partial(score_images, scorer, stop), arguments.host, masks=masks[0])
        if not is_loopback(arguments.host):
            print(
                f"vsm-fast: warning: anybody who reaches {arguments.host} can see these results "
                "and use this machine; there is no password and no encryption.",
                file=sys.stderr,
            )
        if not arguments.quiet:
            port = listener.getsockname()[1]
            name = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
            print_text(f"http://{name}:{port}/  (Ctrl-C ends it)")
        make_server(app, stop.set).run(sockets=[listener])  # raises KeyboardInterrupt on Ctrl-C
    return ExitCode.OK


def _page(results: Path | None, root: Path | None, masks: Sequence[str]) -> str:
    import pyarrow as pa

    from vsm_fast.report.data import REQUIRED, read_results, results_of
    from vsm_fast.report.images import thumbnails
    from vsm_fast.report.page import DEFAULT_IMAGES, render_page
    from vsm_fast.report.uploads import Limits

    if results is None:
        nothing: dict[str, Any] = {name: pa.array([], pa.string()) for name in REQUIRED}
        shown = results_of(pa.table(nothing))
    else:
        shown = read_results(results)
    pictures = thumbnails(shown, DEFAULT_IMAGES, root)
    return render_page(shown, pictures, "VSM explorer", limits=asdict(Limits()), masks=masks)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}, port {port}: {error}.") from error
