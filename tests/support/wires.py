"""A TCP wire that fails as networks do: it falls silent without closing, is slow, or is cut at any byte."""

import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from typing import Final, Literal

import anyio
from anyio.abc import SocketStream

from tests.support.listening import listening

Direction = Literal["up", "down"]
"""From the client to the server, or back."""

BOTH: Final[tuple[Direction, Direction]] = ("up", "down")
_CHUNK_BYTES: Final = 65_536
_GONE: Final = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)


class _Connection:
    """One client's connection and ours to the server."""

    def __init__(self, bytes_left: int | None) -> None:
        self.bytes_left = bytes_left
        self.silent: frozenset[Direction] = frozenset()
        """What never arrives any more, though neither end is told."""
        self.scope = anyio.CancelScope()


class Wire:
    """Forwards to one server on 127.0.0.1, byte by byte, whatever protocol they speak."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._connections: set[_Connection] = set()
        self._held: frozenset[Direction] = frozenset()
        self._changed = anyio.Event()
        self.port = 0
        self.latency_s = 0.0
        """Added to each piece that is forwarded."""
        self.bytes_max: Callable[[], int] | None = None
        """After how many bytes, both ways together, each new connection is cut."""
        self.cuts = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Wire"]:
        """Listen on a free port for as long as the context lasts."""
        async with listening(self._serve) as self.port:
            yield self

    @property
    def connections(self) -> int:
        """How many there are to the server now."""
        return len(self._connections)

    def hold(self, directions: Collection[Direction] = BOTH) -> None:
        """Forward nothing that way until `release`, not even that an end has closed. New connections hang as well."""
        self._held = frozenset(directions)

    def release(self) -> None:
        """Forward what was held, and all that follows."""
        self._held = frozenset()
        self._changed.set()
        self._changed = anyio.Event()

    def forsake(self, directions: Collection[Direction] = BOTH) -> int:
        """Never forward anything that way again on the connections that there are; new ones work. Returns how many.

        As where a router in between has forgotten them: an end learns of it by its own time-outs only.
        """
        for connection in self._connections:
            connection.silent = frozenset(directions)
        return len(self._connections)

    def cut(self) -> int:
        """Close all connections at once; returns how many there were."""
        count = len(self._connections)
        for connection in self._connections:
            connection.scope.cancel()
        self.cuts += count
        return count

    async def _serve(self, client: SocketStream) -> None:
        connection = _Connection(self.bytes_max() if self.bytes_max is not None else None)
        async with client:
            with contextlib.suppress(OSError), connection.scope:
                async with await anyio.connect_tcp("127.0.0.1", self._upstream_port) as server:
                    self._connections.add(connection)
                    try:
                        async with anyio.create_task_group() as pumps:
                            pumps.start_soon(self._pump, connection, client, server, "up")
                            pumps.start_soon(self._pump, connection, server, client, "down")
                    finally:
                        self._connections.discard(connection)

    async def _pump(
        self, connection: _Connection, source: SocketStream, sink: SocketStream, direction: Direction
    ) -> None:
        with contextlib.suppress(*_GONE):
            while True:
                data = await _received(source)
                while direction in self._held:
                    await self._changed.wait()
                if direction in connection.silent:
                    await anyio.sleep_forever()
                if self.latency_s:
                    await anyio.sleep(self.latency_s)
                if connection.bytes_left is not None:
                    data = data[: connection.bytes_left]
                    connection.bytes_left -= len(data)
                if not data:
                    break
                await sink.send(data)
                if connection.bytes_left == 0:
                    self.cuts += 1
                    break
        connection.scope.cancel()


async def _received(source: SocketStream) -> bytes:
    """What came; nothing once the other end has closed."""
    try:
        return await source.receive(_CHUNK_BYTES)
    except (anyio.EndOfStream, *_GONE):
        return b""
