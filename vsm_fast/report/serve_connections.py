"""Connections of the local server: a client that only waits keeps nobody else out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_MOST = 64  # connections; a further one takes the place of the one that has waited longest
_SHUTDOWN_SECONDS = 3  # for answers that are under way


class Connection(H11Protocol):
    """HTTP/1.1 that hangs up on clients who neither finish a request nor take their answer.

    uvicorn itself limits how long a connection may rest between two requests only. How long an
    upload and its scores may take is limited where they are handled.
    """

    patience = 10.0  # seconds without progress; the second look at most is the last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch, and make room."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._seen: tuple[Any, int] = (None, 0)
        self._look_later()
        waiting = [other for other in self.connections
                   if isinstance(other, Connection) and other._waits()]  # fmt: skip
        if len(self.connections) > _MOST and waiting:
            oldest = min(waiting, key=lambda other: other._since)
            self.connections.discard(oldest)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _waits(self) -> bool:
        """Whether no request is complete and no answer is under way."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and not self.transport.get_write_buffer_size()

    def _look_later(self) -> None:
        self._timer = self.loop.call_later(self.patience, self._look)

    def _look(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        state = self.cycle, unsent
        if state == self._seen and (unsent or self._waits()):
            self.transport.abort()
            return
        self._seen = state
        self._look_later()


class _Server(uvicorn.Server):
    """Tells that it ends."""

    ending: Callable[[], None]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On the first signal and further ones."""
        self.ending()
        super().handle_exit(sig, frame)


def make_server(app: Any, ending: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """The server of an ASGI application, not yet running.

    Args:
        app: The application.
        ending: Called on Ctrl-C, so that the server need not wait for what is being scored.
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
        limit_concurrency=2 * _MOST,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    server = _Server(config)
    server.ending = ending
    return server
