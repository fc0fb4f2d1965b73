"""The control interface: JSON over HTTP on 127.0.0.1, for tests and operators of a running emulator.

Every refusal is `{"error": "what is wrong and what to change"}` with 400, 404 or 405. `docs/emulator.md` shows it.
"""

import difflib
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, TypeVar

import msgspec
import structlog
from aiohttp import web

from emulator.blob import BlobServer
from emulator.blob import operations as blob_operations
from emulator.blob.errors import BlobError
from emulator.blob.lease import Break
from emulator.blob.store import BlobKey
from emulator.clock import Clock
from emulator.cosmos import operations as cosmos_operations
from emulator.faults import Faults, Rule
from emulator.http_connections import STOP_S, Listener
from emulator.servicebus import ServiceBusServer
from emulator.servicebus.engine.errors import ServiceBusError
from emulator.servicebus.front import operations as servicebus_operations

log = structlog.get_logger()

BODY_BYTES_MAX: Final = 64 * 1024
JUMP_S_MAX: Final = 366 * 24 * 3600.0
_OPERATIONS: Final = {
    "servicebus": servicebus_operations.OPERATIONS,
    "cosmos": cosmos_operations.OPERATIONS,
    "blob": blob_operations.OPERATIONS,
}


class Jump(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far to move the clock; negative is back."""

    seconds: float


class SessionOfEntity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A session of a queue or of `topic/Subscriptions/name`."""

    entity: str
    session_id: str


class BlobOfContainer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A blob by its container and name."""

    container: str
    blob: str


_Body = TypeVar("_Body", bound=msgspec.Struct)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _RefusedError(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        super().__init__(sentence)


class ControlServer:
    """Rules, counters, the clock, and what happens to sessions and leases behind the back of their holders."""

    def __init__(self, *, faults: Faults, clock: Clock, servicebus: ServiceBusServer, blob: BlobServer) -> None:
        self._faults = faults
        self._clock = clock
        self._servicebus = servicebus
        self._blob = blob
        self._listener = Listener()

    async def start(self, port: int = 0) -> int:
        """Listen on 127.0.0.1; 0 takes any free port. Returns the port."""
        app = web.Application(middlewares=[_answer_errors], client_max_size=BODY_BYTES_MAX)
        app.add_routes(self.routes())
        return await self._listener.start(web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S), port)

    def routes(self) -> list[web.RouteDef]:
        """What there is to ask for."""
        return [
            web.get("/health", self._health),
            web.get("/requests", self._requests),
            web.delete("/requests", self._reset_requests),
            web.get("/faults", self._rules),
            web.post("/faults", self._add_rule),
            web.delete("/faults", self._clear_rules),
            web.get("/faults/{id}", self._rule),
            web.delete("/faults/{id}", self._remove_rule),
            web.get("/clock", self._now),
            web.post("/clock/jump", self._jump),
            web.get("/servicebus/entities", self._entities),
            web.post("/servicebus/sessions/take-lock", self._take_lock),
            web.post("/blob/leases/break", self._break_lease),
        ]

    async def stop(self) -> None:
        """Stop listening and close what is open, within STOP_S. Idempotent."""
        await self._listener.stop()

    async def _health(self, request: web.Request) -> web.Response:
        del request
        return _json({"status": "healthy", "now_s": self._clock.now_s()})

    async def _requests(self, request: web.Request) -> web.Response:
        del request
        counts: dict[str, dict[str, int]] = {}
        for (service, operation), count in sorted(self._faults.requests.items()):
            counts.setdefault(service, {})[operation] = count
        return _json(counts)

    async def _reset_requests(self, request: web.Request) -> web.Response:
        del request
        self._faults.requests.clear()
        return web.Response(status=204)

    async def _rules(self, request: web.Request) -> web.Response:
        del request
        return _json({"rules": [self._show(rule_id, rule) for rule_id, rule in self._faults.rules().items()]})

    async def _add_rule(self, request: web.Request) -> web.Response:
        rule = await _read(request, Rule)
        _check_names(rule)
        return _json({"id": self._faults.add(rule)}, status=201)

    async def _clear_rules(self, request: web.Request) -> web.Response:
        del request
        self._faults.clear()
        return web.Response(status=204)

    async def _rule(self, request: web.Request) -> web.Response:
        rule_id = _rule_id(request)
        rule = self._faults.rules().get(rule_id)
        if rule is None:
            raise _no_rule(rule_id)
        return _json(self._show(rule_id, rule))

    async def _remove_rule(self, request: web.Request) -> web.Response:
        rule_id = _rule_id(request)
        if not self._faults.remove(rule_id):
            raise _no_rule(rule_id)
        return web.Response(status=204)

    def _show(self, rule_id: int, rule: Rule) -> dict[str, object]:
        return {"id": rule_id, "fired": self._faults.fired(rule_id), "rule": rule}

    async def _now(self, request: web.Request) -> web.Response:
        del request
        return _json({"now_s": self._clock.now_s()})

    async def _jump(self, request: web.Request) -> web.Response:
        jump = await _read(request, Jump)
        if not abs(jump.seconds) <= JUMP_S_MAX:
            raise _RefusedError(400, f"seconds is {jump.seconds}; stay within {JUMP_S_MAX:.0f} either way")
        self._clock.jump_s(jump.seconds)
        return _json({"now_s": self._clock.now_s()})

    async def _entities(self, request: web.Request) -> web.Response:
        del request
        engine = self._servicebus.engine
        return _json({"entities": {path: engine.counts(path)._asdict() for path in engine.entities.paths()}})

    async def _take_lock(self, request: web.Request) -> web.Response:
        asked = await _read(request, SessionOfEntity)
        try:
            self._servicebus.engine.take_session_lock(asked.entity, asked.session_id)
        except ServiceBusError as error:
            raise _RefusedError(404, f"{error}; GET /servicebus/entities tells the names") from error
        self._servicebus.guarded(None, lambda: None)  # sends what the engine now has to say, and re-arms its timer
        return web.Response(status=204)

    async def _break_lease(self, request: web.Request) -> web.Response:
        asked = await _read(request, BlobOfContainer)
        try:
            self._blob.engine.blobs.lease(BlobKey(asked.container, asked.blob), Break(0))
        except BlobError as error:
            raise _RefusedError(error.status, f"{error.code}: {error.message}") from error
        return web.Response(status=204)


@web.middleware
async def _answer_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every refusal as JSON, also those of the router, and a bug as 500 without its details."""
    try:
        return await handler(request)
    except _RefusedError as error:
        return _json({"error": str(error)}, status=error.status)
    except web.HTTPException as error:
        sentence = f"{request.method} {request.path}: {error.reason}; docs/emulator.md lists what there is"
        return _json({"error": sentence}, status=error.status)
    except Exception:
        log.exception("control.request-failed", method=request.method, path=request.path)
        return _json({"error": "internal error, see the log"}, status=500)


async def _read(request: web.Request, kind: type[_Body]) -> _Body:
    """The body as `kind`, or 400 with the field that is wrong."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.ValidationError as error:
        fields = ", ".join(kind.__struct_fields__)
        raise _RefusedError(400, f"{error}; the fields are {fields}") from error
    except msgspec.DecodeError as error:
        raise _RefusedError(400, f"the body is not JSON: {error}") from error


def _check_names(rule: Rule) -> None:
    """Refuse a rule that could never act: its service, or its operation, is not there."""
    if rule.service not in ("*", *_OPERATIONS):
        raise _unknown("service", rule.service, ("*", *_OPERATIONS))
    known = _OPERATIONS.get(rule.service) or [name for names in _OPERATIONS.values() for name in names]
    if rule.operation not in ("*", *known):
        raise _unknown("operation", rule.operation, ("*", *dict.fromkeys(known)))


def _unknown(what: str, given: str, known: Collection[str]) -> _RefusedError:
    close = difflib.get_close_matches(given, known, n=1)
    advice = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
    return _RefusedError(400, f"there is no {what} {given!r}; {advice}")


def _rule_id(request: web.Request) -> int:
    text = request.match_info["id"]
    if not text.isdecimal() or len(text) > 18:  # noqa: PLR2004 - what an int of 64 bits holds
        raise _RefusedError(400, f"{text!r} is not the id of a rule; use the number that POST /faults gave")
    return int(text)


def _no_rule(rule_id: int) -> _RefusedError:
    return _RefusedError(404, f"there is no rule {rule_id}; GET /faults lists them")


def _json(value: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
