"""The front of Blob Storage: one HTTP server on 127.0.0.1 for the unmodified SDKs."""

import asyncio
import math
import ssl
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final, assert_never

import structlog
from aiohttp import web

from emulator.blob.blob_handlers import HANDLERS
from emulator.blob.call import Call, Target, parse_query, parse_target
from emulator.blob.connections import connections
from emulator.blob.engine import BlobEngine
from emulator.blob.errors import BlobError
from emulator.blob.operations import UNSUPPORTED, Route, route
from emulator.blob.reception import READ_IDLE_S, Received, Reception
from emulator.blob.records import http_date
from emulator.blob.reply import Reply, error_reply
from emulator.blob.sending import drop, send, send_half
from emulator.blob.sharedkey import SharedKey
from emulator.blob.store import CAPACITY_BYTES
from emulator.clock import Clock
from emulator.faults import Answer, ApplyLate, ApplyThenDrop, DropBefore, Effect, Faults, NoFault, ReadBehind, Truncate
from emulator.http_connections import CONNECTIONS_MAX, IDLE_S, STOP_S, Listener
from emulator.identity import TokenAuthority
from emulator.journal import Journal

log = structlog.get_logger()

DEVELOPMENT_ACCOUNT: Final = "devstoreaccount1"
DEVELOPMENT_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account and key that Azurite and the storage SDKs know as the development storage. Not a secret:
https://learn.microsoft.com/azure/storage/common/storage-use-azurite#well-known-storage-account-and-key."""

LATE_REQUESTS_MAX: Final = 1000
_ANSWER_CODES = {403: "AuthenticationFailed", 500: "InternalError", 503: "ServerBusy"}


class BlobServer:
    """Blob Storage for one account, on a port of 127.0.0.1.

    Guarantee: an answer is sent after its change is in the journal. A malformed request gets Azure's own error or
    a closed connection, and never ends the server.
    """

    def __init__(
        self,
        *,
        account_name: str = DEVELOPMENT_ACCOUNT,
        account_key: str = DEVELOPMENT_KEY,
        clock: Clock,
        journal: Journal,
        faults: Faults,
        capacity_bytes: int = CAPACITY_BYTES,
        connections_max: int = CONNECTIONS_MAX,
        idle_s: float = IDLE_S,
        read_idle_s: float = READ_IDLE_S,
        authority: TokenAuthority | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.engine = BlobEngine(clock=clock, journal=journal, capacity_bytes=capacity_bytes)
        self.account_name = account_name
        self.account_key = account_key
        self._tls = tls
        self._shared_key = SharedKey(account_name, account_key, authority, secure=tls is not None)
        self._faults = faults
        self._clock = clock
        self._connections_max = connections_max
        self._idle_s = idle_s
        self._reception = Reception(read_idle_s)
        self._late: set[asyncio.Task[None]] = set()
        self._listener = Listener()
        self._port = 0

    @property
    def endpoint(self) -> str:
        """The account's URL, once the server listens."""
        if not self._port:
            raise RuntimeError("the Blob server does not listen yet: await start() first")
        return f"{self._scheme}://127.0.0.1:{self._port}/{self.account_name}"

    @property
    def _scheme(self) -> str:
        return "http" if self._tls is None else "https"

    @property
    def connection_string(self) -> str:
        """What BlobServiceClient.from_connection_string takes, once the server listens."""
        return (
            f"DefaultEndpointsProtocol={self._scheme};AccountName={self.account_name};AccountKey={self.account_key};"
            f"BlobEndpoint={self.endpoint};"
        )

    async def start(self, port: int = 0) -> int:
        """Listen on 127.0.0.1; 0 takes any free port. Returns the port."""
        server = connections(
            self._handle,
            clock=self._clock,
            connections_max=self._connections_max,
            idle_s=self._idle_s,
        )
        runner = web.ServerRunner(server, shutdown_timeout=STOP_S)
        self._port = await self._listener.start(runner, port, self._tls)
        return self._port

    async def stop(self) -> None:
        """Stop listening, give requests under way STOP_S, drop late ones. Idempotent."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)
        await self._listener.stop()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request: name and count it, carry out the fault that is due, else answer."""
        if request.transport is None:
            return web.Response()
        job = self._job(request)
        call, operation = job.call, job.named.name
        injection = self._faults.decide("blob", operation, facts_of(call))
        if isinstance(injection.effect, DropBefore):
            await asyncio.sleep(injection.delay_s)
            return drop(request)
        async with AsyncExitStack() as held:
            try:
                await held.enter_async_context(self._reception.hold(request, operation))
                job.received = await self._reception.receive(request)
            except BlobError as error:
                # The rest of the content is still on its way and nobody reads it: close.
                return await send(request, self._finish(job, self._refuse(job, error)), close=True)
            except (ConnectionError, web.RequestPayloadError):
                return drop(request)  # the client went away, or what it sent was not what it announced
            await asyncio.sleep(injection.delay_s)
            if isinstance(injection.effect, ApplyLate):
                self._apply_late(job, injection.effect.delay_s, held.pop_all())
                return drop(request)
            return await self._carry_out(request, job, injection.effect)

    async def _carry_out(self, request: web.BaseRequest, job: "_Job", effect: Effect) -> web.StreamResponse:
        match effect:
            case NoFault() | ReadBehind() | DropBefore() | ApplyLate():  # the last two were carried out already
                return await send(request, await self._answer(job))
            case Answer():
                return await send(request, self._finish(job, self._refuse(job, _injected(effect))))
            case ApplyThenDrop():
                await self._answer(job)
                return drop(request)
            case Truncate():
                return await send_half(request, await self._answer(job))
        assert_never(effect)

    def _apply_late(self, job: "_Job", delay_s: float, held: AsyncExitStack) -> None:
        """Answer later, to nobody; the request's content is held until then."""

        async def late() -> None:
            async with held:
                if len(self._late) > LATE_REQUESTS_MAX:
                    log.warning("blob.late-request-forgotten", operation=job.named.name, limit=LATE_REQUESTS_MAX)
                    return
                await asyncio.sleep(delay_s)
                await self._answer(job)

        task = asyncio.create_task(late())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def _job(self, request: web.BaseRequest) -> "_Job":
        """Read the head of a request. Never raises: what cannot be read becomes a refusal."""
        raw_path, _, raw_query = request.raw_path.partition("?")
        query = parse_query(raw_query)
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            lower = name.lower()
            headers[lower] = f"{headers[lower]},{value}" if lower in headers else value
        metadata = [(name, value) for name, value in request.headers.items() if name.lower().startswith("x-ms-meta-")]
        is_container = any(name.lower() == "restype" for name, _ in query)
        target, unreadable = Target(), None
        try:
            target = parse_target(self.account_name, raw_path, is_container=is_container)
        except BlobError as error:
            unreadable = error
        call = Call(request.method, target, query, headers, metadata=metadata, endpoint=self.endpoint)
        named = Route(UNSUPPORTED) if unreadable else route(call)
        return _Job(call, named, raw_path, query, unreadable)

    async def _answer(self, job: "_Job") -> Reply:
        """Apply the request to the engine; never raises but for cancellation."""
        try:
            reply = await self._apply(job)
        except BlobError as error:
            reply = self._refuse(job, error)
        except Exception:
            log.exception("blob.request-failed", operation=job.named.name)
            reply = self._refuse(job, BlobError("InternalError"))
        return self._finish(job, reply)

    async def _apply(self, job: "_Job") -> Reply:
        call = job.call
        if job.unreadable is not None:
            raise job.unreadable  # it is not known whose key the request would have to be signed with
        # The date that a client signed is by its own clock, which no jump of this service's clock has moved.
        self._shared_key.check(call.method, job.raw_path, job.query, call.headers, now_s=time.time())
        call.check_covered()
        if job.named.refusal is not None:
            raise job.named.refusal
        call.body.md5 = job.received.md5
        if job.named.name not in ("put-blob", "put-block"):
            call.body.data = b"".join(job.received.pieces)
            return HANDLERS[job.named.name](self.engine, call)
        try:
            for piece in job.received.pieces:
                self.engine.add_piece(call.body.upload, piece)
                if job.received.size_bytes > len(piece):
                    await asyncio.sleep(0)  # a large upload leaves room for other requests
            return HANDLERS[job.named.name](self.engine, call)
        finally:
            self.engine.discard(call.body.upload)

    def _refuse(self, job: "_Job", error: BlobError) -> Reply:
        return error_reply(error, method=job.call.method, request_id=job.request_id, now_s=self.engine.now_s)

    def _finish(self, job: "_Job", reply: Reply) -> Reply:
        """Add the headers that every answer has."""
        common = {
            "x-ms-request-id": job.request_id,
            "Date": http_date(int(self.engine.now_s)),
            "Server": "Embedded-Azure-Blob/1.0",
        }
        for name in ("x-ms-version", "x-ms-client-request-id"):
            value = job.call.headers.get(name, "")
            if value and value.isascii() and value.isprintable():
                common[name] = value
        reply.headers = {**reply.headers, **common}
        return reply


class _Job:
    """A request on its way through the server."""

    def __init__(
        self,
        call: Call,
        named: Route,
        raw_path: str,
        query: Sequence[tuple[str, str]],
        unreadable: BlobError | None,
    ) -> None:
        self.call = call
        self.named = named
        self.raw_path = raw_path
        self.query = query
        self.unreadable = unreadable
        self.request_id = str(uuid.uuid4())
        self.received = Received()


def facts_of(call: Call) -> dict[str, str]:
    """What a fault rule's `where` can look at."""
    return {"container": call.target.container, "blob": call.target.blob, "method": call.method}


def _injected(effect: Answer) -> BlobError:
    """A refusal with the status that a fault rule asks for."""
    headers = {}
    if effect.retry_after_ms is not None:
        headers["Retry-After"] = str(math.ceil(effect.retry_after_ms / 1000))
    code = _ANSWER_CODES.get(effect.status, "ServerBusy")
    return BlobError(code, status=effect.status, headers=headers)
