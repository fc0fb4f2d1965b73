"""The board's arithmetic: rates between two looks at the same process, together and apart."""

import io

from rich.console import Console

from worker.commands.board import Board, QueueShown, WorkerShown, rates, rendered, worker_shown
from worker.operations.workers import Look, Sample, Slots
from worker.telemetry import instruments as of
from worker.telemetry.health import Reason, Status

Series = list[tuple[str, dict[str, str], float]]


def sample(at_s: float, *, scale: float, started_at_s: float = 100.0) -> Sample:
    """Metrics that have grown in proportion to `scale`."""
    commands, latency = of.COMMANDS.prometheus_name, of.LATENCY_FROM_ENQUEUE.prometheus_name
    groups = of.GROUP_COMMANDS.prometheus_name
    series: Series = [
        (of.START_TIME.prometheus_name, {}, started_at_s),
        (commands, {"outcome": "appended", "attempt": "first"}, 30 * scale),
        (commands, {"outcome": "appended", "attempt": "repeated"}, 10 * scale),
        (commands, {"outcome": "conflict", "attempt": "first"}, 5 * scale),
        (of.EVENTS.prometheus_name, {}, 80 * scale),
        (of.REQUEST_CHARGE.prometheus_name, {"operation": "batch"}, 400 * scale),
        (of.REQUEST_CHARGE.prometheus_name, {"operation": "query"}, 20 * scale),
        (of.RETRIES.prometheus_name, {"service": "cosmos", "reason": "throttled"}, 2 * scale),
        (f"{groups}_sum", {}, 45 * scale),
        (f"{groups}_count", {}, 9 * scale),
        (f"{latency}_bucket", {"le": "0.1"}, 40 * scale),
        (f"{latency}_bucket", {"le": "0.25"}, 43 * scale),
        (f"{latency}_bucket", {"le": "+Inf"}, 45 * scale),
        (of.IN_HAND.prometheus_name, {}, 7),
        (of.BREAKER_OPEN.prometheus_name, {}, 1),
    ]
    return Sample(at_s, series)


def look(found: Sample, url: str = "http://w") -> Look:
    readiness = Status(ok=False, state="running", reasons=(Reason("breaker-open", "Cosmos DB answered 503"),))
    return Look(url=url, readiness=readiness, slots=Slots(slots=16, busy=3, wanted=3.0), sample=found)


def test_rates_are_what_grew_by_the_seconds_between() -> None:
    found = rates([(sample(10.0, scale=1), sample(12.0, scale=3))])
    assert found is not None
    assert found.commands == 45.0
    assert found.outcomes == {
        "appended": 40.0,
        "conflict": 5.0,
        "rejected": 0.0,
        "dead-lettered": 0.0,
        "abandoned": 0.0,
    }
    assert (found.events, found.request_charge, found.retries) == (80.0, 420.0, 2.0)
    assert found.group_commands == 5.0
    assert found.latency_p95_s == 0.25


def test_several_workers_together_are_added_up_and_averaged_by_what_they_did() -> None:
    found = rates([(sample(10.0, scale=1), sample(12.0, scale=3)), (sample(10.0, scale=0), sample(11.0, scale=1))])
    assert found is not None
    assert found.commands == 90.0
    assert found.group_commands == 5.0


def test_without_a_look_before_or_after_a_restart_there_are_no_rates() -> None:
    assert rates([(None, sample(12.0, scale=3))]) is None
    assert rates([(sample(10.0, scale=3), sample(12.0, scale=1, started_at_s=111.0))]) is None
    assert rates([]) is None


def test_a_latency_beyond_every_bound_or_of_no_command_is_none() -> None:
    name = of.LATENCY_FROM_ENQUEUE.prometheus_name
    start: tuple[str, dict[str, str], float] = (of.START_TIME.prometheus_name, {}, 1.0)
    before = Sample(1.0, [start])
    slow = Sample(2.0, [start, (f"{name}_bucket", {"le": "0.1"}, 0), (f"{name}_bucket", {"le": "+Inf"}, 5)])
    for now in (slow, Sample(2.0, [start])):
        found = rates([(before, now)])
        assert found is not None
        assert found.latency_p95_s is None


def test_a_worker_that_does_not_answer_is_shown_as_such_among_the_others() -> None:
    board = Board(
        at="2026-01-31T12:00:00+00:00",
        queue=QueueShown(name="commands", active=7, problem="oldest command: [red]ServiceBusError"),
        workers=[
            worker_shown(look(sample(12.0, scale=3)), sample(10.0, scale=1)),
            WorkerShown(url="http://gone", problem="does not answer within 3 s"),
        ],
        total=None,
    )
    out = io.StringIO()
    Console(file=out, width=200).print(rendered(board))
    text = out.getvalue()
    assert "no answer" in text
    assert "http://gone: does not answer within 3 s" in text
    assert "http://w: breaker-open: Cosmos DB answered 503" in text
    assert "queue: oldest command: [red]ServiceBusError" in text, "nothing in a message is taken for markup"
    assert "3 of 16" in text
    assert "≤ 0.25 s" in text
