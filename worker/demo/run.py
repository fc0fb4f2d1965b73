"""The demo itself: send, await, read back, compare, tell."""

import json
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import msgspec
from rich.console import Console

from brook_client.client import BrookClient
from brook_client.connect import with_connection_string
from brook_client.reading import read
from schemas import codec
from schemas.commands import AppendCommand
from schemas.events import RecordedEvent
from schemas.keys import BrookKey
from worker.commands.failures import CommandError
from worker.commands.read import brook_store
from worker.demo.checks import GivenReply, check_brook, check_replies
from worker.demo.expectation import BrookName, Expected, Json, expect
from worker.demo.progress import Bars, bars
from worker.demo.report import figures, table
from worker.demo.services import Services, services
from worker.demo.traffic import OUTCOMES, Traffic, wait_for_replies

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
_QUIET_S: Final = 20.0
_READERS: Final = 8
_FINDINGS_SHOWN_MAX: Final = 20

Tamper = Callable[[Expected], None]
Brooks = dict[BrookName, list[RecordedEvent]]


@dataclass(frozen=True)
class _Examples:
    """One file: its commands as plain JSON and as the schema reads them, and how they are sent."""

    plain: list[Json]
    commands: list[AppendCommand]
    content_type: str


async def run_demo(examples: Path, folder: Path, console: Console, *, tamper: Tamper | None = None) -> bool:
    """Run the demo; True when everything is as expected. What it started is gone afterwards, on SIGTERM too.

    `examples` holds the `.ndjson` files, `folder` gets the logs of what is started. `tamper` may change the
    expectation, to see that the checks find it. Raises CommandError when something does not start or ends early.
    """
    parts = _load(examples)
    passed = False
    async with anyio.create_task_group() as tasks:
        await tasks.start(_cancel_on_signal, tasks.cancel_scope, console)
        passed = await _demo(parts, folder, console, tamper)
        tasks.cancel_scope.cancel()
    return passed


async def _cancel_on_signal(
    scope: anyio.CancelScope, console: Console, *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            console.print("Interrupted: stopping what was started ...")
            scope.cancel()


async def _demo(parts: list[_Examples], folder: Path, console: Console, tamper: Tamper | None) -> bool:
    expected = expect(command for part in parts for command in part.plain)
    if tamper is not None:
        tamper(expected)
    traffic = Traffic()
    async with services(folder, console) as running:
        with bars(console, OUTCOMES) as shown:
            shown.begin(expected.reply_count, len(expected.events))
            await _exchange(running, parts, traffic, shown)
            requests = await running.control.requests()
            brooks = await _read_back(running, expected, shown)
        event_count = sum(map(len, brooks.values()))
        console.print(table(figures(traffic, brooks=len(brooks), events=event_count, requests=requests)))
        return _verdict(_findings(expected, traffic, brooks), console)


def _load(folder: Path) -> list[_Examples]:
    """Read the files in the order of their names. Every other one travels as MessagePack."""
    loaded = []
    try:
        for index, path in enumerate(sorted(folder.glob("*.ndjson"))):
            lines = path.read_bytes().splitlines()
            commands = [codec.decode_command(line) for line in lines]
            loaded.append(_Examples(list(map(json.loads, lines)), commands, (codec.JSON, codec.MSGPACK)[index % 2]))
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot read the example commands: {path}: {error}") from error
    if not loaded:
        raise CommandError(f"there is no .ndjson file in {folder}; give the folder of the examples with --examples")
    return loaded


async def _exchange(running: Services, parts: Sequence[_Examples], traffic: Traffic, shown: Bars) -> None:
    """Send everything, then wait for the replies: commands queue up, as they do when it matters."""
    connection_string = running.settings.servicebus_connection_string
    assert connection_string is not None, "the embedded services tell it"
    connect = with_connection_string(connection_string.reveal())

    def on_sent(count: int) -> None:
        shown.sent(count)
        shown.replied(traffic.outcomes)

    async with AsyncExitStack() as stack:
        clients = []
        for part in parts:
            client = await stack.enter_async_context(BrookClient(connect, content_type=part.content_type))
            stack.enter_context(client.listen(traffic.take))
            clients.append((client, part.commands))
        for client, commands in clients:
            await client.send_many(traffic.stamped(commands), on_sent=on_sent)
        await wait_for_replies(
            traffic,
            sum(len(part.commands) for part in parts),
            quiet_s=_QUIET_S,
            check=running.check_running,
            on_change=lambda: shown.replied(traffic.outcomes),
        )


async def _read_back(running: Services, expected: Expected, shown: Bars) -> Brooks:
    """Read every brook from position 0 to its head, a few at a time."""
    brooks: Brooks = {}
    turns = anyio.CapacityLimiter(_READERS)

    async with brook_store(running.settings) as reader, anyio.create_task_group() as tasks:

        async def read_one(brook: BrookName) -> None:
            async with turns:
                brooks[brook] = [event async for event in read(reader, BrookKey(*brook))]
            shown.read()

        for brook in expected.events:
            tasks.start_soon(read_one, brook)
    return brooks


def _findings(expected: Expected, traffic: Traffic, brooks: Brooks) -> list[str]:
    given = {
        str(command_id): [GivenReply(reply.body, msgspec.to_builtins(reply.reply)) for reply in replies]
        for command_id, replies in traffic.replies.items()
    }
    found = list(check_replies(expected, given))
    for brook, events in brooks.items():
        found += check_brook(brook, expected.events[brook], events)
    return found


def _verdict(findings: Sequence[str], console: Console) -> bool:
    for finding in findings[:_FINDINGS_SHOWN_MAX]:
        console.print(finding, style="red", markup=False, highlight=False)
    if len(findings) > _FINDINGS_SHOWN_MAX:
        console.print(f"... and {len(findings) - _FINDINGS_SHOWN_MAX:,} more", style="red")
    if findings:
        console.print(f"Not as expected: {len(findings):,} findings.", style="bold red")
        return False
    console.print("All as expected: each command answered, each event in its place, none twice.", style="bold green")
    return True
