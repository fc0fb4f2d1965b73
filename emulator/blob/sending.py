"""Writing an answer to the socket: whole, cut in half, or not at all."""

import asyncio
from http import HTTPStatus
from typing import Final

from aiohttp import web

from emulator.blob.reply import Reply

WRITE_IDLE_S: Final = 30.0


async def send(request: web.BaseRequest, reply: Reply, *, close: bool = False) -> web.StreamResponse:
    """Send the whole answer; a client that takes nothing for WRITE_IDLE_S is cut off. `close`: it is the last one."""
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    if close:
        response.force_close()
    if "Content-Length" not in reply.headers:
        response.content_length = sum(map(len, reply.content))
    try:
        async with asyncio.timeout(WRITE_IDLE_S):
            await response.prepare(request)
        for piece in reply.content:
            async with asyncio.timeout(WRITE_IDLE_S):
                await response.write(piece)
        async with asyncio.timeout(WRITE_IDLE_S):
            await response.write_eof()
    except TimeoutError:
        return drop(request)
    return response


def drop(request: web.BaseRequest) -> web.StreamResponse:
    """Close the connection at once; what is returned has nowhere to go, and aiohttp takes that quietly."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def send_half(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    """Announce the whole answer, send half of its content (of its head, where it has none), and close."""
    content = b"".join(reply.content)
    reason = HTTPStatus(reply.status).phrase
    headers = {"Content-Length": str(len(content)), **reply.headers}
    head = "".join([f"HTTP/1.1 {reply.status} {reason}\r\n", *(f"{k}: {v}\r\n" for k, v in headers.items()), "\r\n"])
    raw = head.encode()
    cut = len(raw) + len(content) // 2 if content else len(raw) // 2
    transport = request.transport
    if transport is not None and not transport.is_closing():
        transport.write((raw + content)[:cut])
        transport.close()  # what was written still goes out
    return web.Response()
