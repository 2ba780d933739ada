"""Local server: the report page, and one endpoint that scores uploads.

The server is meant for one machine. A page of another site in the same browser must not reach it:
the Host header has to name this machine (against DNS rebinding), and script requests have to come
from the page itself. No request contains a path.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from vsm_fast.report.data import results_of
from vsm_fast.report.images import thumbnails
from vsm_fast.report.page import payload
from vsm_fast.report.uploads import SIDES, Limits, MaskChoice, UploadedImage, receive_images
from vsm_fast.scorer import VSMScorer

MAX_REQUESTS = 4  # scored or waiting; further ones get 503
WAIT_SECONDS = 120.0
_MAX_CONNECTIONS = 64  # a further one replaces the one that has waited longest
_SHUTDOWN_SECONDS = 3  # for answers in progress
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Uploads = Mapping[str, Sequence[UploadedImage]]


class ServerStopped(Exception):
    """The server shuts down during a request."""


def score_images(scorer: VSMScorer, stop: threading.Event, images: Uploads) -> dict[str, Any]:
    """Score every generation against every reference.

    Args:
        scorer: Model.
        stop: Checked between batches; once set, the request ends.
        images: Images of each of ``SIDES``.

    Returns:
        The :func:`vsm_fast.report.page.payload` of the scores; the row of an unusable image has
        its status.

    Raises:
        ServerStopped: If ``stop`` is set.
    """

    def watch(_done: int, _all: int) -> None:
        if stop.is_set():
            raise ServerStopped

    references, generations = (images[side] for side in SIDES)
    pairs = [(r, g) for g in range(len(generations)) for r in range(len(references))]
    scores = scorer.score(
        [image.path for image in references],
        [image.path for image in generations],
        pairs=pairs,
        ref_masks=[image.mask for image in references],
        gen_masks=[image.mask for image in generations],
        heatmaps=True,
        progress=watch,
    )
    results = results_of(scores.to_arrow(points=True))
    pictures = thumbnails(results, len(results))
    refs = [references[r].name for r, _ in pairs]
    gens = [generations[g].name for _, g in pairs]
    ids = [f"{gen} / {ref}" for ref, gen in zip(refs, gens, strict=True)]
    texts = {
        **results.texts,
        "id": ids if len(references) > 1 else gens,
        "ref_id": refs,
        "gen_id": gens,
    }
    for column in ("reason", "notes"):
        texts[column] = [_with_names(text, images) for text in texts[column]]
    return payload(replace(results, texts=texts), pictures)


def _with_names(text: str, images: Uploads) -> str:
    """Replace the temporary paths in a message with the uploaded names."""
    for image in (image for side in SIDES for image in images[side]):
        if isinstance(image.mask, Path):
            text = text.replace(str(image.mask), f"the mask of {image.name}")
        text = text.replace(str(image.path), image.name)
    return text


def make_app(
    page: str,
    score: Callable[[dict[str, list[UploadedImage]]], dict[str, Any]],
    host: str,
    limits: Limits | None = None,
    masks: MaskChoice = "whole",
) -> Any:
    """Return the ASGI application of the server.

    Args:
        page: HTML of ``/``.
        score: Scores the uploads of one request, in a thread; calls do not overlap.
        host: Address that the server listens on.
        limits: Limits of uploads; None = defaults.
        masks: Handling of images without a mask, unless the form overrides it.
    """
    content = page.encode("utf-8")
    limits = limits or Limits()
    lock = anyio.Lock()
    requests = 0

    def busy() -> HTTPException:
        return HTTPException(
            503,
            "The server is scoring other images; try again in a moment.",
            headers={"Retry-After": "10"},
        )

    async def scored(images: dict[str, list[UploadedImage]]) -> dict[str, Any]:
        try:
            with anyio.fail_after(WAIT_SECONDS):
                await lock.acquire()
        except TimeoutError:
            raise busy() from None
        try:
            return dict(await anyio.to_thread.run_sync(score, images))
        finally:
            lock.release()

    async def upload(request: Request) -> Response:
        nonlocal requests
        if requests >= MAX_REQUESTS:
            raise busy()
        requests += 1  # before the upload is read: uploads need room too
        try:
            with tempfile.TemporaryDirectory(prefix="vsm-fast-") as folder:
                images = await receive_images(request, Path(folder), limits, masks)
                return JSONResponse(await scored(dict(images)))
        except (ServerStopped, anyio.get_cancelled_exc_class()):  # Ctrl-C is not an error
            raise HTTPException(503, "The server is shutting down.") from None
        finally:
            requests -= 1

    async def index(_: Request) -> Response:
        return Response(content, media_type="text/html")

    async def no_icon(_: Request) -> Response:
        return Response(status_code=204)

    routes = [
        Route("/", index),
        Route("/favicon.ico", no_icon),
        Route("/score", upload, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes), host)


class Guard:
    """ASGI middleware that refuses other hosts and sites, and adds security headers.

    Args:
        app: Application for accepted requests.
        host: Address that the server listens on.
    """

    def __init__(self, app: Any, host: str) -> None:
        self._app, self._host = app, host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":  # start and stop of the server; web sockets are off
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        headers = Request(scope).headers
        host, origin = headers.get("host", ""), headers.get("origin")
        app = self._app
        if not allowed_host(host, self._host):
            app = PlainTextResponse("The Host header does not name this server.", 421)
        elif origin is not None and origin != f"http://{host}":
            app = PlainTextResponse("Requests from other sites are refused.", 403)
        await app(scope, receive, send_with_headers)


def allowed_host(header: str, listening: str) -> bool:
    """Return whether a Host header names this machine.

    A name that an attacker points to this machine is refused. A loopback server allows loopback
    names and addresses; another server allows addresses, the host name, and the name of ``--host``.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    try:
        number = ipaddress.ip_address(name)
    except ValueError:
        own = () if is_loopback(listening) else (listening, socket.gethostname())
        return name in {"localhost", *(one.lower() for one in own)}
    return number.is_loopback or not is_loopback(listening)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Connection(H11Protocol):
    """HTTP/1.1 connection that drops idle clients.

    uvicorn limits only the pause between two requests. This class drops clients that neither
    finish a request nor read their answer; handlers limit the time of uploads and scoring.
    """

    patience = 10.0  # seconds between two checks; the second check without progress is the last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the checks, and drop the oldest idle connection if there are too many."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._seen: tuple[Any, int] = (None, 0)
        self._timer = self.loop.call_later(self.patience, self._check)
        others = (one for one in self.connections if one is not self)
        idle = [one for one in others if isinstance(one, Connection) and one._is_idle()]
        if len(self.connections) > _MAX_CONNECTIONS and idle:
            oldest = min(idle, key=lambda other: other._since)
            self.connections.discard(oldest)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the checks."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        """Return whether no request is complete and no answer is in progress."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and not self.transport.get_write_buffer_size()

    def _check(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        state = self.cycle, unsent
        if state == self._seen and (unsent or self._is_idle()):
            self.transport.abort()
            return
        self._seen = state
        self._timer = self.loop.call_later(self.patience, self._check)


class _Server(uvicorn.Server):
    """Server with a shutdown callback."""

    on_exit: Callable[[], None]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle each signal."""
        self.on_exit()
        super().handle_exit(sig, frame)


def make_server(app: Any, on_exit: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """Return the server of an ASGI application, not yet running.

    Args:
        app: Application.
        on_exit: Called on Ctrl-C, to end the scoring in progress.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        limit_concurrency=2 * _MAX_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    server = _Server(config)
    server.on_exit = on_exit
    return server
