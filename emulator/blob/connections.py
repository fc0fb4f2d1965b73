"""HTTP connections of the front, with Blob Storage's own error bodies."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from emulator.blob.errors import BlobError
from emulator.blob.reply import error_reply
from emulator.clock import Clock
from emulator.http_connections import ConnectionServer

HEADER_BYTES_MAX: Final = 16 * 1024
"""One line of a head: a name of 1,024 characters, percent-encoded, is 12 KiB at most."""
_SERVER_ERROR: Final = 500


def connections(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    *,
    clock: Clock,
    connections_max: int,
    idle_s: float,
) -> ConnectionServer:
    """The connections of one server."""

    def malformed(method: str, status: int, reason: str) -> web.Response:
        if status >= _SERVER_ERROR:
            error = BlobError("InternalError")
        else:
            error = BlobError("InvalidInput", status=status, details={"Reason": reason})
        request_id = str(uuid.uuid4())
        reply = error_reply(error, method=method, request_id=request_id, now_s=clock.now_s())
        headers = {**reply.headers, "x-ms-request-id": request_id}
        return web.Response(status=reply.status, headers=headers, body=b"".join(reply.content))

    return ConnectionServer(
        handler,
        service="blob",
        malformed=malformed,
        line_bytes_max=HEADER_BYTES_MAX,
        connections_max=connections_max,
        idle_s=idle_s,
    )
