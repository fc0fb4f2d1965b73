"""What a scenario plays on, and what it can do to it: services, wires, workers and load."""

import random
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.abc

from bench.processes import Usage, usage
from emulator.handle import ControlError
from schemas.keys import BrookKey, session_id_for
from tests.chaos.load import NAME, Producer
from tests.support.places import Replies
from tests.support.site import SESSION_TOPIC, Place, Site, port_in
from tests.support.waiting import wait_until
from tests.support.wires import Wire
from tests.support.worker_process import WorkerProcess
from worker.locking.names import blob_name

DRAIN_S: Final = 90.0
"""Within so long after the last fault everything is answered."""
GRACE_S: Final = 15.0
END_MARGIN_S: Final = 2.0
"""For the end at once that follows the grace period, and for the process to be gone."""

WORKER: Final = {
    "log_level": "debug",
    "max_concurrent_sessions": "8",
    "session_hold_max_s": "1",
    "lease_acquire_timeout_s": "2",
    "session_accept_wait_s": "1",
    "session_pause_initial_s": "0.1",
    "cosmos_timeout_s": "2",
    "store_time_max_s": "5",
    "drain_grace_s": f"{GRACE_S:g}",
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a scenario plays on."""

    workers: int = 2
    brooks: int = 12
    buckets: int | None = None
    claims: bool = False
    topic: bool = False
    durable: bool = False
    lock_s: int = 30
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is done to the workers, and on what; `disturb` gets how often or for how long, in units of its own."""

    about: str
    disturb: Callable[["Trial", int], Awaitable[None]]
    rounds: int
    setup: Setup = Setup()


@dataclass
class Record:
    """What was found, and the figures."""

    findings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    commands: int = 0
    replies: int = 0
    duration_s: float = 0.0


class Hand:
    """One worker, and what it used when it had nothing to do yet."""

    def __init__(self, worker: WorkerProcess, stack: AsyncExitStack) -> None:
        self.worker = worker
        self.stack = stack
        self.idle: Usage | None = None


class Wires:
    """One to each service for the workers, and one to Service Bus for the client."""

    def __init__(self, servicebus: Wire, cosmos: Wire, blob: Wire, client: Wire) -> None:
        self.servicebus = servicebus
        self.cosmos = cosmos
        self.blob = blob
        self.client = client

    def all(self) -> tuple[Wire, ...]:
        return self.servicebus, self.cosmos, self.blob, self.client


class Trial:
    """What a scenario has in its hands."""

    def __init__(self, site: Site, place: Place, wires: Wires, setup: Setup, seed: int) -> None:
        self.folder = site.folder
        self.site = site
        self.place = place
        self.wires = wires
        self.setup = setup
        self.chance = random.Random(seed)
        self.keys = [BrookKey(NAME, str(number)) for number in range(setup.brooks)]
        self.hands: list[Hand] = []
        self.record = Record()
        self.letters_expected: set[str] = set()
        """Messages that are to be among the dead letters at the end."""
        self.producer: Producer
        self.replies: Replies

    @property
    def sessions(self) -> list[str]:
        return list(dict.fromkeys(session_id_for(key, self.setup.buckets) for key in self.keys))

    @property
    def client_connection_string(self) -> str:
        """To Service Bus by the client's wire."""
        return _through(self.wires.client, self.site.services.connections.servicebus_connection_string)

    def settings(self, **changes: str) -> dict[str, str]:
        """Of a worker: by wire, and of this setup."""
        connections = self.site.services.connections
        wired = {
            "servicebus_connection_string": _through(self.wires.servicebus, connections.servicebus_connection_string),
            "cosmos_endpoint": _through(self.wires.cosmos, connections.cosmos_endpoint),
            "blob_connection_string": _through(self.wires.blob, connections.blob_connection_string),
        }
        given = {**WORKER, **wired, **self.setup.settings}
        if self.setup.buckets is not None:
            given["session_buckets"] = str(self.setup.buckets)
        if self.setup.claims:
            given["claim_container"] = claim_container(self.place)
        if self.setup.topic:
            given |= {"reply_queue": "", "reply_topic": SESSION_TOPIC}
        return {**given, **changes}

    async def hire(self, **changes: str) -> Hand:
        """One more worker, once it is ready."""
        stack = AsyncExitStack()
        worker = await stack.enter_async_context(self.place.worker(**self.settings(**changes)))
        hand = Hand(worker, stack)
        self.hands.append(hand)
        await worker.started()
        hand.idle = usage(worker.pid)
        return hand

    async def kill(self, hand: Hand) -> None:
        """`kill -9`; what it held lapses by itself."""
        await hand.worker.kill()
        await self._forget(hand)

    async def dismiss(self, hand: Hand, codes: Collection[int] = (0,)) -> None:
        """SIGTERM; it must end with one of `codes`, and in time."""
        asked_s = time.monotonic()
        hand.worker.send_signal(signal.SIGTERM)
        name = hand.worker.log_file.name
        try:
            code = await hand.worker.ended()
        except AssertionError as error:
            self.record.findings.append(f"{name}: {str(error)[:400]}")
        else:
            took_s = time.monotonic() - asked_s
            told = f"{name}: ended with {code} after {took_s:.1f} s"
            self.record.facts.append(told)
            if code not in codes or took_s > GRACE_S + END_MARGIN_S:
                self.record.findings.append(told)
        await self._forget(hand)

    async def break_leases(self) -> None:
        """As if the time of all leases were up, so that nobody has to wait for it."""
        for session_id in self.sessions:
            with suppress(ControlError):
                await self.place.control.break_lease(self.place.lease_container, blob_name(session_id))

    async def take_locks(self) -> None:
        """As if the time of all session locks were up."""
        for session_id in self.sessions:
            with suppress(ControlError):
                await self.place.control.take_session_lock(self.place.command_queue, session_id)

    async def grows(self, replies: int, what: str, timeout_s: float = DRAIN_S) -> None:
        """Wait for so many more replies."""
        least = self.replies.count + replies
        await wait_until(lambda: self.replies.count >= least, f"{replies} more replies {what}", timeout_s)

    async def release(self) -> None:
        """Whatever still runs is gone afterwards."""
        for hand in list(self.hands):
            await self._forget(hand)

    async def _forget(self, hand: Hand) -> None:
        if hand in self.hands:
            self.hands.remove(hand)
        self.record.findings += tracebacks(hand.worker)
        with anyio.CancelScope(shield=True):
            await hand.stack.aclose()


def claim_container(place: Place) -> str:
    """Where the events of large commands go."""
    return f"claims-{place.lease_container}"


def _through(wire: Wire, address: str) -> str:
    return address.replace(f"127.0.0.1:{port_in(address)}", f"127.0.0.1:{wire.port}")


def tracebacks(worker: WorkerProcess) -> list[str]:
    """What a worker has met that it does not know, or ended with. What libraries log of lost connections is theirs."""
    logged = [line for line in worker.lines() if "exception" in line and line["event"] != "library.message"]
    found = [f"{line['event']}: {str(line['exception'])[-400:]}" for line in logged]
    _, raw, rest = worker.text().partition("\nTraceback")  # in a line of the log it would not begin one
    return [f"{worker.log_file.name}: {one}" for one in (*found, *([raw + rest[-400:]] if raw else []))]
