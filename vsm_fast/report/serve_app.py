"""The local server: one page, and one address that scores uploads.

It is meant for one machine. A page of another site that the same browser has open must not reach
it: the Host header has to name this machine (against DNS rebinding), and a request that a script
sends has to come from our own page. No request names a path.
"""

from __future__ import annotations

import ipaddress
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from vsm_fast.report.serve_scoring import Stopped
from vsm_fast.report.serve_uploads import Limits, MaskChoice, UploadedImage, receive_images

PLACES = 4  # requests that are scored or wait for it; further ones are sent away
WAIT_SECONDS = 120.0
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

ScoreImages = Callable[[dict[str, list[UploadedImage]]], dict[str, Any]]


class Desk:
    """Lets one request at a time be scored, and few wait."""

    def __init__(self, score: ScoreImages, limits: Limits, masks: MaskChoice) -> None:
        self._score, self._limits, self._masks = score, limits, masks
        self._lock = anyio.Lock()
        self._taken = 0

    async def handle(self, request: Request) -> Response:
        """Answer one upload; 503 when all places are taken."""
        if self._taken >= PLACES:
            raise _busy()
        self._taken += 1  # before the upload is read: uploads need room too
        try:
            with tempfile.TemporaryDirectory(prefix="vsm-fast-") as folder:
                images = await receive_images(request, Path(folder), self._limits, self._masks)
                return JSONResponse(await self._scored(dict(images)))
        except (Stopped, anyio.get_cancelled_exc_class()):  # by Ctrl-C, which is no error
            raise HTTPException(503, "The server is ending.") from None
        finally:
            self._taken -= 1

    async def _scored(self, images: dict[str, list[UploadedImage]]) -> dict[str, Any]:
        try:
            with anyio.fail_after(WAIT_SECONDS):
                await self._lock.acquire()
        except TimeoutError:
            raise _busy() from None
        try:
            return dict(await anyio.to_thread.run_sync(self._score, images))
        finally:
            self._lock.release()


class Guard:
    """Refuses requests for another host or from another site; adds headers to every answer.

    Args:
        app: What answers the others.
        host: What the server listens on.
    """

    def __init__(self, app: Any, host: str) -> None:
        self._app, self._host = app, host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request, in the interface of ASGI."""
        if scope["type"] != "http":  # start and stop of the server; no web sockets are spoken
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        refusal = self._refusal(Request(scope))
        answer = self._app if refusal is None else refusal
        await answer(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if not allowed_host(host, self._host):
            return PlainTextResponse("This server does not go by that name.", 421)
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return PlainTextResponse("Requests of other sites are not answered.", 403)
        return None


def allowed_host(header: str, listening: str) -> bool:
    """Whether a Host header names this machine.

    A name that an attacker points to this machine is refused. On loopback its names and
    addresses are allowed; on another address numbers are, the machine's own name, and the name
    that ``--host`` gave.
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
    """Whether only this machine can reach what listens on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_app(
    page: str,
    score: ScoreImages,
    host: str,
    limits: Limits | None = None,
    masks: MaskChoice = "whole",
) -> Any:
    """The server's application, an ASGI callable.

    Args:
        page: What ``/`` answers.
        score: Called in a thread, once at a time.
        host: What the server listens on.
        limits: Of uploads; None = the default.
        masks: Of images that come without one, unless their form says otherwise.
    """
    content = page.encode("utf-8")
    desk = Desk(score, limits or Limits(), masks)

    async def index(_: Request) -> Response:
        return Response(content, media_type="text/html")

    async def no_icon(_: Request) -> Response:
        return Response(status_code=204)

    routes = [
        Route("/", index),
        Route("/favicon.ico", no_icon),
        Route("/score", desk.handle, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes), host)


def _busy() -> HTTPException:
    return HTTPException(
        503, "Others are being scored; try again in a moment.", headers={"Retry-After": "10"}
    )
