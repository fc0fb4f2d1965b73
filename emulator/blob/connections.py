"""HTTP connections of the front: bounded in number and in patience, with Blob Storage's own error bodies."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from emulator.blob.errors import BlobError
from emulator.blob.reply import error_reply
from emulator.clock import Clock

log = structlog.get_logger()

CONNECTIONS_MAX: Final = 1000
HEADER_BYTES_MAX: Final = 16 * 1024
"""One line of a head: a name of 1,024 characters, percent-encoded, is 12 KiB at most."""
IDLE_S: Final = 120.0
"""How long a connection may stay open without the whole head of a request, the first one included."""
LINGER_S: Final = 2.0
"""How long the content of a refused request is read and thrown away, so that its sender sees the refusal."""
_SERVER_ERROR = 500


class ConnectionServer(web.Server):
    """aiohttp's low-level server with limits: too many connections are closed, and so are silent ones."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        clock: Clock,
        connections_max: int = CONNECTIONS_MAX,
        idle_s: float = IDLE_S,
    ) -> None:
        super().__init__(
            handler,
            request_factory=self._request,
            access_log=None,
            auto_decompress=False,  # content is kept as it comes, and a small body must not become a huge one
            keepalive_timeout=idle_s,
            lingering_time=min(LINGER_S, idle_s),
            max_field_size=HEADER_BYTES_MAX,
            max_line_size=HEADER_BYTES_MAX,
        )
        self.clock = clock
        self._connections_max = connections_max
        self._idle_s = idle_s
        self._silent: dict[RequestHandler, asyncio.TimerHandle] = {}
        """Connections that have not sent a whole head yet; aiohttp's own timer starts after the first answer."""

    def __call__(self) -> RequestHandler:
        """A new connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection in, or close it where there are too many."""
        super().connection_made(handler, transport)
        if len(self._connections) > self._connections_max:
            log.warning("blob.too-many-connections", limit=self._connections_max)
            self._loop.call_soon(transport.abort)  # at once, aiohttp's task would find itself without a server
            return
        self._silent[handler] = self._loop.call_later(self._idle_s, transport.abort)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Forget a connection."""
        self._heard(handler)
        super().connection_lost(handler, exc)

    def _heard(self, handler: RequestHandler) -> None:
        timer = self._silent.pop(handler, None)
        if timer is not None:
            timer.cancel()

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        self._heard(protocol)
        return web.BaseRequest(message, payload, protocol, writer, task, self._loop)


class _Connection(RequestHandler):
    """A connection that answers malformed HTTP in the service's own words."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = _SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a head that could not be parsed, and to a bug in the front."""
        server = self._manager
        now_s = server.clock.now_s() if isinstance(server, ConnectionServer) else 0.0
        if status >= _SERVER_ERROR:
            log.error("blob.connection-failed", error=type(exc).__name__)
            error = BlobError("InternalError")
        else:
            error = BlobError("InvalidInput", status=status, details={"Reason": message or "malformed HTTP"})
        request_id = str(uuid.uuid4())
        reply = error_reply(error, method=request.method, request_id=request_id, now_s=now_s)
        headers = {**reply.headers, "x-ms-request-id": request_id}
        response = web.Response(status=reply.status, headers=headers, body=b"".join(reply.content))
        response.force_close()
        return response
