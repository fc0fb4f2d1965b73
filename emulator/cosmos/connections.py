"""HTTP connections of the front, with Cosmos DB's own error bodies."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from emulator.cosmos.errors import code_for
from emulator.cosmos.values import encode
from emulator.http_connections import ConnectionServer

HEADER_BYTES_MAX: Final = 32 * 1024
"""A line of the head. Continuation and session tokens travel in headers."""
_SERVER_ERROR: Final = 500


def error_body(status: int, message: str, additional: str | None = None) -> bytes:
    """A refusal as Cosmos DB words it."""
    # A message may quote what the client sent, and that may be no text at all.
    text = message.encode("utf-8", "replace").decode()
    body = {"code": code_for(status), "message": text}
    return encode(body if additional is None else {**body, "additionalErrorInfo": additional})


def connections(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    *,
    connections_max: int,
    request_bytes_max: int,
    idle_s: float,
) -> ConnectionServer:
    """The connections of one server."""
    return ConnectionServer(
        handler,
        service="cosmos",
        malformed=_malformed,
        line_bytes_max=HEADER_BYTES_MAX,
        content_bytes_max=request_bytes_max,
        connections_max=connections_max,
        idle_s=idle_s,
    )


def _malformed(method: str, status: int, reason: str) -> web.Response:
    del method
    text = "The server failed to answer." if status >= _SERVER_ERROR else f"Bad request: {reason}"
    return web.Response(status=status, body=error_body(status, text), content_type="application/json")
