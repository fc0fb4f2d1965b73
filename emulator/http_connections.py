"""What the HTTP fronts have in common: a place to listen, and connections bounded in number and in patience.

What a service says to malformed HTTP, and how long its lines may be, is the service's own.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

log = structlog.get_logger()

HOST: Final = "127.0.0.1"
CONNECTIONS_MAX: Final = 1000
IDLE_S: Final = 120.0
"""How long a connection may stay open without the whole head of a request, the first one included."""
LINGER_S: Final = 2.0
"""How long the content of a refused request is read and thrown away, so that its sender sees the refusal."""
STOP_S: Final = 2.0
"""How long requests under way may go on after `Listener.stop`."""
_CONTENT_BYTES_MAX: Final = 2 * 1024 * 1024
_SERVER_ERROR: Final = 500


class Malformed(Protocol):
    """How a service answers a head that could not be parsed (`reason` says why), or a bug of ours (500)."""

    def __call__(self, method: str, status: int, reason: str) -> web.Response:
        """The answer. The connection is closed after it."""
        ...


class ConnectionServer(web.Server):
    """aiohttp's low-level server with limits: too many connections are closed, and so are silent ones."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        service: str,
        malformed: Malformed,
        line_bytes_max: int,
        content_bytes_max: int = _CONTENT_BYTES_MAX,
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
            max_field_size=line_bytes_max,
            max_line_size=line_bytes_max,
        )
        self.service = service
        self.malformed = malformed
        self._content_bytes_max = content_bytes_max
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
            log.warning("http.too-many-connections", service=self.service, limit=self._connections_max)
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
        return web.BaseRequest(
            message, payload, protocol, writer, task, self._loop, client_max_size=self._content_bytes_max
        )


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
        if not isinstance(server, ConnectionServer):  # the server has stopped: nobody is there to answer
            return web.Response(status=status)
        if status >= _SERVER_ERROR:
            log.error("http.connection-failed", service=server.service, error=type(exc).__name__)
        response = server.malformed(request.method, status, message or "malformed HTTP")
        response.force_close()
        return response


class Listener:
    """One port on 127.0.0.1 for an application or a low-level server."""

    def __init__(self) -> None:
        self._runner: web.AppRunner | web.ServerRunner | None = None

    async def start(
        self, runner: web.AppRunner | web.ServerRunner, port: int, tls: ssl.SSLContext | None = None
    ) -> int:
        """Listen, with `tls` for https; 0 takes any free port. Returns the port.

        Raises:
            OSError: the port cannot be had; nothing is left open.
        """
        if self._runner is not None:
            raise RuntimeError("this server was started already")
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, port, ssl_context=tls).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        return int(runner.addresses[0][1])

    @property
    def connection_count(self) -> int:
        """How many clients are connected."""
        server = None if self._runner is None else self._runner.server
        return 0 if server is None else len(server.connections)

    async def stop(self) -> None:
        """Stop listening and close what is open, within the runner's time. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
