"""A TCP proxy that loses answers or connections: the network's part in tests against real servers."""

import contextlib
from collections.abc import AsyncIterator

import anyio
from anyio.abc import SocketStream

from tests.support.listening import listening


class Proxy:
    """Forwards to one server on 127.0.0.1 for clients that send one HTTP/1.1 request at a time on a connection."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._open: set[SocketStream] = set()
        self.port = 0
        self.requests = 0
        self.answers_to_lose = 0
        """The next answers that are dropped, with their connections, after the server carried the request out."""
        self.holding = False
        """While it is set, answers stay where they are. An answer that was held is not sent any more."""
        self.held = 0
        self.refusing = False
        """While it is set, every connection is closed before anything is forwarded."""

    async def refuse(self, refusing: bool = True) -> None:  # noqa: FBT002 - it reads as `refuse()`
        """Cut all connections and refuse new ones, or serve again."""
        self.refusing = refusing
        for stream in list(self._open) if refusing else []:
            await stream.aclose()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        """Listen on a free port for as long as the context lasts."""
        async with listening(self._serve) as self.port:
            yield self

    async def _serve(self, client: SocketStream) -> None:
        async with client:
            if self.refusing:
                return
            with contextlib.suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                async with await anyio.connect_tcp("127.0.0.1", self._upstream_port) as server:
                    self._open |= {client, server}
                    try:
                        async with anyio.create_task_group() as pumps:
                            pumps.start_soon(self._requests, client, server, pumps.cancel_scope)
                            pumps.start_soon(self._answers, server, client, pumps.cancel_scope)
                    finally:
                        self._open -= {client, server}

    async def _requests(self, client: SocketStream, server: SocketStream, scope: anyio.CancelScope) -> None:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                data = await client.receive()
                self.requests += data.count(b" HTTP/1.1\r\n")
                await server.send(data)
        scope.cancel()

    async def _answers(self, server: SocketStream, client: SocketStream, scope: anyio.CancelScope) -> None:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                data = await server.receive()
                if self.holding:
                    self.held += 1
                    await anyio.sleep_forever()
                if self.answers_to_lose:
                    self.answers_to_lose -= 1
                    break
                await client.send(data)
        scope.cancel()
