"""The demo's figures."""

import io

import pytest
from rich.console import Console

from brook_client.messages import ReceivedReply
from schemas.commands import AppendCommand, NewEvent
from schemas.keys import BrookKey
from schemas.replies import Appended, Rejected
from schemas.types import CommandId, Position
from worker.demo.report import figures, percentile, table
from worker.demo.traffic import Traffic


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(percent: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected
    assert percentile([], percent) == 0


def traffic_with_one_batch_of_two_commands() -> Traffic:
    traffic = Traffic()
    ids = [CommandId(name) for name in "abc"]
    commands = [
        AppendCommand(
            command_id=command_id,
            brook=BrookKey("order", "1"),
            expected="any",
            events=(NewEvent(event_id="e", event_type="Opened", data=b""),),
        )
        for command_id in ids
    ]
    assert list(traffic.stamped(commands)) == commands
    for position, command_id in enumerate(ids[:2]):
        reply = Appended(command_id=command_id, first_position=Position(position), last_position=Position(position))
        facts = {"batchCommands": 2, "batchEvents": 5}
        traffic.take(ReceivedReply(command_id=command_id, reply=reply, body=b"", facts=dict(facts)))
    again = traffic.replies[ids[0]][0]
    traffic.take(again)
    rejected = Rejected(command_id=ids[2], code="no-events", message="")
    traffic.take(ReceivedReply(command_id=ids[2], reply=rejected, body=b"", facts={}))
    return traffic


def test_figures_count_batches_once_however_many_commands_tell_of_them() -> None:
    requests = {("cosmos", "batch"): 2, ("cosmos", "query"): 1, ("blob", "lease"): 9}
    shown = dict(figures(traffic_with_one_batch_of_two_commands(), brooks=1, events=5, requests=requests))
    assert shown["commands sent"] == "4 over 1 brooks"
    assert shown["  Appended"] == "3"
    assert shown["  Rejected"] == "1"
    assert shown["Cosmos DB requests per command"] == "0.75"
    assert shown["batches written"] == "1"
    assert shown["  commands in a batch"] == "mean 2.0, p99 2, max 2"
    assert shown["  events in a batch"] == "mean 5.0, p99 5, max 5"


def test_figures_of_nothing_are_no_division_by_zero() -> None:
    output = io.StringIO()
    Console(file=output).print(table(figures(Traffic(), brooks=0, events=0, requests={})))
    assert "commands sent" in output.getvalue()
