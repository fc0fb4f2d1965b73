"""What the embedded Service Bus knows after its process was killed: what it acknowledged, and nothing half-done."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from emulator.config import QueueConfig, SubscriptionConfig, TopicConfig
from emulator.journal import Change, MemoryJournal, SqliteJournal
from emulator.servicebus.engine.errors import ServiceBusError
from emulator.servicebus.engine.outcomes import Abandon, Complete, DeadLetter, Defer, Outcome, Release
from tests.support.servicebus_engine import Bench, Taker, made

QUEUES = (
    QueueConfig(name="q", max_delivery_count=2),
    QueueConfig(name="s", requires_session=True, max_delivery_count=3),
    QueueConfig(name="d", requires_duplicate_detection=True, duplicate_detection_window_s=60.0),
    QueueConfig(name="t", default_message_ttl_s=30.0, dead_lettering_on_message_expiration=True),
)
TOPIC = TopicConfig(name="topic", subscriptions=(SubscriptionConfig(name="one"), SubscriptionConfig(name="two")))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(*QUEUES, topics=(TOPIC,), journal=SqliteJournal(tmp_path / "sb.sqlite"))


def test_messages_come_back_in_order_with_their_counts_and_numbers_go_on(bench: Bench) -> None:
    bench.send("q", made("a"), made("b"), made("c"))
    taker = bench.taker().open("q", credit=2)
    taker.settle(Abandon(), 0)
    taker.settle(Complete(), 1)
    bench.restart()
    assert bench.state("q") == [("a", 1, False), ("c", 0, False)]
    bench.send("q", made("d"))
    numbers = [view.sequence for view in bench.engine.messages("q")]
    assert numbers == sorted(numbers)
    assert numbers[-1] > 3
    assert bench.taker().open("q", credit=9).bodies == ["a", "c", "d"]


def test_peek_lock_outlives_the_process_and_its_token_still_settles(bench: Bench) -> None:
    bench.send("q", made("a"), made("b"))
    taker = bench.taker().open("q", credit=2)
    bench.restart()
    assert bench.state("q") == [("a", 0, True), ("b", 0, True)]
    queue = bench.engine.queue("q")
    queue.settle([queue.find_lock(taker.deliveries[0].token)], Complete())
    assert queue.renew_locks([taker.deliveries[1].token]) == [bench.clock.now_s() + 60.0]
    bench.pass_s(61)
    assert bench.state("q") == [("b", 1, False)]


def test_lock_that_ran_out_while_nobody_ran_counts_a_delivery(bench: Bench) -> None:
    bench.send("q", made("a"))
    bench.taker().open("q", credit=1)
    bench.clock.jump_s(100)
    bench.restart()
    bench.engine.advance()
    assert bench.state("q") == [("a", 1, False)]


def test_message_that_was_locked_at_a_restart_comes_again_once(bench: Bench) -> None:
    bench.send("q", made("a"))
    bench.taker().open("q", credit=1)
    bench.restart()
    bench.pass_s(61)
    assert bench.taker().open("q", credit=9).bodies == ["a"]


def test_session_is_free_after_a_restart_and_its_messages_come_again_uncounted(bench: Bench) -> None:
    bench.send("s", *(made(str(number), session_id="1") for number in range(3)))
    taker = bench.taker().accept("s", credit=2)
    taker.settle(Complete(), 0)
    queue = bench.engine.queue("s")
    bench.engine.set_session_state(queue, queue.held_session("1", taker), b"half way")
    bench.restart()
    again = bench.taker().accept("s", credit=9)
    assert again.bodies == ["1", "2"]
    assert [each.message.delivery_count for each in again.deliveries] == [0, 0]
    assert bench.engine.queue("s").held_session("1", again).state == b"half way"


def test_dead_letters_deferred_and_scheduled_messages_stay_what_they_were(bench: Bench) -> None:
    at_s = bench.clock.now_s() + 100
    bench.send("q", made("dead"), made("later"), made("scheduled", at_s=at_s))
    taker = bench.taker().open("q", credit=2)
    taker.settle(DeadLetter("why", "because"), 0)
    taker.settle(Defer(), 1)
    bench.restart()
    counts = bench.engine.counts("q")
    assert (counts.active, counts.deferred, counts.scheduled, counts.dead_lettered) == (0, 1, 1, 1)
    (dead,) = bench.engine.messages("q/$DeadLetterQueue")
    assert dead.properties["DeadLetterReason"] == "why"
    (deferred,) = (view for view in bench.engine.messages("q") if view.state == 1)
    (delivery,) = bench.engine.queue("q").receive_deferred([deferred.sequence], deletes=True, session=None)
    assert delivery.message.sequence == deferred.sequence
    bench.pass_s(101)
    assert bench.state("q") == [("scheduled", 0, False)]


def test_message_ids_seen_stay_seen_until_the_window_ends(bench: Bench) -> None:
    bench.send("d", made("a", message_id="1"))
    bench.restart()
    bench.send("d", made("twin", message_id="1"))
    assert [body for body, _, _ in bench.state("d")] == ["a"]
    bench.clock.jump_s(61)
    bench.restart()
    bench.send("d", made("late", message_id="1"))
    assert [body for body, _, _ in bench.state("d")] == ["a", "late"]


def test_messages_expire_on_time_after_a_restart(bench: Bench) -> None:
    bench.send("t", made("a"))
    bench.restart()
    bench.pass_s(31)
    assert bench.engine.counts("t").dead_lettered == 1


def test_deleted_on_delivery_is_deleted(bench: Bench) -> None:
    bench.send("q", made("a"))
    assert bench.taker().open("q", credit=1, deletes=True).bodies == ["a"]
    bench.restart()
    assert bench.state("q") == []


def test_subscriptions_keep_their_own(bench: Bench) -> None:
    bench.send("topic", made("a"))
    bench.taker().open("topic/Subscriptions/one", credit=1).settle(Complete(), 0)
    bench.restart()
    assert bench.state("topic/Subscriptions/one") == []
    assert bench.state("topic/Subscriptions/two") == [("a", 0, False)]


def test_rows_are_gone_once_everything_is_settled(bench: Bench) -> None:
    bench.send("q", made("a"), made("b"))
    taker = bench.taker().open("q", credit=2)
    taker.settle(Release(), 0)
    taker.ask(1)
    taker.settle(Complete(), 1, 2)
    kept = [space for space in ("messages", "locks", "scheduled") if list(bench.journal.load(f"servicebus.{space}"))]
    assert kept == []


class FailingJournal(MemoryJournal):
    """Loses its disk when told to."""

    def __init__(self) -> None:
        self.is_full = False

    def commit(self, changes: Sequence[Change]) -> None:
        if self.is_full:
            raise OSError("no space left on device")


class HeldBench(Bench):
    """With a message and a session that receivers hold."""

    takers: list[Taker]


def settle_with(outcome: Outcome) -> Callable[[HeldBench], None]:
    return lambda bench: bench.takers[0].settle(outcome, 0)


@pytest.mark.parametrize(
    "act",
    [
        lambda bench: bench.send("q", made("new")),
        lambda bench: bench.send("topic", made("new")),
        lambda bench: bench.engine.schedule("q", [made("new", at_s=bench.clock.now_s() + 5)]),
        settle_with(Complete()),
        settle_with(Abandon()),
        settle_with(Release()),
        settle_with(Defer()),
        settle_with(DeadLetter("why")),
        lambda bench: bench.takers[0].ask(1),
        lambda bench: bench.engine.queue("q").renew_locks([bench.takers[0].deliveries[0].token]),
        lambda bench: bench.engine.set_session_state(
            bench.engine.queue("s"), bench.engine.queue("s").held_session("1", bench.takers[1]), b"new"
        ),
    ],
)
def test_change_that_cannot_be_written_has_changed_nothing(act: Callable[[HeldBench], None]) -> None:
    journal = FailingJournal()
    bench = HeldBench(*QUEUES, topics=(TOPIC,), journal=journal)
    bench.send("q", made("locked"), made("free"))
    bench.send("s", made("in session", session_id="1"))
    bench.takers = [bench.taker().open("q", credit=1), bench.taker().accept("s", "1", credit=1)]

    def everything() -> object:
        engine = bench.engine
        paths = ("q", "q/$DeadLetterQueue", "s", "topic/Subscriptions/one")
        session = engine.queue("s").held_session("1", bench.takers[1])
        return [bench.state(path) for path in paths], [engine.counts(path) for path in paths], session.state

    before = everything()
    journal.is_full = True
    with pytest.raises(OSError, match="no space"):
        act(bench)
    assert everything() == before
    journal.is_full = False
    bench.takers[0].ask(1)
    assert bench.takers[0].bodies == ["locked", "free"]
    bench.takers[0].settle(Complete(), 0)
    assert [body for body, _, _ in bench.state("q")] == ["free"]


def test_delivery_that_fails_on_an_expired_message_loses_none_before_it() -> None:
    journal = FailingJournal()
    bench = Bench(*QUEUES, journal=journal)
    bench.send("q", made("a"), made("b", ttl_s=1), made("c"))
    taker = bench.taker().open("q")
    bench.clock.jump_s(5)  # not yet told to the engine: it notices when it comes to the message
    journal.is_full = True
    with pytest.raises(OSError, match="no space"):
        taker.ask(10)
    assert taker.bodies == []
    journal.is_full = False
    taker.ask(10)
    assert taker.bodies == ["a", "c"]


def test_session_whose_expired_message_cannot_be_removed_is_handed_out_later() -> None:
    journal = FailingJournal()
    bench = Bench(*QUEUES, journal=journal)
    bench.send("s", made("old", session_id="1", ttl_s=1), made("a", session_id="1"))
    bench.send("s", made("b", session_id="2"))
    bench.clock.jump_s(5)  # not yet told to the engine: it notices when it comes to the message
    journal.is_full = True
    with pytest.raises(OSError, match="no space"):
        bench.taker().accept("s", credit=1)
    journal.is_full = False
    takers = [bench.taker().accept("s", credit=1) for _ in range(2)]
    assert sorted(body for taker in takers for body in taker.bodies) == ["a", "b"]


def test_sessions_that_changed_together_are_all_served_though_one_fails_at_first() -> None:
    journal = FailingJournal()
    bench = Bench(*QUEUES, journal=journal)
    bench.send("s", made("old", session_id="1", ttl_s=1), made("a", session_id="1"), made("b", session_id="2"))
    holders = [bench.taker().accept("s", name) for name in ("1", "2")]
    bench.clock.jump_s(5)
    sessions = bench.engine.queue("s").sessions
    assert sessions is not None
    for name in ("1", "2"):
        session = sessions.find(name)
        assert session is not None
        sessions.changed(session)
    for holder in holders:
        assert holder.receiver is not None
        holder.receiver.credit = 1  # as if it had come in one piece with what follows
    journal.is_full = True
    with pytest.raises(OSError, match="no space"):
        sessions.pump()
    journal.is_full = False
    sessions.pump()
    assert [holder.bodies for holder in holders] == [["a"], ["b"]]


def test_rows_of_entities_that_are_gone_wait_for_their_return(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "sb.sqlite")
    Bench(*QUEUES, journal=journal).send("q", made("a"))
    without = Bench(QUEUES[1], journal=journal)
    with pytest.raises(ServiceBusError, match="could not be found"):
        without.engine.queue("q")
    assert Bench(*QUEUES, journal=journal).state("q") == [("a", 0, False)]


def test_deadline_that_could_not_be_written_is_tried_again() -> None:
    journal = FailingJournal()
    bench = Bench(*QUEUES, journal=journal)
    bench.send("q", made("a"))
    bench.taker().open("q", credit=1)
    journal.is_full = True
    with pytest.raises(OSError, match="no space"):
        bench.pass_s(61)
    assert bench.state("q") == [("a", 0, True)]
    journal.is_full = False
    bench.pass_s(2)
    assert bench.state("q") == [("a", 1, False)]
