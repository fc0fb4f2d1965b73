"""HTTP connections of the front: bounded in number and in patience, with Cosmos DB's own error bodies."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from emulator.cosmos.errors import code_for
from emulator.cosmos.values import encode

log = structlog.get_logger()

HEADER_BYTES_MAX: Final = 32 * 1024
"""A line of the head. Continuation and session tokens travel in headers."""

IDLE_S: Final = 120.0
"""How long a connection may stay without a whole request head."""

LINGERING_S: Final = 2.0
"""How long the rest of a body that nobody wants is read before the connection is closed."""


def error_body(status: int, message: str, additional: str | None = None) -> bytes:
    """A refusal as Cosmos DB words it."""
    # A message may quote what the client sent, and that may be no text at all.
    text = message.encode("utf-8", "replace").decode()
    body = {"code": code_for(status), "message": text}
    return encode(body if additional is None else {**body, "additionalErrorInfo": additional})


class _Connection(RequestHandler):
    """A connection that answers malformed HTTP as Cosmos DB does."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a head that could not be parsed."""
        del request
        if status >= 500:  # noqa: PLR2004 - our own fault, not the client's
            log.error("cosmos.connection-failed", status=status, error=type(exc).__name__)
        text = "The server failed to answer." if status >= 500 else f"Bad request: {message or 'malformed HTTP'}"  # noqa: PLR2004
        response = web.Response(status=status, body=error_body(status, text), content_type="application/json")
        response.force_close()
        return response


class ConnectionServer(web.Server):
    """aiohttp's low-level server with a limit on connections and on the size of a request."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        connections_max: int,
        request_bytes_max: int,
        idle_s: float = IDLE_S,
    ) -> None:
        super().__init__(
            handler,
            request_factory=self._request,
            keepalive_timeout=idle_s,
            lingering_time=LINGERING_S,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            auto_decompress=False,  # a small body must not become a huge one
            access_log=None,
        )
        self._connections_max = connections_max
        self._request_bytes_max = request_bytes_max

    def __call__(self) -> RequestHandler:
        """A new connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection in, or close it where there are too many."""
        super().connection_made(handler, transport)
        if len(self._connections) > self._connections_max:
            log.warning("cosmos.too-many-connections", limit=self._connections_max)
            self._loop.call_soon(transport.abort)  # after the connection's own task has begun: it needs its server

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        options: dict[str, Any] = {"client_max_size": self._request_bytes_max}
        return web.BaseRequest(message, payload, protocol, writer, task, self._loop, **options)
