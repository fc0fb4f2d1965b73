"""The front of the embedded Cosmos DB: HTTP on 127.0.0.1, as `azure.cosmos` speaks it."""

import asyncio
import re
import ssl
import traceback
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from aiohttp import web
from multidict import CIMultiDict

from emulator.clock import Clock
from emulator.cosmos.auth import WELL_KNOWN_KEY, KeyCheck
from emulator.cosmos.connections import connections, error_body
from emulator.cosmos.engine import CosmosEngine
from emulator.cosmos.errors import CosmosError, too_large
from emulator.cosmos.handlers import Handlers
from emulator.cosmos.inputs import Request
from emulator.cosmos.replies import Reply
from emulator.cosmos.wire import ACTIVITY_ID, Target, facts_of, target_of
from emulator.faults import Answer, ApplyLate, ApplyThenDrop, DropBefore, Effect, Faults, NoFault, ReadBehind, Truncate
from emulator.http_connections import CONNECTIONS_MAX, HOST, IDLE_S, STOP_S, Listener
from emulator.identity import TokenAuthority
from emulator.journal import Journal, JournalError

log = structlog.get_logger()

REGION: Final = "Local"
REQUEST_BYTES_MAX: Final = 2 * 1024 * 1024
TRANSFER_S: Final = 30.0
"""How long a client may take to send a body, or to take an answer in."""

BUFFERED_BYTES: Final = 64 * 1024
"""Answers up to this size are left to the socket's buffers; larger ones are sent under a time-out."""

RECEIVING_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bodies that are on their way at one time, of all connections together."""

LATE_REQUESTS_MAX: Final = 1000
"""Requests that may wait to be applied late at one time; further ones are applied at once."""

_ACTIVITY_ID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
"""Activity ids that are sent back; for anything else the server makes up its own."""

_FIXED_HEADERS: Final = {
    "Server": "Microsoft-HTTPAPI/2.0",
    "Content-Type": "application/json",
    "x-ms-gatewayversion": "2.0.0",
    "x-ms-serviceversion": "2.14.0",
    "x-ms-schemaversion": "1.18",
}


class CosmosServer:
    """The embedded Cosmos DB of one account.

    Guarantee: listens on 127.0.0.1 only; a request that was answered with success is in the journal; `stop` ends
    every connection and every request that was to be applied late.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        journal: Journal,
        faults: Faults,
        account_key: str = WELL_KNOWN_KEY,
        connections_max: int = CONNECTIONS_MAX,
        transfer_s: float = TRANSFER_S,
        idle_s: float = IDLE_S,
        receiving_bytes_max: int = RECEIVING_BYTES_MAX,
        authority: TokenAuthority | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.engine = CosmosEngine(clock=clock, journal=journal)
        self._faults = faults
        self._key = account_key
        self._keys = KeyCheck(account_key, authority)
        self._tls = tls
        self._handlers = Handlers(self.engine, self._account_properties)
        self._connections_max = connections_max
        self._transfer_s = transfer_s
        self._idle_s = idle_s
        self._listener = Listener()
        self._port = 0
        self._late: set[asyncio.TimerHandle] = set()
        self._receiving_bytes_max = receiving_bytes_max
        self._receiving_bytes = 0

    @property
    def endpoint(self) -> str:
        """Where clients connect to."""
        return f"{'https' if self._tls else 'http'}://{HOST}:{self._port}/"

    @property
    def key(self) -> str:
        """The account key."""
        return self._key

    @property
    def connection_count(self) -> int:
        """How many clients are connected."""
        return self._listener.connection_count

    async def start(self, port: int = 0) -> int:
        """Listen; returns the port."""
        server = connections(
            self._answer,
            connections_max=self._connections_max,
            request_bytes_max=REQUEST_BYTES_MAX,
            idle_s=self._idle_s,
        )
        runner = web.ServerRunner(server, shutdown_timeout=STOP_S)
        self._port = await self._listener.start(runner, port, self._tls)
        # The client asks for a token for the account's host; the port is no part of it.
        self._keys.audiences += (f"https://{HOST}", self.endpoint)
        log.info("cosmos.listening", port=self._port)
        return self._port

    async def stop(self) -> None:
        """Stop listening and close every connection. Idempotent."""
        for handle in self._late:
            handle.cancel()
        self._late.clear()
        await self._listener.stop()

    def _account_properties(self) -> dict[str, Any]:
        """One region for reading and writing: ETags fence only where there is a single write region."""
        location = {"name": REGION, "databaseAccountEndpoint": self.endpoint}
        return {
            "_self": "",
            "id": "local",
            "_rid": "local",
            "media": "//media/",
            "addresses": "//addresses/",
            "_dbs": "//dbs/",
            "writableLocations": [location],
            "readableLocations": [location],
            "enableMultipleWriteLocations": False,
            "userReplicationPolicy": {"asyncReplication": False, "minReplicaSetSize": 1, "maxReplicasetSize": 4},
            "userConsistencyPolicy": {"defaultConsistencyLevel": "Session"},
            "systemReplicationPolicy": {"minReplicaSetSize": 1, "maxReplicasetSize": 4},
            "readPolicy": {"primaryReadCoefficient": 1, "secondaryReadCoefficient": 1},
            "queryEngineConfiguration": "{}",
        }

    # --- one request ---

    async def _answer(self, http: web.BaseRequest) -> web.StreamResponse:
        """Read, maybe inject a fault, apply, answer. Never raises but for cancellation."""
        target = target_of(http.method, http.rel_url.raw_path, http.headers)
        injection = self._faults.decide("cosmos", target.operation, facts_of(target, http.headers))
        activity_id = http.headers.get(ACTIVITY_ID, "")
        if not _ACTIVITY_ID.fullmatch(activity_id):
            activity_id = str(uuid.uuid4())
        try:
            body = await self._body(http)
        except CosmosError as error:
            return _response(_refusal(error), activity_id)
        if injection.delay_s > 0:
            await asyncio.sleep(injection.delay_s)
        request = Request(target, http.headers, body)

        def apply() -> Reply:
            return self._apply(http.method, request, injection.effect)

        if isinstance(injection.effect, NoFault | ReadBehind):
            return await self._sent(_response(apply(), activity_id), http)
        return await self._inject(injection.effect, apply, http, activity_id)

    async def _sent(self, response: web.Response, http: web.BaseRequest) -> web.Response:
        """The response; a large one is sent here, and given up where the client does not take it in."""
        if isinstance(response.body, bytes) and len(response.body) > BUFFERED_BYTES:
            try:
                async with asyncio.timeout(self._transfer_s):
                    await response.prepare(http)
                    await response.write_eof()
            except TimeoutError:
                log.warning("cosmos.answer-not-taken", size_bytes=len(response.body))
                return _dropped(http)
        return response

    async def _body(self, http: web.BaseRequest) -> bytes:
        """The whole body.

        Raises:
            CosmosError: 413 where it is too large, 408 where it takes too long, 400 where it breaks off, 503 where too
                much is on its way already.
        """
        if not http.body_exists:
            return b""
        if http.headers.get("content-encoding", "identity").lower() != "identity":
            raise CosmosError(415, "Content-Encoding is not supported.")
        announced = http.content_length
        size_bytes = REQUEST_BYTES_MAX if announced is None else min(announced, REQUEST_BYTES_MAX)
        if self._receiving_bytes + size_bytes > self._receiving_bytes_max:
            raise CosmosError(503, "The service is currently unavailable: too many request bodies are on their way.")
        self._receiving_bytes += size_bytes
        try:
            async with asyncio.timeout(self._transfer_s):
                if http.headers.get("expect", "").lower() == "100-continue":
                    await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    http.writer.output_size = 0  # the answer itself has not begun
                return await http.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise too_large() from error
        except TimeoutError as error:
            raise CosmosError(408, "The request body took too long to arrive.") from error
        except (web.RequestPayloadError, ConnectionError, ValueError) as error:
            raise CosmosError(400, "The request body broke off.") from error
        finally:
            self._receiving_bytes -= size_bytes

    def _apply(self, method: str, request: Request, effect: Effect) -> Reply:
        """Check the signature and let the engine answer; a bug becomes a 500 that names it in the log only."""
        try:
            self._check_key(method, request.target, request.headers)
            if isinstance(effect, ReadBehind):
                return self._handlers.handle_behind(request, effect.transactions)
            return self._handlers.handle(request)
        except CosmosError as error:
            return _refusal(error)
        except Exception as error:  # noqa: BLE001 - the one place where a bug must not end the connection
            trace = "".join(traceback.format_tb(error.__traceback__))  # neither messages nor values: no payload
            log.error(  # noqa: TRY400 - for the same reason
                "cosmos.request-failed",
                operation=request.target.operation,
                error=type(error).__name__,
                reason=str(error) if isinstance(error, JournalError) else None,
                trace=trace,
            )
            return _refusal(CosmosError(500, "Unknown server error occurred when processing this request."))

    def _check_key(self, method: str, target: Target, headers: Mapping[str, str]) -> None:
        self._keys.check(
            headers.get("authorization"),
            method=method,
            resource_type=target.resource_type,
            link=target.link,
            x_date=headers.get("x-ms-date", ""),
            date=headers.get("date", ""),
        )

    # --- faults ---

    async def _inject(
        self, effect: Effect, apply: Callable[[], Reply], http: web.BaseRequest, activity_id: str
    ) -> web.StreamResponse:
        """Carry out the effect of a fault rule."""
        match effect:
            case Answer(status=status, sub_status=sub_status, retry_after_ms=retry_after_ms):
                fault = CosmosError(status, "Injected fault.", sub_status=sub_status, retry_after_ms=retry_after_ms)
                return _response(_refusal(fault), activity_id)
            case DropBefore():
                return _dropped(http)
            case ApplyThenDrop():
                apply()
                return _dropped(http)
            case ApplyLate(delay_s=delay_s):
                self._apply_late(apply, delay_s)
                return _dropped(http)
            case Truncate():
                return await _truncated(http, apply(), activity_id)
            case _:
                return _response(apply(), activity_id)

    def _apply_late(self, apply: Callable[[], Reply], delay_s: float) -> None:
        if len(self._late) >= LATE_REQUESTS_MAX:
            apply()
            return

        def run() -> None:
            self._late.discard(handle)
            apply()

        handle = asyncio.get_running_loop().call_later(delay_s, run)
        self._late.add(handle)


def _refusal(error: CosmosError) -> Reply:
    headers = {"x-ms-request-charge": "1.00", **error.headers}
    if error.sub_status:
        headers["x-ms-substatus"] = str(error.sub_status)
    if error.retry_after_ms is not None:
        headers["x-ms-retry-after-ms"] = str(error.retry_after_ms)
    return Reply(error.status, error_body(error.status, error.message, error.additional), headers)


def _headers(reply: Reply, activity_id: str) -> "CIMultiDict[str]":
    headers = CIMultiDict(_FIXED_HEADERS)
    headers.update(reply.headers)
    headers[ACTIVITY_ID] = activity_id
    return headers


def _response(reply: Reply, activity_id: str) -> web.Response:
    return web.Response(status=reply.status, body=reply.body, headers=_headers(reply, activity_id))


def _dropped(http: web.BaseRequest) -> web.Response:
    """Close the connection; the answer that is returned goes nowhere."""
    if http.transport is not None:
        http.transport.abort()
    return web.Response(status=503)


async def _truncated(http: web.BaseRequest, reply: Reply, activity_id: str) -> web.StreamResponse:
    """Announce the whole answer, send half of it and close."""
    response = web.StreamResponse(status=reply.status, headers=_headers(reply, activity_id))
    response.content_length = len(reply.body)
    await response.prepare(http)
    await response.write(reply.body[: len(reply.body) // 2])
    if http.transport is not None:
        http.transport.close()
    return response
