"""Reading a request's content from the socket, within bounds of size, time and memory."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from emulator.blob.errors import BlobError, invalid_header
from emulator.blob.store import PIECE_BYTES_MAX

PUT_BLOB_BYTES_MAX = 256 * 1024**2
PUT_BLOCK_BYTES_MAX = 100 * 1024**2
BLOCK_LIST_BYTES_MAX = 16 * 1024**2
OTHER_BYTES_MAX = 64 * 1024
RECEIVING_BYTES_MAX = 1024**3
READ_IDLE_S = 30.0

_LIMITS = {
    "put-blob": PUT_BLOB_BYTES_MAX,
    "put-block": PUT_BLOCK_BYTES_MAX,
    "put-block-list": BLOCK_LIST_BYTES_MAX,
}


class Received:
    """A request's content in pieces, with its MD5."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size_bytes = 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    @property
    def md5(self) -> bytes:
        """The digest of everything added."""
        return self._md5.digest()

    def add(self, piece: bytes) -> None:
        """Append a stretch."""
        self.pieces.append(piece)
        self.size_bytes += len(piece)
        self._md5.update(piece)


class Reception:
    """Receives the content of requests; all that is held at one time shares `RECEIVING_BYTES_MAX`."""

    def __init__(self, read_idle_s: float = READ_IDLE_S) -> None:
        self._read_idle_s = read_idle_s
        self.held_bytes = 0
        """Announced content of the requests that are being received or answered."""

    @asynccontextmanager
    async def hold(self, request: web.BaseRequest, operation: str) -> AsyncIterator[None]:
        """Make room for a request's content, for as long as the context lasts, or refuse it unread."""
        size_bytes = _announced_bytes(request)
        limit = _LIMITS.get(operation, OTHER_BYTES_MAX)
        if size_bytes > limit:
            raise BlobError("RequestBodyTooLarge", details={"MaxLimit": str(limit)})
        if self.held_bytes + size_bytes > RECEIVING_BYTES_MAX:
            raise BlobError("ServerBusy")
        self.held_bytes += size_bytes
        try:
            yield
        finally:
            self.held_bytes -= size_bytes

    async def receive(self, request: web.BaseRequest) -> Received:
        """The whole content of a request that room was made for."""
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        received = Received()
        async for piece in _pieces(request, self._read_idle_s):
            received.add(piece)
        return received


def _announced_bytes(request: web.BaseRequest) -> int:
    """The Content-Length; a write without one is 411, as chunked transfers are not accepted."""
    text = request.headers.get("Content-Length")
    if text is None:
        if request.method in ("PUT", "POST") or request.body_exists:
            raise BlobError("MissingContentLengthHeader")
        return 0
    if not text.isdigit():
        raise invalid_header("Content-Length", text)
    return int(text)


async def _pieces(request: web.BaseRequest, read_idle_s: float) -> AsyncIterator[bytes]:
    """The content in stretches of at most PIECE_BYTES_MAX; each read has to bring something in `read_idle_s`."""
    buffer = bytearray()
    while True:
        try:
            async with asyncio.timeout(read_idle_s):
                data = await request.content.readany()
        except TimeoutError:
            raise BlobError("OperationTimedOut") from None
        buffer += data
        while len(buffer) >= PIECE_BYTES_MAX:
            yield bytes(buffer[:PIECE_BYTES_MAX])
            del buffer[:PIECE_BYTES_MAX]
        if not data and request.content.is_eof():
            break
    if buffer:
        yield bytes(buffer)
