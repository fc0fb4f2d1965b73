"""Topics and subscription filters of the embedded Service Bus, without sockets."""

from typing import Any

import pytest

from emulator.config import (
    CorrelationFilter,
    FalseFilter,
    Filter,
    RuleConfig,
    SqlFilter,
    SubscriptionConfig,
    TopicConfig,
    TrueFilter,
)
from emulator.servicebus.engine.errors import ServiceBusError
from emulator.servicebus.engine.filters import compile_filter
from emulator.servicebus.engine.sql import compile_condition
from tests.support.servicebus_engine import Bench, made


def subscription(name: str, *filters: Filter, **fields: Any) -> SubscriptionConfig:
    rules = tuple(RuleConfig(name=f"r{index}", filter=each) for index, each in enumerate(filters))
    return SubscriptionConfig(name=name, rules=rules, **fields)


def topic(*subscriptions: SubscriptionConfig, **fields: Any) -> TopicConfig:
    return TopicConfig(name="t", subscriptions=subscriptions, **fields)


def test_each_subscription_gets_its_own_message_once() -> None:
    twice = subscription("twice", TrueFilter(), SqlFilter("kind = 'a'"))
    bench = Bench(topics=(topic(subscription("all", TrueFilter()), subscription("none", FalseFilter()), twice),))
    bench.send("t", made("x", properties={"kind": "a"}), made("y"))
    for name, expected in (("all", ["x", "y"]), ("none", []), ("twice", ["x", "y"])):
        assert [body for body, _, _ in bench.state(f"t/Subscriptions/{name}")] == expected
    taker = bench.taker().open("T/subscriptions/ALL", credit=1)
    assert taker.bodies == ["x"]


def test_topic_is_not_received_from_and_subscription_not_sent_to() -> None:
    bench = Bench(topics=(topic(subscription("s", TrueFilter())),))
    with pytest.raises(ServiceBusError, match="not received from the topic"):
        bench.taker().open("t")
    with pytest.raises(ServiceBusError, match="not sent to the subscription"):
        bench.send("t/Subscriptions/s", made("x"))


def test_subscription_with_sessions_dead_letters_what_has_none() -> None:
    bench = Bench(topics=(topic(subscription("s", TrueFilter(), requires_session=True)),))
    bench.send("t", made("with", session_id="1"), made("without"))
    assert bench.taker().accept("t/Subscriptions/s", credit=9).bodies == ["with"]
    (dead,) = bench.engine.messages("t/Subscriptions/s/$DeadLetterQueue")
    assert dead.properties["DeadLetterReason"] == "Session id is null."


def test_time_to_live_of_the_topic_bounds_that_of_its_subscriptions() -> None:
    bench = Bench(
        topics=(topic(subscription("s", TrueFilter(), default_message_ttl_s=100.0), default_message_ttl_s=10.0),)
    )
    bench.send("t", made("x"))
    bench.pass_s(11)
    assert bench.state("t/Subscriptions/s") == []


def test_scheduled_message_goes_to_subscriptions_at_its_time() -> None:
    bench = Bench(topics=(topic(subscription("s", TrueFilter())),))
    (number,) = bench.engine.schedule("t", [made("x", at_s=bench.clock.now_s() + 10)])
    (other,) = bench.engine.schedule("t", [made("y", at_s=bench.clock.now_s() + 10)])
    bench.engine.cancel_scheduled("t", [other])
    assert number != other
    assert bench.state("t/Subscriptions/s") == []
    bench.pass_s(11)
    assert bench.state("t/Subscriptions/s") == [("x", 0, False)]


def test_duplicates_are_dropped_before_they_reach_subscriptions() -> None:
    bench = Bench(topics=(topic(subscription("s", TrueFilter()), requires_duplicate_detection=True),))
    bench.send("t", made("x", message_id="1"))
    bench.send("t", made("twin", message_id="1"))
    assert [body for body, _, _ in bench.state("t/Subscriptions/s")] == ["x"]


MESSAGE = made(
    "b",
    message_id="m'1",
    session_id="s1",
    subject="greet",
    properties={"kind": "order", "n": 5, "real": 2.5, "flag": True, "a key": "x", "NAME": "upper", "nothing": None},
)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 = 1", True),
        ("1=0", False),
        ("kind = 'order'", True),
        ("user.kind = 'order'", True),
        ("kind = 'other'", False),
        ("kind <> 'other'", True),
        ("kind != 'order'", False),
        ("sys.Label = 'greet' AND sys.SessionId = 's1'", True),
        ("sys.messageid = 'm''1'", True),
        ("[a key] = 'x'", True),
        ("\"a key\" = 'x'", True),
        ("NAME = 'upper'", True),
        ("n > 4 AND n >= 5 AND n < 6 AND n <= 5", True),
        ("n = 5.0", True),
        ("n * 2 + 1 = 11 AND n % 2 = 1 AND -n < 0 AND n / 2 = 2.5", True),
        ("'a' + 'b' = 'ab'", True),
        ("real BETWEEN 1 AND 2", None),
        ("flag = TRUE", True),
        ("flag = 1", False),
        ("n = '5'", False),
        ("NOT kind = 'order'", False),
        ("NOT NOT kind = 'order'", True),
        ("kind = 'x' OR kind = 'order' AND n = 5", True),
        ("(kind = 'x' OR kind = 'order') AND n = 6", False),
        ("kind IN ('a', 'order')", True),
        ("kind NOT IN ('a', 'order')", False),
        ("kind LIKE 'ord%'", True),
        ("kind LIKE '_rder'", True),
        ("kind NOT LIKE '%z%'", True),
        ("'50%' LIKE '50!%' ESCAPE '!'", True),
        ("'500' LIKE '50!%' ESCAPE '!'", False),
        ("missing IS NULL AND kind IS NOT NULL", True),
        ("EXISTS(nothing) AND NOT EXISTS(missing)", True),
        ("missing = 'x'", False),
        ("NOT missing = 'x'", False),
        ("missing = 'x' OR kind = 'order'", True),
        ("missing <> 'x'", False),
        ("missing IN ('x')", False),
        ("n / 0 = 1", False),
        ("kind > 3", False),
        ("kind AND n", False),
        ("kind =", None),
        ("= 1", None),
        ("kind = 'open", None),
        ("kind == 'order'", None),
        ("sys.Nothing = 1", None),
        ("other.kind = 1", None),
        ("kind NOT 5", None),
        ("(" * 100 + "1=1" + ")" * 100, None),
        ("kind = '" + "x" * 2_000 + "'", None),
        ("", None),
    ],
)
def test_sql_condition(expression: str, *, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="the condition"):
            compile_condition(expression)
    else:
        assert compile_condition(expression)(MESSAGE) is expected


@pytest.mark.parametrize(
    ("rule_filter", "expected"),
    [
        (CorrelationFilter(subject="greet"), True),
        (CorrelationFilter(subject="Greet"), False),
        (CorrelationFilter(session_id="s1", message_id="m'1", properties={"kind": "order", "n": 5}), True),
        (CorrelationFilter(subject="greet", properties={"kind": "other"}), False),
        (CorrelationFilter(correlation_id="c"), False),
        (CorrelationFilter(properties={"flag": True}), True),
        (CorrelationFilter(properties={"flag": 1}), False),
        (CorrelationFilter(properties={"missing": "x"}), False),
        (TrueFilter(), True),
        (FalseFilter(), False),
    ],
)
def test_correlation_and_constant_filters(rule_filter: Filter, *, expected: bool) -> None:
    assert compile_filter(rule_filter)(MESSAGE) is expected
