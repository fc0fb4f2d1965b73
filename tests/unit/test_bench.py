"""The benchmark's own sums: a wrong run must be found out, and figures must say what they say."""

import msgspec
import pytest

from bench.figures import AT_LEAST, AT_MOST, Figure, figures
from bench.lab import Latency
from bench.measure import Run
from bench.processes import Usage
from bench.profile import component
from bench.runner import Results
from bench.scenarios import Scenario, full, quick
from bench.soak import Sample, growth
from bench.split import Passed, parts_of
from bench.verify import WrongOutcomeError, check, check_null
from bench.workloads import hot, many, mixed, outcomes
from brook_client.messages import ReceivedReply
from schemas.commands import AppendCommand
from schemas.replies import Appended, ConcurrencyConflict, Reply
from schemas.types import CommandId, Position
from worker.protocol.documents import head_document
from worker.protocol.model import Head
from worker.protocol.prepare import prepare


def _received(command_id: CommandId, reply: Reply) -> ReceivedReply:
    return ReceivedReply(command_id=command_id, reply=reply, body=b"", facts={})


def _right(commands: list[AppendCommand]) -> tuple[list[ReceivedReply], dict[str, list[dict[str, object]]]]:
    """Replies and documents as a worker must leave them."""
    replies = []
    stored: dict[str, list[dict[str, object]]] = {}
    by_id = {command.command_id: command for command in commands}
    for key, outcome in outcomes(commands).items():
        replies += [_received(command_id, reply) for command_id, reply in outcome.replies]
        documents = stored.setdefault(str(key), [head_document(key, Head(position=Position(len(outcome.events) - 1)))])
        made: dict[CommandId, int] = {}
        for position, (command_id, _) in enumerate(outcome.events):
            index = made.get(command_id, 0)
            made[command_id] = index + 1
            prepared = prepare(by_id[command_id], "2026-01-01T00:00:00Z")
            documents.append(prepared.event_document(index, Position(position)))
    return replies, stored


def test_mixed_commands_hold_large_ones_conflicts_and_repetitions() -> None:
    commands = mixed(32, 10, "m")
    replies = [reply for outcome in outcomes(commands).values() for _, reply in outcome.replies]
    assert len(replies) == len(commands) > 320
    assert any(isinstance(reply, ConcurrencyConflict) for reply in replies)
    assert any(len(command.events) == 400 for command in commands)


def test_right_outcome_passes() -> None:
    commands = mixed(8, 10, "m")
    assert check(commands, *_right(commands), settled=len(commands)) == 0


def test_part_of_the_commands_passes_where_it_is_the_first_part() -> None:
    commands = hot(10, "h")
    replies, stored = _right(commands[:4])
    check(commands, replies, stored, settled=3)
    with pytest.raises(WrongOutcomeError, match="5 commands were settled, but 4 are answered"):
        check(commands, replies, stored, settled=5)


def test_reply_that_comes_again_is_counted_and_must_be_the_same() -> None:
    commands = hot(3, "h")
    replies, stored = _right(commands)
    assert check(commands, [*replies, replies[1]], stored, settled=3) == 1
    other = Appended(command_id=commands[1].command_id, first_position=Position(7), last_position=Position(7))
    with pytest.raises(WrongOutcomeError, match="first_position=7"):
        check(commands, [*replies, _received(commands[1].command_id, other)], stored, settled=3)


def test_missing_event_is_found() -> None:
    commands = hot(5, "h")
    replies, stored = _right(commands)
    stored[str(commands[0].brook)].pop()
    with pytest.raises(WrongOutcomeError, match="4 events and a head at 4, not 5 events"):
        check(commands, replies, stored, settled=1)


def test_event_of_another_command_is_found() -> None:
    commands = hot(2, "h")
    replies, stored = _right(commands)
    stored[str(commands[0].brook)][1]["commandId"] = "another"
    with pytest.raises(WrongOutcomeError, match="position 0 is not event"):
        check(commands, replies, stored, settled=1)


def test_missing_reply_is_found() -> None:
    commands = many(3, 2, "m")
    replies, stored = _right(commands)
    with pytest.raises(WrongOutcomeError, match="not 1 events"):
        check(commands, replies[:-1], stored, settled=1)


def test_wrong_reply_is_found() -> None:
    commands = hot(2, "h")
    replies, stored = _right(commands)
    wrong = Appended(command_id=commands[0].command_id, first_position=Position(1), last_position=Position(1))
    replies[0] = _received(commands[0].command_id, wrong)
    with pytest.raises(WrongOutcomeError, match="first_position=1"):
        check(commands, replies, stored, settled=1)


def test_pending_head_that_is_left_is_found() -> None:
    commands = hot(2, "h")
    replies, stored = _right(commands)
    stored[str(commands[0].brook)].append({"id": "head-pending"})
    with pytest.raises(WrongOutcomeError, match="a head-pending is left"):
        check(commands, replies, stored, settled=1)


def test_replies_out_of_order_are_found_of_the_null_worker_too() -> None:
    commands = hot(2, "h")
    replies, _ = _right(commands)
    assert check_null(commands, replies, settled=2) == 0
    with pytest.raises(WrongOutcomeError, match="in order"):
        check_null(commands, replies[::-1], settled=2)


def _run(worker: str, commands: int, work_s: float) -> Run:
    return Run(
        worker=worker,
        queued=commands,
        commands=commands,
        work_s=work_s,
        from_start_s=work_s + 1,
        cpu_s=1.0,
        cpu_from_start_s=2.0,
        emulator_cpu_s=1.0,
        requests={"cosmos": {"batch": 3, "query": 1}},
        charge_ru=None,
        repeated=0,
        memory_bytes=1,
    )


def test_ratios_are_of_runs_of_one_round_and_a_failed_run_has_none() -> None:
    results = Results()
    results.runs["hot"] = {
        "seed": [_run("seed", 100, 10.0), _run("seed", 100, 5.0), None],
        "null": [_run("null", 100, 0.5), None, _run("null", 100, 1.0)],
        "ours": [_run("ours", 100, 1.0), _run("ours", 100, 1.0), _run("ours", 100, 1.0)],
    }
    found = {figure.what: figure for figure in figures(full(), results)}
    assert found["ours / seed"].values == [10.0, 5.0]
    assert found["ours / null"].values == [0.5, 1.0]
    assert found["Cosmos DB requests a command"].values == [0.04, 0.04, 0.04]
    assert found["ours / seed"].reached is False
    assert found["ours / null"].reached is True


@pytest.mark.parametrize(
    ("direction", "must", "reached"), [(AT_LEAST, 2.0, True), (AT_LEAST, 2.1, False), (AT_MOST, 1.9, False)]
)
def test_figure_is_judged_by_its_median(direction: str, must: float, reached: bool) -> None:
    figure = Figure(scenario="s", what="w", values=[1.0, 2.0, 9.0], direction=direction, must=must)
    assert figure.reached is reached


@pytest.mark.parametrize("plan", [full(), quick()], ids=["full", "quick"])
def test_no_two_contenders_have_the_same_commands(plan: msgspec.Struct) -> None:
    for scenario in plan.scenarios:  # type: ignore[attr-defined]
        if isinstance(scenario, Scenario):
            loads = [scenario.load(contender) for contender in scenario.contenders]
            assert len({len(load.commands) for load in loads}) == 1
            assert len({load.commands[0].brook for load in loads}) == len(loads)


def test_latency_becomes_one_rule_a_service() -> None:
    rules = Latency(cosmos_ms=5, blob_ms=0, servicebus_ms=2).rules()
    assert [(rule.service, rule.latency_s) for rule in rules] == [("cosmos", 0.005), ("servicebus", 0.002)]


def test_stack_is_counted_by_what_is_done_not_by_who_asked() -> None:
    entry = "run (worker/cli.py:61)"
    assert component([entry, "complete_message (servicebus/aio/receiver.py:871)", "encode (x.py:1)"]) == (
        "Service Bus: complete"
    )
    assert component([entry, "listen (servicebus/_pyamqp/connection.py:1)"]) == "Service Bus: the client's own tasks"
    assert component([entry, "plan (worker/protocol/plan.py:1)"]) == "decide"
    assert component([entry, "run (asyncio/runners.py:118)"]) == "event loop"


def test_parts_of_a_round_trip_add_up_to_it() -> None:
    passed = [
        Passed(0.001, "servicebus", inward=True, size_bytes=40),  # the disposition of the command before
        Passed(0.003, "servicebus", inward=True, size_bytes=1_200),
        Passed(0.005, "cosmos", inward=False, size_bytes=900),
        Passed(0.011, "cosmos", inward=True, size_bytes=700),
        Passed(0.012, "servicebus", inward=False, size_bytes=50),
        Passed(0.014, "servicebus", inward=False, size_bytes=400),
    ]
    parts = parts_of(0.0, 0.02, passed)
    assert parts is not None
    assert msgspec.structs.astuple(parts) == pytest.approx((3.0, 2.0, 6.0, 3.0, 6.0))
    assert parts_of(0.0, 0.02, passed[:3]) is None


def _samples(memory: list[int], sockets: list[int]) -> list[Sample]:
    usages = (
        Usage(cpu_s=0, memory_bytes=memory_bytes, files=9, sockets=count, threads=1)
        for memory_bytes, count in zip(memory, sockets, strict=True)
    )
    return [Sample(float(index), index, usage) for index, usage in enumerate(usages)]


def test_growth_is_found() -> None:
    assert growth(_samples([100, 101, 99, 109], [5, 6, 6, 6])) == []
    assert growth(_samples([100, 101, 99, 120], [5, 6, 6, 6]))[0].startswith("memory")
    assert growth(_samples([100, 100, 100, 100], [5, 6, 6, 7])) == [
        "sockets: at least 7 in the last quarter, but 6 before"
    ]
    assert growth(_samples([100] * 8, [5, 6, 5, 7, 5, 6, 5, 9])) == [], "a peak is no leak"
    assert growth([]) == ["too few samples after the warm-up to tell whether anything grew"]
