"""Workers that are killed and started anew, and what else happens to them meanwhile."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.abc

from emulator.faults import Answer, ApplyThenDrop, DropBefore, ReadBehind, Rule, Truncate
from emulator.handle import ControlError
from schemas.keys import BrookKey, session_id_for
from schemas.types import CommandId
from tests.chaos.load import Producer
from tests.support.site import Place
from tests.support.waiting import wait_until
from tests.support.worker_process import WorkerProcess
from worker.locking.names import blob_name

WORKERS: Final = 3
SETTINGS: Final = {
    "log_level": "debug",  # tells who has which session
    "max_concurrent_sessions": "16",
    "session_hold_max_s": "1",  # brooks that wait for a slot get one soon
    "lease_acquire_timeout_s": "2",
    "session_accept_wait_s": "2",
    "session_pause_initial_s": "0.1",
    "cosmos_timeout_s": "2",
    "store_time_max_s": "5",
}
LEFT_TO_LAPSE: Final = 5
"""After every kill of this number the leases are left to lapse, which takes up to 15 s; after the others they are
broken at once, so that there is something to kill all the time."""

HITS_MAX: Final = 3
"""A brook whose workers were killed so often in a row is spared until it has gone on: on a slow machine workers would
otherwise be killed faster than they can do anything."""

RECOVERY_MAX_S: Final = 120.0
"""A brook that has not gone on after so long is blocked."""

PAUSE_S: Final = (1.0, 3.0)
"""Between two kills, once a worker is up that has something in hand."""
DISTURBANCE_S: Final = (0.5, 2.0)


def faults(command_queue: str, reply_queue: str) -> list[Rule]:
    """What happens to requests by chance. The latency gives kills the time to fall within a large append."""
    batch = {"service": "cosmos", "operation": "batch"}
    settle = {"service": "servicebus", "operation": "settle", "where": {"entity": command_queue}}
    return [
        Rule(**batch, latency_s=0.005, latency_jitter_s=0.02),  # type: ignore[arg-type]  # only names are given
        Rule(**batch, probability=0.03, effect=Answer(status=429, retry_after_ms=40)),  # type: ignore[arg-type]
        Rule(**batch, probability=0.02, effect=Answer(status=503)),  # type: ignore[arg-type]
        Rule(**batch, probability=0.03, effect=ApplyThenDrop()),  # type: ignore[arg-type]
        Rule(**batch, probability=0.02, effect=Truncate()),  # type: ignore[arg-type]
        Rule(**batch, probability=0.02, effect=DropBefore()),  # type: ignore[arg-type]
        Rule(service="cosmos", operation="query", probability=0.02, effect=Answer(status=503)),
        Rule(service="cosmos", operation="query", probability=0.01, effect=Truncate()),
        Rule(service="cosmos", operation="query", probability=0.2, effect=ReadBehind(transactions=20)),
        Rule(service="blob", probability=0.02, effect=Answer(status=503)),
        Rule(service="blob", probability=0.01, effect=ApplyThenDrop()),
        Rule(
            service="servicebus",
            operation="send",
            where={"entity": reply_queue},
            probability=0.01,
            effect=ApplyThenDrop(),
        ),
        Rule(**settle, probability=0.002, effect=ApplyThenDrop()),  # type: ignore[arg-type]
        Rule(**settle, probability=0.002, effect=DropBefore()),  # type: ignore[arg-type]
    ]


@dataclass
class Toll:
    """What was done to the workers, and what they did about it."""

    kills: int = 0
    locks_taken: int = 0
    leases_broken: int = 0
    recoveries_s: list[float] = field(default_factory=list)
    """From a kill to the next reply of each brook that the worker had in hand, its lease broken at once."""
    lapses_s: list[float] = field(default_factory=list)
    """The same where its lease had to lapse."""
    decisions: dict[str, int] = field(default_factory=dict)


class _Hand:
    """One worker and its place in the crew."""

    def __init__(self, worker: WorkerProcess, stack: AsyncExitStack) -> None:
        self.worker = worker
        self.stack = stack
        self.started_s = time.monotonic()

    @property
    def is_at_work(self) -> bool:
        """Whether it has begun to write: before that there is little that a kill could harm."""
        return any(self.worker.lines(event) for event in ("append.committed", "append.begun"))

    def accepted(self) -> dict[str, str]:
        """When it last accepted each session."""
        return {line["session"]: line["timestamp"] for line in self.worker.lines("session.accepted")}


class Crew:
    """So many workers at a time."""

    def __init__(self, place: Place, producer: Producer, keys: list[BrookKey], seed: int) -> None:
        self._place = place
        self._producer = producer
        self._keys = keys
        self._chance = random.Random(seed)
        self._hands: list[_Hand] = []
        self._killed_s: dict[str, float] = {}
        self._hits: Counter[str] = Counter()
        self.toll = Toll()

    async def muster(self) -> None:
        """Have all places filled."""
        while len(self._hands) < WORKERS:
            stack = AsyncExitStack()
            worker = await stack.enter_async_context(self._place.worker(**SETTINGS))
            self._hands.append(_Hand(worker, stack))

    async def dismiss(self) -> list[int]:
        """SIGTERM to all; their exit codes."""
        codes = []
        for hand in self._hands:
            hand.worker.send_signal(signal.SIGTERM)
        for hand in self._hands:
            codes.append(await hand.worker.ended())
            self._note(hand)
            await hand.stack.aclose()
        self._hands = []
        return codes

    async def release(self) -> None:
        """Whatever still runs is gone afterwards."""
        for hand in self._hands:
            await hand.stack.aclose()
        self._hands = []

    async def kill(self, count: int, tasks: anyio.abc.TaskGroup, on_kill: Callable[[int], None]) -> None:
        """`kill -9` so many workers, one after the other, each replaced at once."""
        while self.toll.kills < count:
            await anyio.sleep(self._chance.uniform(*PAUSE_S))
            hand = await self._somebody_busy()
            mine = self._in_hand(hand)
            await hand.worker.kill()
            self.toll.kills += 1
            on_kill(self.toll.kills)
            lapses = self.toll.kills % LEFT_TO_LAPSE == 0
            times_s = self.toll.lapses_s if lapses else self.toll.recoveries_s
            for brook in mine:
                self._killed_s[brook] = time.monotonic()
                if unanswered := self._producer.unanswered(brook):
                    self._hits[brook] += 1
                    tasks.start_soon(self._await_recovery, brook, unanswered, times_s)
                if not lapses:
                    await self._break_lease(brook)
            self._hands.remove(hand)
            self._note(hand)
            await hand.stack.aclose()
            await self.muster()

    async def disturb(self) -> None:
        """Take locks and break leases of brooks at random, until cancelled."""
        while True:
            await anyio.sleep(self._chance.uniform(*DISTURBANCE_S))
            session_id = session_id_for(self._chance.choice(self._keys))
            try:
                if self._chance.random() < 0.5:
                    await self._place.control.take_session_lock(self._place.command_queue, session_id)
                    self.toll.locks_taken += 1
                else:
                    await self._place.control.break_lease(self._place.lease_container, blob_name(session_id))
                    self.toll.leases_broken += 1
            except ControlError:
                continue  # nobody has it just now

    async def _break_lease(self, session_id: str) -> None:
        with suppress(ControlError):
            await self._place.control.break_lease(self._place.lease_container, blob_name(session_id))

    async def _somebody_busy(self) -> _Hand:
        """One that is up and has sessions in hand; the longer it has been up, the likelier."""
        busy: list[_Hand] = []

        def is_one_busy() -> bool:
            busy[:] = [hand for hand in self._hands if hand.is_at_work and self._may_be_killed(hand)]
            return bool(busy)

        await wait_until(is_one_busy, "a worker is at work", RECOVERY_MAX_S)
        ages = [time.monotonic() - hand.started_s for hand in busy]
        return self._chance.choices(busy, ages)[0]

    def _may_be_killed(self, hand: _Hand) -> bool:
        """Whether it has brooks in hand, none of which has been hit too often since it last went on."""
        hits = [self._hits[brook] for brook in self._in_hand(hand)]
        return bool(hits) and max(hits) < HITS_MAX

    def _in_hand(self, hand: _Hand) -> list[str]:
        """The brooks that it accepted last of all."""
        others = [other.accepted() for other in self._hands if other is not hand]
        return [
            brook for brook, at in hand.accepted().items() if all(at > accepted.get(brook, "") for accepted in others)
        ]

    async def _await_recovery(self, brook: str, unanswered: set[CommandId], times_s: list[float]) -> None:
        """Measured from the last kill, for those who take a brook over are killed as well."""
        await wait_until(
            lambda: not self._producer.unanswered(brook) >= unanswered,
            f"brook {brook} goes on after a kill",
            RECOVERY_MAX_S,
        )
        times_s.append(time.monotonic() - self._killed_s[brook])
        self._hits[brook] = 0

    def _note(self, hand: _Hand) -> None:
        for line in hand.worker.lines("recovery.decided"):
            decision = line["decision"]
            self.toll.decisions[decision] = self.toll.decisions.get(decision, 0) + 1
