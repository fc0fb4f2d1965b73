"""The server: sockets and timers around connections and the engine. No tasks: everything is a callback."""

import asyncio
import base64
import os
import time
import uuid
from collections.abc import Callable
from typing import cast

import structlog

from emulator.clock import Clock
from emulator.faults import Faults
from emulator.identity import TokenAuthority
from emulator.journal import Journal
from emulator.servicebus.engine.namespace import Namespace
from emulator.servicebus.entities import ServiceBusConfig
from emulator.servicebus.front.auth import Verifier
from emulator.servicebus.front.connection import Connection
from emulator.servicebus.front.host import Timer
from emulator.servicebus.limits import Limits

log = structlog.get_logger()

HOST = "127.0.0.1"
FLUSH_BYTES = 262_144
UNSENT_FACTOR_MAX = 10
DEADLINE_POLL_MIN_S = 0.005
DEADLINE_POLL_MAX_S = 60.0


class _Peer(asyncio.Protocol):
    """One socket. Output is gathered while something is being processed and written once at its end."""

    def __init__(self, server: "ServiceBusServer") -> None:
        self._server = server
        self._out: list[bytes] = []
        self._out_bytes = 0
        self.transport: asyncio.Transport | None = None
        self.connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A socket's transport is one; uvloop's is not of that class.
        self.transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=self._server.limits.write_buffer_bytes_max)
        if not self._server.admit(self):
            transport.abort()
            return
        self.connection = Connection(self._server, self._write, self._finish)

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        if connection is not None:
            self._server.guarded(connection, lambda: connection.receive(data))

    def eof_received(self) -> None:
        """The transport closes by itself."""

    def pause_writing(self) -> None:
        if self.connection is not None and self.transport is not None:
            self.connection.set_writable(writable=False)
            self.transport.pause_reading()  # who does not read answers need not ask more

    def resume_writing(self) -> None:
        """Go on in the next turn: closing a transport from within this callback makes asyncio close it twice."""
        asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        connection, transport = self.connection, self.transport
        if connection is not None and transport is not None and not transport.is_closing():
            transport.resume_reading()
            self._server.guarded(connection, lambda: connection.set_writable(writable=True))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        connection, self.connection = self.connection, None
        self._server.forget(self)
        self._out.clear()
        if connection is not None:
            self._server.guarded(connection, connection.lost)

    def _write(self, data: bytes) -> None:
        if not self._out:
            self._server.dirty.append(self)
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        data, self._out, self._out_bytes = b"".join(self._out), [], 0
        if data and self.transport is not None:
            self.transport.write(data)
            unsent_bytes = self.transport.get_write_buffer_size()
            if unsent_bytes > UNSENT_FACTOR_MAX * self._server.limits.write_buffer_bytes_max and self.connection:
                log.warning("servicebus.connection-cut", unsent_bytes=unsent_bytes)
                self.connection.drop()

    def _finish(self, gracefully: bool) -> None:  # noqa: FBT001 - the connection's contract
        if self.transport is None:
            return
        if gracefully:
            self.flush()
            self.transport.close()
        else:
            self._out = []
            self.transport.abort()


class _Handle:
    """A timer that forgets itself, so that the server knows those that are left."""

    def __init__(self, server: "ServiceBusServer", delay_s: float, action: Callable[[], None]) -> None:
        self._server = server
        self._action = action
        self._handle = asyncio.get_running_loop().call_later(delay_s, self._run)
        server.timers.add(self)

    def _run(self) -> None:
        self._server.timers.discard(self)
        self._server.guarded(None, self._action)

    def cancel(self) -> None:
        """Do not let it happen."""
        self._handle.cancel()
        self._server.timers.discard(self)


class ServiceBusServer:
    """An embedded Service Bus on 127.0.0.1.

    Guarantee: whatever a client sends, the server goes on serving the others. What was acknowledged is in the
    journal. `stop` is idempotent and leaves neither sockets nor timers.
    """

    def __init__(
        self,
        *,
        config: ServiceBusConfig,
        clock: Clock,
        journal: Journal,
        faults: Faults,
        key_name: str = "RootManageSharedAccessKey",
        key: str | None = None,
        limits: Limits | None = None,
        authority: TokenAuthority | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.engine = Namespace(config, clock=clock, journal=journal, limits=self.limits)
        self.faults = faults
        self.container_id = uuid.uuid4().hex
        self._key_name = key_name
        self._key = base64.b64encode(os.urandom(32)).decode() if key is None else key
        self.tokens = Verifier({self._key_name: self._key}, authority)
        self.dirty: list[_Peer] = []
        self.timers: set[_Handle] = set()
        self._clock = clock
        self._peers: set[_Peer] = set()
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._port = 0
        self._is_working = False
        self._is_called_soon = False
        self.engine.context.changed = self._on_engine_changed
        clock.on_jump(self._on_jump)

    @property
    def port(self) -> int:
        """Where it listens; 0 before `start`."""
        return self._port

    @property
    def connection_string(self) -> str:
        """What `ServiceBusClient.from_connection_string` takes."""
        return (
            f"Endpoint=sb://{HOST}:{self._port};SharedAccessKeyName={self._key_name};SharedAccessKey={self._key};"
            "UseDevelopmentEmulator=true;"
        )

    @property
    def connection_count(self) -> int:
        """How many clients are connected."""
        return len(self._peers)

    async def start(self, port: int = 0) -> int:
        """Listen; returns the port."""
        self._loop = asyncio.get_running_loop()
        self._server = await self._loop.create_server(lambda: _Peer(self), HOST, port)
        self._port = self._server.sockets[0].getsockname()[1]
        self._arm()
        log.info("servicebus.listening", port=self._port)
        return self._port

    async def stop(self) -> None:
        """Cut every connection and stop listening."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for peer in list(self._peers):
            if peer.transport is not None:
                peer.transport.abort()
        await self._all_gone.wait()  # aborted transports report their end in the next turns of the loop
        for handle in list(self.timers):
            handle.cancel()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._loop = None
        await server.wait_closed()

    # --- for connections ---

    def later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Call `action` once, after real time."""
        return _Handle(self, delay_s, action)

    def time_s(self) -> float:
        """Monotonic real time."""
        return time.monotonic()

    def wall_s(self) -> float:
        """Wall time."""
        return time.time()

    # --- for sockets ---

    def admit(self, peer: _Peer) -> bool:
        """Count a new socket in; False where there are as many as may be."""
        if len(self._peers) >= self.limits.connections_max or self._server is None:
            log.warning("servicebus.connection-refused", connections=len(self._peers))
            return False
        self._peers.add(peer)
        self._all_gone.clear()
        return True

    def forget(self, peer: _Peer) -> None:
        """A socket is gone."""
        self._peers.discard(peer)
        if not self._peers:
            self._all_gone.set()

    def guarded(self, connection: Connection | None, action: Callable[[], object]) -> None:
        """Run something that a client caused: a bug costs that connection, never the server. Then write and re-arm."""
        self._is_working = True
        try:
            action()
        except Exception:
            log.exception("servicebus.internal-error")
            if connection is not None:
                connection.drop()
        self._is_working = False
        self._settle()

    def _on_engine_changed(self) -> None:
        """A test or the admin interface changed something: write what that sent to clients, in the next turn."""
        if not self._is_working and not self._is_called_soon and self._loop is not None:
            self._is_called_soon = True
            self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        self._is_called_soon = False
        while self.dirty:
            dirty, self.dirty = self.dirty, []
            for peer in dirty:
                peer.flush()
        self._arm()

    # --- time ---

    def _arm(self) -> None:
        """Wake up for the engine's next deadline."""
        next_s = self.engine.next_deadline_s()
        if self._loop is None:
            return
        if next_s is None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            return
        wait_s = min(max(next_s - self._clock.now_s(), DEADLINE_POLL_MIN_S), DEADLINE_POLL_MAX_S)
        at_s = self._loop.time() + wait_s
        if self._deadline is not None:
            if self._deadline.when() <= at_s:
                return
            self._deadline.cancel()
        self._deadline = self._loop.call_at(at_s, self._on_deadline)

    def _on_deadline(self) -> None:
        self._deadline = None
        self.guarded(None, self.engine.advance)

    def _on_jump(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_deadline_now)

    def _on_deadline_now(self) -> None:
        if self._server is not None:
            self.guarded(None, self.engine.advance)
