"""The Service Bus engine under random histories with restarts: every message is in exactly one place at all times."""

import contextlib
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from emulator.config import QueueConfig
from emulator.journal import Change, JournalError
from emulator.servicebus.engine.errors import ServiceBusError
from emulator.servicebus.engine.outcomes import Abandon, Complete, DeadLetter, Defer, Outcome, Release
from tests.support.servicebus_engine import Bench, RowJournal, Taker, made, text_of

SESSIONS = "abc"
OUTCOMES: tuple[Outcome, ...] = (Complete(), Complete(), Abandon(), Release(), Defer(), DeadLetter("why"))


class CrowdedJournal(RowJournal):
    """Has no room while `is_full`."""

    is_full = False

    def commit(self, changes: Sequence[Change]) -> None:
        if self.is_full:
            raise JournalError("database or disk is full")
        super().commit(changes)


class History:
    """One random history of a queue with or without sessions, and the ledger that it is checked against."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.with_sessions = self.chance.random() < 0.6
        queue = QueueConfig(
            name="q",
            requires_session=self.with_sessions,
            lock_duration_s=10.0,
            max_delivery_count=self.chance.choice([2, 3, 100]),
            default_message_ttl_s=self.chance.choice([None, 15.0, 60.0]),
            dead_lettering_on_message_expiration=True,
        )
        self.journal = CrowdedJournal()
        self.bench = Bench(queue, journal=self.journal)
        self.takers: list[Taker] = []
        self.sent: list[str] = []
        self.completed: set[str] = set()

    def step(self) -> None:
        """Do one thing that a producer, a consumer, time or an operator may do."""
        actions = (self.send, self.send, self.open, self.ask, self.ask, self.settle, self.settle, self.settle)
        rare = (self.close, self.wait, self.take_lock, self.receive_deferred)
        action = self.chance.choice(actions if self.chance.random() < 0.8 else rare)
        if self.chance.random() < 0.02:
            action = self.restart
        action()

    def step_on_a_full_disk(self) -> None:
        """Do one thing where nothing can be written: it is done without writing, or has changed nothing."""
        self.journal.is_full = True
        with contextlib.suppress(JournalError):
            self.step()
        self.journal.is_full = False
        self.takers = [taker for taker in self.takers if taker.receiver is None or taker.receiver.is_open]

    def send(self) -> None:
        names = [str(len(self.sent) + each) for each in range(self.chance.randint(1, 4))]
        session = self.chance.choice(SESSIONS) if self.with_sessions else None
        self.bench.send("q", *(made(name, session_id=session) for name in names))
        self.sent += names

    def open(self) -> None:
        if len(self.takers) >= 5:
            return
        taker = self.bench.taker()
        try:
            if self.with_sessions:
                taker.accept("q", self.chance.choice([None, None, *SESSIONS]), timeout_s=5.0)
            else:
                taker.open("q")
        except ServiceBusError as error:
            refused = error.condition
            assert refused == "com.microsoft:session-cannot-be-locked"
        else:
            self.takers.append(taker)

    def taker(self) -> Taker | None:
        self.takers = [taker for taker in self.takers if taker.error is None]
        opened = [taker for taker in self.takers if taker.receiver is not None]
        return self.chance.choice(opened) if opened else None

    def ask(self) -> None:
        if (taker := self.taker()) is not None:
            taker.ask(self.chance.randint(1, 4))

    def settle(self) -> None:
        taker = self.taker()
        if taker is None or not taker.deliveries:
            return
        index, outcome = self.chance.randrange(len(taker.deliveries)), self.chance.choice(OUTCOMES)
        try:
            taker.settle(outcome, index)
        except ServiceBusError as error:
            lost = error.condition
            assert lost == "com.microsoft:message-lock-lost"
        else:
            if isinstance(outcome, Complete):
                self.completed.add(taker.bodies[index])

    def close(self) -> None:
        if (taker := self.taker()) is not None:
            taker.close()
            self.takers.remove(taker)

    def wait(self) -> None:
        self.bench.pass_s(self.chance.choice([1, 4, 11]))

    def take_lock(self) -> None:
        taker = self.taker()
        if taker is not None and taker.session_id is not None:
            self.bench.engine.take_session_lock("q", taker.session_id)

    def receive_deferred(self) -> None:
        queue = self.bench.engine.queue("q")
        deferred = [view for view in self.bench.engine.messages("q") if view.state == 1 and not view.is_locked]
        if not deferred or self.with_sessions:
            return
        try:
            (delivery,) = queue.receive_deferred([deferred[0].sequence], deletes=False, session=None)
        except ServiceBusError as error:
            expired = error.condition
            assert expired == "com.microsoft:message-not-found"
        else:
            queue.settle([queue.find_lock(delivery.token)], self.chance.choice(OUTCOMES[2:]))

    def restart(self) -> None:
        self.bench.restart()
        self.takers = []

    def check(self) -> None:
        """Each message is waiting, dead or completed; locks and sessions have one holder; sessions are in order."""
        engine = self.bench.engine
        waiting = [text_of(message) for message in engine.queue("q").messages.values()]
        dead = [text_of(message) for message in engine.queue("q/$DeadLetterQueue").messages.values()]
        assert Counter([*waiting, *dead, *self.completed]) == Counter(self.sent)
        held = [taker.session_id for taker in self.takers if taker.session_id is not None and taker.error is None]
        assert len(held) == len(set(held))
        for taker in self.takers:
            firsts = [each.message.sequence for each in taker.deliveries if each.message.delivery_count == 0]
            fresh = list(dict.fromkeys(firsts))
            assert not self.with_sessions or fresh == sorted(fresh)

    def take_what_is_available(self) -> None:
        """As a worker would: whatever can be delivered is found without knowing its session."""
        for taker in self.takers:
            if taker.receiver is not None and taker.receiver.is_open:
                taker.close()
            elif taker.acceptor is not None:
                taker.acceptor.cancel()
        self.takers = []
        self.bench.pass_s(11)
        while True:
            taker = self.bench.taker()
            taker = taker.accept("q", credit=1_000) if self.with_sessions else taker.open("q", credit=1_000)
            if taker.acceptor is not None:
                taker.acceptor.cancel()
                break
            for index in range(len(taker.deliveries)):
                taker.settle(Complete(), index)
                self.completed.add(taker.bodies[index])
            taker.close()
            if not self.with_sessions:
                break
        self.check()
        counts = self.bench.engine.counts("q")
        assert (counts.active, counts.locked) == (0, 0)

    def drain(self) -> None:
        """Let everything run out, take what is left, and see that nothing remains anywhere."""
        for taker in self.takers:
            if taker.receiver is not None and taker.receiver.is_open:
                taker.close()
        self.bench.pass_s(11)
        queue = self.bench.engine.queue("q")
        for path in ("q", "q/$DeadLetterQueue"):
            if self.with_sessions and path == "q":
                for session_id in SESSIONS:
                    taker = self.bench.taker().accept("q", session_id, credit=1_000)
                    self._complete_all(taker, session_id)
                    taker.close()
            else:
                taker = self.bench.taker().open(path, credit=1_000)
                self._complete_all(taker, None)
                taker.close()
        assert queue.messages == {}
        assert self.bench.engine.queue("q/$DeadLetterQueue").messages == {}
        assert self.bench.engine.next_deadline_s() is None
        left = {space for space, _ in self.journal.rows}
        assert left <= {"servicebus.sequences"}

    def _complete_all(self, taker: Taker, session_id: str | None) -> None:
        assert taker.receiver is not None
        queue = taker.receiver.queue
        numbers = [each.message.sequence for each in taker.deliveries]
        assert numbers == sorted(numbers) or session_id is None
        for index in range(len(numbers)):
            taker.settle(Complete(), index)
        session = taker.receiver.session
        deferred = [view.sequence for view in self.bench.engine.messages(queue.path) if view.state == 1]
        mine = [number for number in deferred if queue.messages[number].session_id == session_id or session is None]
        for number in mine:
            try:
                queue.receive_deferred([number], deletes=True, session=session)
            except ServiceBusError as error:
                expired = error.condition
                assert expired == "com.microsoft:message-not-found"


@pytest.mark.parametrize("seed", range(150))
def test_no_message_is_lost_doubled_or_out_of_order(seed: int) -> None:
    history = History(seed)
    for _ in range(120):
        history.step()
        history.check()
    history.drain()


@pytest.mark.parametrize("seed", range(1_000, 1_150))
def test_a_disk_that_is_full_now_and_then_loses_doubles_and_hides_nothing(seed: int) -> None:
    history = History(seed)
    for _ in range(120):
        (history.step_on_a_full_disk if history.chance.random() < 0.3 else history.step)()
        history.check()
    history.take_what_is_available()
    history.drain()
