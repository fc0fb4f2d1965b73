"""What the embedded Service Bus does with messages, locks and time, without sockets and without waiting."""

import random
from collections.abc import Callable

import pytest

from emulator.config import QueueConfig, SubscriptionConfig, TopicConfig
from emulator.servicebus import Limits
from emulator.servicebus.engine.errors import ServiceBusError
from emulator.servicebus.engine.message import read_message
from emulator.servicebus.engine.outcomes import Abandon, Complete, DeadLetter, Defer, Outcome, Release
from tests.support.servicebus_engine import Bench, made, raw_message

Q = QueueConfig(name="q", max_delivery_count=3)
S = QueueConfig(name="s", requires_session=True, max_delivery_count=3)


def test_credit_is_what_a_receiver_gets_and_no_more() -> None:
    bench = Bench(Q)
    bench.send("q", *(made(str(number)) for number in range(5)))
    taker = bench.taker().open("q", credit=2)
    assert taker.bodies == ["0", "1"]
    taker.ask(1)
    assert taker.bodies == ["0", "1", "2"]
    bench.send("q", made("5"))
    assert len(taker.deliveries) == 3


def test_credit_given_before_a_message_lets_it_through_at_once() -> None:
    bench = Bench(Q)
    taker = bench.taker().open("q", credit=10)
    bench.send("q", made("a"), made("b"))
    assert taker.bodies == ["a", "b"]


def test_receivers_with_credit_are_served_in_turn() -> None:
    bench = Bench(Q)
    one, two = bench.taker().open("q", credit=10), bench.taker().open("q", credit=10)
    bench.send("q", *(made(str(number)) for number in range(6)))
    assert (one.bodies, two.bodies) == (["0", "2", "4"], ["1", "3", "5"])


def test_paused_receiver_gets_nothing_until_it_goes_on() -> None:
    bench = Bench(Q)
    taker = bench.taker().open("q", credit=10)
    assert taker.receiver is not None
    taker.receiver.set_paused(paused=True)
    bench.send("q", made("a"))
    assert taker.bodies == []
    taker.receiver.set_paused(paused=False)
    assert taker.bodies == ["a"]


def test_range_is_settled_as_a_whole_or_not_at_all() -> None:
    bench = Bench(Q)
    bench.send("q", made("a"), made("b"))
    taker = bench.taker().open("q", credit=2)
    taker.settle(Complete(), 0)
    with pytest.raises(ServiceBusError, match="lock supplied is invalid"):
        taker.settle(Complete(), 1, 0)
    assert bench.state("q") == [("b", 0, True)]


def test_released_message_comes_again_without_a_count() -> None:
    bench = Bench(Q)
    bench.send("q", made("a"))
    taker = bench.taker().open("q", credit=1)
    taker.settle(Release(), 0)
    assert bench.state("q") == [("a", 0, False)]
    assert taker.ask(1).bodies == ["a", "a"]


def test_properties_given_on_abandon_defer_and_dead_letter_are_added() -> None:
    bench = Bench(Q)
    bench.send("q", made("a", properties={"own": 1, "replaced": "old"}))
    taker = bench.taker().open("q", credit=1)
    taker.settle(Abandon({"replaced": "new"}), 0)
    taker.ask(1).settle(DeadLetter("why", "because", {"third": True}), 1)
    (view,) = bench.engine.messages("q/$deadletterqueue")
    assert view.properties == {
        "own": 1,
        "replaced": "new",
        "third": True,
        "DeadLetterReason": "why",
        "DeadLetterErrorDescription": "because",
    }


def test_message_of_a_dead_letter_queue_cannot_be_dead_lettered_and_never_leaves_by_itself() -> None:
    bench = Bench(QueueConfig(name="q", max_delivery_count=1, default_message_ttl_s=10.0))
    bench.send("q", made("a"))
    bench.taker().open("q", credit=1).settle(Abandon(), 0)
    dead = bench.taker().open("q/$DeadLetterQueue", credit=1)
    for _ in range(5):
        dead.settle(Abandon(), len(dead.deliveries) - 1)
        dead.ask(1)
    with pytest.raises(ServiceBusError, match="cannot be dead-lettered again"):
        dead.settle(DeadLetter(), len(dead.deliveries) - 1)
    bench.pass_s(1_000)
    assert bench.state("q/$DeadLetterQueue") == [("a", 7, False)]


def test_messages_cannot_be_sent_to_a_dead_letter_queue() -> None:
    with pytest.raises(ServiceBusError, match="cannot be sent"):
        Bench(Q).send("q/$DeadLetterQueue", made("a"))


def test_expired_message_that_is_locked_lives_until_the_lock_ends() -> None:
    bench = Bench(QueueConfig(name="q", default_message_ttl_s=30.0, dead_lettering_on_message_expiration=True))
    bench.send("q", made("a"), made("b"))
    taker = bench.taker().open("q", credit=2)
    bench.pass_s(40)
    assert bench.engine.counts("q").dead_lettered == 0
    taker.settle(Complete(), 0)
    taker.settle(Abandon(), 1)
    bench.engine.advance()
    counts = bench.engine.counts("q")
    assert (counts.active, counts.dead_lettered) == (0, 1)


def test_shortest_time_to_live_applies() -> None:
    bench = Bench(QueueConfig(name="q", default_message_ttl_s=100.0))
    bench.send("q", made("short", ttl_s=10), made("long", ttl_s=1_000))
    bench.pass_s(11)
    assert [body for body, _, _ in bench.state("q")] == ["long"]
    bench.pass_s(90)
    assert bench.state("q") == []


def test_deferred_message_expires_when_it_is_asked_for() -> None:
    bench = Bench(QueueConfig(name="q", default_message_ttl_s=30.0, dead_lettering_on_message_expiration=True))
    bench.send("q", made("a"))
    bench.taker().open("q", credit=1).settle(Defer(), 0)
    bench.pass_s(31)
    assert bench.engine.counts("q").deferred == 1
    with pytest.raises(ServiceBusError, match="does not exist"):
        bench.engine.queue("q").receive_deferred([1], deletes=False, session=None)
    assert bench.engine.counts("q").dead_lettered == 1


def test_time_to_live_of_a_scheduled_message_begins_at_its_time() -> None:
    bench = Bench(Q)
    bench.send("q", made("a", at_s=bench.clock.now_s() + 100, ttl_s=10))
    bench.pass_s(99)
    assert bench.engine.counts("q").scheduled == 1
    bench.pass_s(2)
    assert bench.state("q") == [("a", 0, False)]
    bench.pass_s(10)
    assert bench.state("q") == []


def test_batch_with_one_refused_message_changes_nothing() -> None:
    bench = Bench(S)
    with pytest.raises(ServiceBusError, match="SessionId was not set"):
        bench.send("s", made("a", session_id="1"), made("b"))
    assert bench.state("s") == []


@pytest.mark.parametrize("session_id", [5, b"bytes", True])
def test_session_id_that_is_no_string_is_refused(session_id: object) -> None:
    with pytest.raises(ServiceBusError, match="not a string") as refused:
        made("a", session_id=session_id)
    assert refused.value.condition == "amqp:invalid-field"
    bench = Bench(S)
    with pytest.raises(ServiceBusError, match="neither a string nor null"):
        bench.taker().accept("s", session_id)


def test_ids_over_the_limit_are_refused() -> None:
    bench = Bench(Q, S)
    with pytest.raises(ServiceBusError, match="message id has 129 characters; at most 128"):
        bench.send("q", made("a", message_id="m" * 129))
    with pytest.raises(ServiceBusError, match="session id has 129 characters"):
        bench.send("s", made("a", session_id="s" * 129))
    with pytest.raises(ServiceBusError, match="more than 128"):
        bench.taker().accept("s", "s" * 129)
    with pytest.raises(ServiceBusError, match="message id has 130 characters"):
        bench.send("q", made("a", message_id="\N{GRINNING FACE}" * 65))  # two each, as .NET counts
    bench.send("q", made("a", message_id="\N{GRINNING FACE}" * 64))


@pytest.mark.parametrize(
    ("properties", "condition"),
    [
        ({"one": "x" * 32_700}, None),
        ({"one": "x" * 32_700, "two": "x" * 32_000}, None),
        ({"one": "x" * 32_768}, "amqp:internal-error"),
        ({"one": "x" * 32_000, "two": "x" * 32_768}, "amqp:internal-error"),
        ({str(number): "x" * 1_000 for number in range(66)}, "amqp:link:message-size-exceeded"),
    ],
)
def test_properties_over_the_limits_are_refused(properties: dict[str, str], condition: str | None) -> None:
    bench = Bench(Q)
    payload = raw_message(b"body", properties=properties)
    if condition is None:
        bench.engine.send("q", [read_message(payload)])
        assert bench.engine.messages("q")[0].properties == properties
        return
    with pytest.raises(ServiceBusError) as refused:
        read_message(payload)
    assert refused.value.condition == condition


@pytest.mark.parametrize(("path", "session_id"), [("q", None), ("s", "1")])
def test_message_behind_an_expired_one_is_delivered_however_many_expired_before(
    path: str, session_id: str | None
) -> None:
    """Removing the expired one may tidy up the order of delivery in the middle of looking through it."""
    for count in range(60, 72):
        bench = Bench(Q, S)
        bench.send(path, made("old", ttl_s=100, session_id=session_id))
        bench.send(path, *(made(str(number), ttl_s=1, session_id=session_id) for number in range(count)))
        bench.send(path, made("valid", session_id=session_id))
        bench.pass_s(2)
        bench.clock.jump_s(100)  # not yet told to the engine: it notices when it comes to the message
        taker = bench.taker()
        taker = taker.open(path, credit=1) if session_id is None else taker.accept(path, session_id, credit=1)
        assert taker.bodies == ["valid"]


def test_full_entity_refuses_until_something_is_taken_away() -> None:
    queue = QueueConfig(name="small", max_delivery_count=3, max_size_bytes=1_000)
    topic = TopicConfig(name="t", max_size_bytes=1_000, subscriptions=tuple(SubscriptionConfig(name=n) for n in "ab"))
    bench = Bench(queue, topics=(topic,))
    body = "x" * 400
    for _ in range(3):  # the last one begins below the limit and goes beyond it
        bench.send("small", made(body))
    for refused in (bench.engine.send, bench.engine.schedule):
        with pytest.raises(ServiceBusError, match=r"'small'. Size of entity in bytes:1\d\d\d, .*bytes: 1000") as full:
            refused("small", [made("y", at_s=bench.clock.now_s() + 60)])
        assert full.value.condition == "amqp:resource-limit-exceeded"
    taker = bench.taker().open("small", credit=2)
    taker.settle(DeadLetter("bad", "letter"), 0)
    with pytest.raises(ServiceBusError, match="maximum entity size"):
        bench.send("small", made("y"))  # dead letters count too
    taker.settle(Complete(), 1)
    bench.send("small", made("y"))
    bench.send("t", made(body))
    bench.send("t", made(body))
    with pytest.raises(ServiceBusError, match="maximum entity size"):
        bench.send("t", made("y"))  # of both subscriptions together


def test_size_of_an_entity_is_that_of_what_is_in_it_after_anything() -> None:
    chance = random.Random(5)
    bench = Bench(Q)
    queue = bench.engine.queue("q")
    dead_letters = queue.dead_letters
    assert dead_letters is not None
    outcomes: list[Outcome] = [Complete(), Abandon({"why": "x" * 30}), Release(), Defer(), DeadLetter("r", "d")]
    taker = bench.taker().open("q")
    settled = 0
    for number in range(300):
        at_s = bench.clock.now_s() + 30 if chance.random() < 0.2 else None
        ttl_s = 40 if chance.random() < 0.3 else None
        bench.send("q", made("x" * chance.randrange(50), at_s=at_s, ttl_s=ttl_s, properties={"n": number}))
        taker.ask(2)
        for index in range(settled, len(taker.deliveries)):
            taker.settle(chance.choice(outcomes), index)
            taker.ask(0)
        settled = len(taker.deliveries)
        if number % 20 == 0:
            bench.pass_s(15)
        for store in (queue, dead_letters):
            kept = [*store.messages.values(), *store.scheduled.values()]
            assert store.kept_bytes == sum(message.size_bytes for message in kept)
    assert dead_letters.kept_bytes > 0


def test_session_lock_expiry_counts_every_unsettled_delivery_and_dead_letters_at_the_maximum() -> None:
    bench = Bench(S)
    bench.send("s", made("a", session_id="1"), made("b", session_id="1"))
    for count in range(3):
        taker = bench.taker().accept("s", credit=2)
        assert [each.message.delivery_count for each in taker.deliveries] == [count, count]
        bench.pass_s(60)
        assert taker.error is not None
        assert taker.error.condition == "com.microsoft:session-lock-lost"
    counts = bench.engine.counts("s")
    assert (counts.active, counts.dead_lettered) == (0, 2)


def test_settling_after_the_session_was_lost_says_so() -> None:
    bench = Bench(S)
    bench.send("s", made("a", session_id="1"))
    taker = bench.taker().accept("s", credit=1)
    bench.engine.take_session_lock("s", "1")
    with pytest.raises(ServiceBusError) as refused:
        taker.settle(Complete(), 0)
    assert refused.value.condition == "com.microsoft:session-lock-lost"
    assert bench.state("s") == [("a", 1, False)]


def test_acceptors_are_served_in_the_order_in_which_they_came() -> None:
    bench = Bench(S)
    takers = [bench.taker().accept("s") for _ in range(3)]
    for key in "xyz":
        bench.send("s", made("a", session_id=key))
    assert [taker.session_id for taker in takers] == ["x", "y", "z"]


def test_acceptor_that_went_away_or_timed_out_is_passed_over() -> None:
    bench = Bench(S)
    gone, late, last = bench.taker().accept("s"), bench.taker().accept("s", timeout_s=5), bench.taker().accept("s")
    assert gone.acceptor is not None
    gone.acceptor.cancel()
    gone.acceptor.cancel()
    bench.pass_s(6)
    assert late.error is not None
    assert late.error.condition == "com.microsoft:timeout"
    bench.send("s", made("a", session_id="x"))
    assert (gone.session_id, late.session_id, last.session_id) == (None, None, "x")


def test_session_with_nothing_deliverable_is_not_handed_out() -> None:
    bench = Bench(S)
    bench.send("s", made("deferred", session_id="1"), made("expires", session_id="2", ttl_s=5))
    deferring = bench.taker().accept("s", "1", credit=1)
    deferring.settle(Defer(), 0)
    deferring.close()
    bench.pass_s(6)
    taker = bench.taker().accept("s")
    assert taker.session_id is None


def test_freed_session_goes_to_the_end_of_the_line() -> None:
    bench = Bench(S)
    for key in "ab":
        bench.send("s", made("1", session_id=key))
    first = bench.taker().accept("s")
    assert first.session_id == "a"
    first.close()
    assert bench.taker().accept("s").session_id == "b"
    assert bench.taker().accept("s").session_id == "a"


def test_session_order_survives_abandon_release_and_a_new_holder() -> None:
    bench = Bench(S)
    bench.send("s", *(made(str(number), session_id="1") for number in range(5)))
    taker = bench.taker().accept("s", credit=3)
    taker.settle(Abandon(), 1)
    taker.settle(Release(), 0)
    taker.close()
    assert bench.taker().accept("s", credit=9).bodies == ["0", "1", "2", "3", "4"]


def test_empty_sessions_leave_nothing_behind() -> None:
    bench = Bench(S)
    sessions = bench.engine.queue("s").sessions
    assert sessions is not None
    for number in range(100):
        bench.send("s", made("a", session_id=str(number)))
        taker = bench.taker().accept("s", credit=1)
        taker.settle(Complete(), 0)
        taker.close()
    assert len(sessions) == 0
    assert bench.engine.next_deadline_s() is None


def test_numbers_of_gone_messages_do_not_pile_up() -> None:
    bench = Bench(QueueConfig(name="q", default_message_ttl_s=1.0))
    for _ in range(50):
        bench.send("q", *(made("a") for _ in range(20)))
        bench.pass_s(2)
    queue = bench.engine.queue("q")
    assert len(queue._ready) <= 64
    assert bench.state("q") == []


def test_cancelled_deadlines_do_not_pile_up() -> None:
    bench = Bench(Q)
    taker = bench.taker().open("q")
    for number in range(2_000):
        bench.send("q", made("a"))
        taker.ask(1).settle(Complete(), number)
    assert len(bench.engine.context.timers._heap) <= 66


def test_management_of_a_session_is_for_its_holder_only() -> None:
    bench = Bench(S)
    queue = bench.engine.queue("s")
    taker = bench.taker().accept("s", "1")
    assert queue.held_session("1", taker).id == "1"
    with pytest.raises(ServiceBusError) as refused:
        queue.held_session("1", "somebody else")
    assert refused.value.condition == "com.microsoft:session-lock-lost"


def test_session_state_has_a_limit_and_survives_its_holder() -> None:
    bench = Bench(S, limits=Limits(session_state_bytes_max=10))
    queue = bench.engine.queue("s")
    taker = bench.taker().accept("s", "1")
    session = queue.held_session("1", taker)
    with pytest.raises(ServiceBusError, match="at most 10"):
        bench.engine.set_session_state(queue, session, b"x" * 11)
    bench.engine.set_session_state(queue, session, b"kept")
    taker.close()
    again = bench.taker().accept("s", "1")
    assert queue.held_session("1", again).state == b"kept"


def test_sessions_are_listed_by_messages_state_and_time_of_change() -> None:
    bench = Bench(S)
    bench.send("s", made("a", session_id="with message"))
    queue = bench.engine.queue("s")
    taker = bench.taker().accept("s", "with state")
    before_s = bench.clock.now_s()
    bench.pass_s(5)
    bench.engine.set_session_state(queue, queue.held_session("with state", taker), b"x")
    bench.taker().accept("s", "with neither")
    assert bench.engine.session_ids("s") == ["with message", "with state"]
    assert bench.engine.session_ids("s", updated_after_s=before_s) == ["with state"]
    assert bench.engine.session_ids("s", updated_after_s=before_s + 5) == []


def test_clock_that_jumps_back_keeps_locks() -> None:
    bench = Bench(Q)
    bench.send("q", made("a"))
    bench.taker().open("q", credit=1)
    bench.pass_s(-3_600)
    assert bench.state("q") == [("a", 0, True)]
    bench.pass_s(3_600 + 61)
    assert bench.state("q") == [("a", 1, False)]


def test_accepting_a_session_costs_the_same_whatever_their_number() -> None:
    """Counted, not timed: how often the engine looks at a heap while all sessions are accepted and emptied."""
    looks = {}
    for count in (200, 2_000):
        bench = Bench(S)
        queue = bench.engine.queue("s")
        for number in range(count):
            bench.send("s", made("a", session_id=str(number)))
        looked = 0
        original = queue.has_deliverable

        def counting(ready: list[int], original: Callable[[list[int]], bool] = original) -> bool:
            nonlocal looked
            looked += 1
            return original(ready)

        queue.has_deliverable = counting  # type: ignore[method-assign] # counts, and changes nothing
        for _ in range(count):
            taker = bench.taker().accept("s", credit=1)
            taker.settle(Complete(), 0)
            taker.close()
        looks[count] = looked / count
    assert looks[2_000] == looks[200]


def test_locks_that_expire_under_load_lose_and_double_nothing() -> None:
    bench = Bench(QueueConfig(name="q", lock_duration_s=5.0, max_delivery_count=2_000))
    chance = random.Random(5)
    takers = [bench.taker().open("q", credit=20) for _ in range(4)]
    sent = 0
    settled: list[str] = []
    open_deliveries: list[tuple[int, int]] = []
    seen = [0] * 4
    for _ in range(600):
        if sent < 1_000 and chance.random() < 0.7:
            bench.send("q", *(made(str(sent + each)) for each in range(5)))
            sent += 5
        bench.pass_s(chance.random() * 2)
        for index, taker in enumerate(takers):
            open_deliveries += [(index, number) for number in range(seen[index], len(taker.deliveries))]
            seen[index] = len(taker.deliveries)
        for _ in range(min(len(open_deliveries), 8)):
            index, number = open_deliveries.pop(chance.randrange(len(open_deliveries)))
            try:
                takers[index].settle(Complete(), number)
                settled.append(takers[index].bodies[number])
            except ServiceBusError as error:
                lost = error.condition
                assert lost == "com.microsoft:message-lock-lost"
            takers[index].ask(20)
    waiting = [body for body, _, _ in bench.state("q")]
    assert len(settled) > 100
    assert sorted(settled + waiting, key=int) == [str(number) for number in range(sent)]
