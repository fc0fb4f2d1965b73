"""`brook-worker dead-letter` against the embedded Service Bus, by the real client."""

import io
import json
import signal
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from azure.servicebus import ServiceBusMessage
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageProperties
from rich.console import Console
from typer.testing import CliRunner

from emulator.config import QueueConfig
from emulator.faults import Answer, ApplyThenDrop, Rule
from schemas.codec import JSON, encode_command
from schemas.commands import AppendCommand
from schemas.keys import BrookKey, session_id_for
from tests.support.brooks import command
from tests.support.operators import LOCK_S, Services, brook_worker, on_a_terminal, running_command, running_services
from tests.support.waiting import wait_until
from worker.cli import app
from worker.commands.dead_letter import Intent, Output, list_letters, purge, resubmit, show_letter
from worker.commands.failures import CommandError, PartlyDoneError, UsageError
from worker.deadletters.base import Selection
from worker.sessions.base import RESUBMITTED
from worker.sessions.messages import make_settleable

pytestmark = pytest.mark.anyio

QUEUES = 16
WINDOW_S = 600.0
DETECTING = "detecting"


@pytest.fixture(scope="module")
async def services() -> AsyncIterator[Services]:
    names = [f"queue-{number}" for number in range(QUEUES)]
    queues = [QueueConfig(name=name, requires_session=True, lock_duration_s=LOCK_S) for name in names]
    detecting = QueueConfig(
        name=DETECTING,
        requires_session=True,
        lock_duration_s=LOCK_S,
        requires_duplicate_detection=True,
        duplicate_detection_window_s=WINDOW_S,
    )
    async with running_services(*queues, detecting) as it:
        yield it


@pytest.fixture(scope="module")
def names() -> list[str]:
    return [f"queue-{number}" for number in range(QUEUES)]


@pytest.fixture
def queue(names: list[str]) -> str:
    """A queue that no other test uses."""
    return names.pop()


def commands(*brooks: str) -> list[AppendCommand]:
    """One command for each of these brooks, in order."""
    return [command(key=BrookKey("order", brook)) for brook in brooks]


def intent(action: Any, *, limit: int = 1000, dry_run: bool = False, **selection: Any) -> Intent:
    return Intent(action=action, selection=Selection(**selection), limit=limit, dry_run=dry_run)


class Printed:
    """What a command run within the test prints."""

    def __init__(self) -> None:
        self.out = io.StringIO()
        self.output = Output(Console(file=self.out, width=200), Console(file=io.StringIO()), as_json=True)

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out.getvalue())
        return found


async def test_resubmitted_commands_are_as_their_producer_sent_them_in_order_and_marked(
    services: Services, queue: str
) -> None:
    key = BrookKey("order", "größe")
    sent = [command(key=key) for _ in range(3)]
    messages = [
        ServiceBusMessage(
            encode_command(one),
            content_type=JSON,
            message_id=one.command_id,
            session_id=session_id_for(key),
            correlation_id="correlated",
            reply_to="somewhere",
            reply_to_session_id="mine",
            application_properties={"traceparent": "00-1", "number": 7},
        )
        for one in sent
    ]
    await services.dead_letter_messages(queue, messages)
    printed = Printed()
    await resubmit(services.settings(queue), intent("resubmit"), printed.output, duplicate_window_s=None)
    report = printed.report()
    assert [one["messageId"] for one in report["done"]] == [one.command_id for one in sent]
    assert (report["kept"], report["dryRun"], report["more"]) == ([], False, False)
    assert services.dead(queue) == []
    waiting = await services.received(queue, session_id_for(key))
    assert [one.message_id for one in waiting] == [one.command_id for one in sent]
    for message, original in zip(waiting, sent, strict=True):
        assert b"".join(message.body) == encode_command(original)
        assert (message.content_type, message.correlation_id) == (JSON, "correlated")
        assert (message.reply_to, message.reply_to_session_id) == ("somewhere", "mine")
        assert message.application_properties == {b"traceparent": b"00-1", b"number": 7, RESUBMITTED.encode(): 1}


async def test_only_what_is_meant_is_sent_and_the_rest_is_given_back_unlocked(services: Services, queue: str) -> None:
    await services.dead_letter(queue, commands("1", "2", "1", "3"))
    printed = Printed()
    await resubmit(
        services.settings(queue), intent("resubmit", brook=BrookKey("order", "1")), printed.output, duplicate_window_s=0
    )
    assert len(printed.report()["done"]) == 2
    assert len(services.dead(queue)) == 2
    assert services.azure.servicebus.engine.counts(f"{queue}/$DeadLetterQueue").locked == 0
    assert len(await services.received(queue, "order|1")) == 2
    assert await services.received(queue, "order|2") == []


async def test_a_dry_run_changes_nothing(services: Services, queue: str) -> None:
    numbers = await services.dead_letter(queue, commands("1", "2"))
    for action in (resubmit, purge):
        printed = Printed()
        further: dict[str, Any] = {"duplicate_window_s": 0} if action is resubmit else {}
        await action(services.settings(queue), intent(action.__name__, dry_run=True), printed.output, **further)
        assert [one["sequenceNumber"] for one in printed.report()["done"]] == numbers
    assert services.dead(queue) == numbers


async def test_a_queue_that_would_drop_the_command_as_a_duplicate_keeps_it_dead_until_the_window_is_over(
    services: Services,
) -> None:
    (number,) = await services.dead_letter(DETECTING, commands("1"))
    printed = Printed()
    with pytest.raises(PartlyDoneError):
        await resubmit(services.settings(DETECTING), intent("resubmit"), printed.output, duplicate_window_s=None)
    (kept,) = printed.report()["kept"]
    assert kept["why"].startswith(f"the queue drops duplicates for {WINDOW_S:g} s and would drop it; run")
    assert services.dead(DETECTING) == [number]


async def test_without_knowing_whether_the_queue_drops_duplicates_nothing_is_sent(
    services: Services, queue: str
) -> None:
    await services.dead_letter(queue, commands("1"))
    settings = services.settings(queue, servicebus_admin_endpoint=None)
    with pytest.raises(UsageError, match="give --duplicate-window 0 if it does not"):
        await resubmit(settings, intent("resubmit"), Printed().output, duplicate_window_s=None)
    assert len(services.dead(queue)) == 1


@pytest.mark.slow
async def test_killed_between_send_and_removal_nothing_is_lost_and_it_may_be_run_again(
    services: Services, queue: str
) -> None:
    sent = commands("1", "1")
    await services.dead_letter(queue, sent)
    held = services.azure.faults.add(
        Rule(
            service="servicebus",
            operation="settle",
            where={"entity": f"{queue}/$DeadLetterQueue"},
            latency_s=600.0,
        )
    )
    words = ("dead-letter", "resubmit", "--all", "--json")
    async with running_command(*words, variables=services.variables(queue)) as process:
        await wait_until(lambda: services.azure.faults.fired(held) > 0, "the removal is on its way", 60)
        process.send_signal(signal.SIGKILL)
        await process.ended()
    services.azure.faults.remove(held)
    assert len(await services.received(queue, "order|1")) == 2, "sent"
    assert len(services.dead(queue)) == 2, "and still there"
    services.azure.clock.jump_s(LOCK_S + 1)
    printed = Printed()
    await resubmit(services.settings(queue), intent("resubmit"), printed.output, duplicate_window_s=None)
    assert len(printed.report()["done"]) == 2
    assert services.dead(queue) == []
    assert [one.message_id for one in await services.received(queue, "order|1")] == [
        one.command_id for one in (*sent, *sent)
    ]


@pytest.mark.slow
async def test_answers_that_are_lost_make_no_gap_and_no_other_order(services: Services, queue: str) -> None:
    """A send and a removal that took effect, though the connection broke before their answers came."""
    sent = commands("1", "2", "1", "2", "1")
    await services.dead_letter(queue, sent)
    faults = services.azure.faults
    for operation, entity, skip in (("send", queue, 1), ("settle", f"{queue}/$DeadLetterQueue", 2)):
        where = {"entity": entity}
        faults.add(
            Rule(service="servicebus", operation=operation, where=where, effect=ApplyThenDrop(), skip=skip, times=1)
        )
    # As a process: the client leaves the connections open that broke.
    done = await brook_worker("dead-letter", "resubmit", "--all", "--json", variables=services.variables(queue))
    faults.clear()
    report = done.json()
    assert (done.code, len(report["done"]), report["kept"]) == (0, 5, [])
    assert services.dead(queue) == []
    for brook, expected in (("1", [0, 2, 4]), ("2", [1, 3])):
        waiting = [one.message_id for one in await services.received(queue, f"order|{brook}")]
        assert list(dict.fromkeys(waiting)) == [sent[place].command_id for place in expected]


async def test_a_broker_that_goes_away_ends_it_with_a_report(services: Services, queue: str) -> None:
    await services.dead_letter(queue, commands("1", "2"))
    gone = services.azure.faults.add(
        Rule(
            service="servicebus",
            operation="open-sender",
            where={"entity": queue},
            effect=Answer(status=401, condition="amqp:unauthorized-access"),
        )
    )
    printed = Printed()
    with pytest.raises(Exception, match="send to"):
        await resubmit(services.settings(queue), intent("resubmit"), printed.output, duplicate_window_s=0)
    services.azure.faults.remove(gone)
    report = printed.report()
    assert (len(report["done"]), len(report["kept"])) == (0, 2)
    assert len(services.dead(queue)) == 2


@pytest.mark.slow
async def test_the_commands_as_an_operator_uses_them(services: Services, queue: str) -> None:
    numbers = await services.dead_letter(queue, commands("1", "2"), reason="wrong-session")
    await services.dead_letter_messages(
        queue, [ServiceBusMessage(b"\xff\x00", message_id="m", session_id="s")], reason="undecodable"
    )
    variables = services.variables(queue)
    listed = await brook_worker("dead-letter", "list", "--limit", "2", "--json", variables=variables)
    assert listed.code == 0
    assert [one["sequenceNumber"] for one in listed.json()["deadLetters"]] == numbers
    first = listed.json()["deadLetters"][0]
    assert (first["brook"], first["events"], first["reason"], first["problem"]) == ("order|1", 1, "wrong-session", None)
    assert listed.json()["next"] == numbers[-1] + 1
    shown = await brook_worker("dead-letter", "show", str(numbers[-1] + 1), variables=variables)
    assert "The body is 2 bytes that are no text" in shown.out
    unasked = await brook_worker("dead-letter", "purge", "--all", variables=variables)
    assert unasked.code == 2
    assert "give --yes" in unasked.err
    purged = await brook_worker(
        "dead-letter", "purge", "--sequence-number", str(numbers[1]), "--yes", "--json", variables=variables
    )
    assert (purged.code, purged.json()["action"]) == (0, "purge")
    assert [one["sequenceNumber"] for one in purged.json()["done"]] == [numbers[1]]
    assert services.dead(queue) == [numbers[0], numbers[-1] + 1]


async def test_tables_and_what_is_not_there(services: Services, queue: str) -> None:
    await services.dead_letter(queue, commands("1"), reason="wrong-session")
    await services.dead_letter(queue, commands("2"), reason="contradiction")
    settings = services.settings(queue)
    out = io.StringIO()
    console = Console(file=out, width=200)
    selection = Selection(reason="Contradiction")
    await list_letters(settings, selection, from_number=0, limit=10, as_json=False, console=console)
    assert "contradiction" in out.getvalue()
    assert "wrong-session" not in out.getvalue()
    with pytest.raises(CommandError, match=f"queue '{queue}' has no dead letter 999999; see"):
        await show_letter(settings, 999999, as_json=False, console=console)


async def test_whatever_lies_there_is_shown_and_what_can_be_sent_keeps_its_properties(
    services: Services, queue: str
) -> None:
    """Messages as other clients make them: bodies, ids and properties of any type."""
    odd_id = uuid.uuid4()
    properties = {
        "flag": True,
        "when": datetime(2026, 1, 31, tzinfo=UTC),
        "bytes": bytearray(b"\xff"),
        "none": None,
        "f": 1.5,
    }
    value = AmqpAnnotatedMessage(
        value_body={"a": [1, None]},
        properties=AmqpMessageProperties(message_id=b"value", group_id="s1"),
        application_properties=properties,
    )
    data = AmqpAnnotatedMessage(
        data_body=[b"{", b"}"],
        properties=AmqpMessageProperties(message_id=odd_id, group_id="s2", content_type=b"text/\xff"),
        application_properties=properties,
    )
    async with services.broker.get_queue_sender(queue) as sender:
        await sender.send_messages([value, data])
    for session_id in ("s1", "s2"):
        async with services.broker.get_queue_receiver(queue, session_id=session_id) as receiver:
            (message,) = await receiver.receive_messages(1, max_wait_time=5)
            await receiver.dead_letter_message(message, reason="x" * 200, error_description="é" * 500)
    settings = services.settings(queue)
    out = io.StringIO()
    for as_json in (True, False):
        selection = Selection()
        await list_letters(
            settings, selection, from_number=0, limit=9, as_json=as_json, console=Console(file=out, width=200)
        )
        for number in services.dead(queue):
            await show_letter(settings, number, as_json=as_json, console=Console(file=out, width=200))
    first, second = json.loads(out.getvalue().splitlines()[0])["deadLetters"]
    assert (first["bodyBytes"], first["problem"]) == (None, "its body is not binary")
    assert first["properties"]["flag"] is True
    assert (second["bodyBytes"], second["messageId"]) == (2, str(odd_id))
    printed = Printed()
    with pytest.raises(PartlyDoneError):
        await resubmit(settings, intent("resubmit"), printed.output, duplicate_window_s=0)
    report = printed.report()
    assert [one["sessionId"] for one in report["done"]] == ["s2"]
    assert report["kept"][0]["why"].startswith("its body is not binary")
    (again,) = await services.received(queue, "s2")
    assert (again.message_id, b"".join(again.body)) == (str(odd_id), b"{}")
    assert again.application_properties is not None
    assert again.application_properties[b"bytes"] == b"\xff"
    assert again.application_properties[b"when"] == first["properties"]["when"]


async def test_a_trace_context_that_the_client_cannot_read_keeps_no_letter_from_being_removed(
    services: Services, queue: str
) -> None:
    (one,) = commands("traced")
    message = ServiceBusMessage(
        encode_command(one),
        content_type=JSON,
        message_id=one.command_id,
        session_id="order|traced",
        application_properties={"traceparent": "é", "tracestate": "é", "kept": "yes"},
    )
    async with services.broker.get_queue_sender(queue) as sender:
        await sender.send_messages(message)
    async with services.broker.get_queue_receiver(queue, session_id="order|traced") as receiver:
        (received,) = await receiver.receive_messages(1, max_wait_time=5)
        make_settleable(received)
        await receiver.dead_letter_message(received, reason="test")
    await resubmit(services.settings(queue), intent("resubmit"), Printed().output, duplicate_window_s=0)
    assert services.dead(queue) == []
    async with services.broker.get_queue_receiver(queue, session_id="order|traced") as receiver:
        (again,) = await receiver.receive_messages(1, max_wait_time=5)
        assert again.application_properties == {b"kept": b"yes", RESUBMITTED.encode(): 1}


def test_nobody_means_all_by_leaving_something_out(services: Services) -> None:
    for words, said in ((["resubmit"], "say which"), (["purge", "--all", "--session", "s"], "--all does not go with")):
        done = CliRunner().invoke(app, ["dead-letter", *words], env=services.variables("queue"))
        assert done.exit_code == 2
        assert said in done.stderr


@pytest.mark.slow
async def test_a_purge_asks_on_a_terminal_and_can_be_interrupted_there(services: Services, queue: str) -> None:
    numbers = await services.dead_letter(queue, commands("1", "2"))
    words = ("dead-letter", "purge", "--all")
    async with on_a_terminal(*words, variables=services.variables(queue)) as terminal:
        await terminal.shows("Remove 2 dead letters for good? [y/N]")
        assert services.azure.servicebus.engine.counts(f"{queue}/$DeadLetterQueue").locked == 0
        terminal.type(b"n\n")
        assert await terminal.ended() == 1
    async with on_a_terminal(*words, variables=services.variables(queue)) as terminal:
        await terminal.shows("for good? [y/N]")
        terminal.send_signal(signal.SIGINT)
        assert await terminal.ended() == 130
    assert services.dead(queue) == numbers


@pytest.mark.slow
async def test_an_interruption_is_told_with_what_was_done(services: Services, queue: str) -> None:
    numbers = await services.dead_letter(queue, commands("1", "2", "3"))
    held = services.azure.faults.add(
        Rule(service="servicebus", operation="send", where={"entity": queue, "session_id": "order|2"}, latency_s=2.0)
    )
    words = ("dead-letter", "resubmit", "--all", "--duplicate-window", "0", "--json")
    async with running_command(*words, variables=services.variables(queue)) as process:
        await wait_until(lambda: services.azure.faults.fired(held) > 0, "the second send is on its way", 60)
        process.send_signal(signal.SIGINT)
        assert await process.ended() == 130
        await wait_until(lambda: process.out.endswith("\n"), "the report was printed")
        report = json.loads(process.out)
    services.azure.faults.remove(held)
    assert [one["sequenceNumber"] for one in report["done"]] == numbers[:2], "what was under way was finished"
    (kept,) = report["kept"]
    assert kept["why"].startswith("not finished: interrupted")
    assert services.dead(queue) == numbers[2:]


@pytest.mark.slow
async def test_looking_at_letters_can_be_interrupted_where_the_broker_does_not_answer(services: Services) -> None:
    """It changes nothing, so nothing of it has to be waited for: Ctrl-C once took the 15 s of its time-out."""
    asked = anyio.Event()

    async def say_nothing(stream: SocketStream) -> None:
        async with stream:
            asked.set()
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    place = f"sb://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
    key = "SharedAccessKeyName=a;SharedAccessKey=b;UseDevelopmentEmulator=true"
    variables = services.variables("queue", servicebus_connection_string=f"Endpoint={place};{key}")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, say_nothing)
        async with running_command("dead-letter", "list", variables=variables) as process:
            with anyio.fail_after(60):
                await asked.wait()
            interrupted_at_s = anyio.current_time()
            process.send_signal(signal.SIGINT)
            assert await process.ended() == 130
            assert anyio.current_time() - interrupted_at_s < 10
        tasks.cancel_scope.cancel()


async def test_services_that_do_not_answer_are_one_line(services: Services) -> None:
    nowhere = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=name;SharedAccessKey=a2V5;UseDevelopmentEmulator=true;"
    variables = services.variables("queue", servicebus_connection_string=nowhere)
    done = await brook_worker("dead-letter", "list", variables=variables)
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith("error: peek at the dead letters: ServiceBusConnectionError")
