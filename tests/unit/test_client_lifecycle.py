"""Clients outside their block, entered twice or taken into another process: told so at once, and nothing is left."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from brook_client import BrookClient, BrookClientError, sync, with_connection_string
from schemas.commands import AppendCommand, NewEvent
from schemas.keys import BrookKey
from schemas.types import CommandId

pytestmark = pytest.mark.anyio

NOBODY: Final = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=name;SharedAccessKey=a2V5;UseDevelopmentEmulator=true"
COMMAND: Final = AppendCommand(
    command_id=CommandId("c1"),
    brook=BrookKey("order", "1"),
    expected="any",
    events=(NewEvent(event_id="e1", event_type="Opened", data=b""),),
)

Use = Callable[[BrookClient], Awaitable[object]]


async def listens(client: BrookClient) -> None:
    with client.listen(lambda _: None):
        pass


USES: Final[dict[str, Use]] = {
    "append": lambda client: client.append("order|1", COMMAND.events),
    "request": lambda client: client.request(COMMAND),
    "request_many": lambda client: client.request_many([COMMAND]),
    "send": lambda client: client.send(COMMAND),
    "send_many": lambda client: client.send_many([COMMAND]),
    "listen": listens,
}


def tasks_of_clients() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("brook-client")]


@pytest.mark.parametrize("state", ["not yet entered", "left"])
@pytest.mark.parametrize("use", USES)
async def test_outside_its_block_a_client_says_so_and_starts_nothing(use: str, state: str) -> None:
    client = BrookClient(with_connection_string(NOBODY))
    if state == "left":
        async with client:
            pass
    with pytest.raises(BrookClientError, match="`async with`"):
        await USES[use](client)
    assert tasks_of_clients() == [], "a task that nobody would ever stop"


async def test_a_connection_string_in_the_place_of_what_connects_is_told() -> None:
    text: Any = NOBODY
    with pytest.raises(TypeError, match="connect: is text; give with_connection_string"):
        BrookClient(text)
    with pytest.raises(TypeError, match="connect: is text; give with_connection_string"), sync.BrookClient(text):
        pass


async def test_a_client_is_entered_once() -> None:
    """Entered anew it would wait for replies that nobody reads any more."""
    client = BrookClient(with_connection_string(NOBODY))
    async with client:
        with pytest.raises(BrookClientError, match="make another"):
            await client.__aenter__()
    with pytest.raises(BrookClientError, match="make another"):
        await client.__aenter__()


def test_outside_its_block_a_blocking_client_says_so() -> None:
    client = sync.BrookClient(with_connection_string(NOBODY))
    calls: list[Callable[[], object]] = [
        lambda: client.append("order|1", COMMAND.events),
        lambda: client.request(COMMAND),
        lambda: client.request_many([COMMAND]),
        lambda: client.send(COMMAND),
        lambda: client.send_many([COMMAND]),
        lambda: list(client.read("order|1")),
    ]
    for call in calls:
        with pytest.raises(BrookClientError, match="inside its `with` block"):
            call()
    with client:
        pass
    for call in calls:
        with pytest.raises(BrookClientError, match="inside its `with` block"):
            call()
    client.__exit__(None, None, None)


def test_a_blocking_client_that_is_open_is_not_entered_again() -> None:
    """The thread of the first would never end, and neither would the program."""
    before = threading.active_count()
    client = sync.BrookClient(with_connection_string(NOBODY))
    with client:
        with pytest.raises(BrookClientError, match="is open already"):
            client.__enter__()
        assert client._portal is not None
    assert threading.active_count() == before
    with client:
        assert client._portal is not None
    assert threading.active_count() == before


IN_ANOTHER_PROCESS: Final = """
import os, signal, warnings
from brook_client import BrookClientError, sync, with_connection_string
from tests.unit.test_client_lifecycle import COMMAND, NOBODY

warnings.simplefilter("error")
parent = os.getpid()
with sync.BrookClient(with_connection_string(NOBODY)) as client:
    child = os.fork()
    if not child:
        signal.alarm(20)  # nobody else would end it
        try:
            client.send(COMMAND)
        except BrookClientError as error:
            print(error)
    else:
        _, status = os.waitpid(child, 0)
        print("the child ended with", os.waitstatus_to_exitcode(status))
if os.getpid() == parent:
    print("the parent closed its own")
"""


def test_after_a_fork_a_blocking_client_says_so_instead_of_waiting_for_ever() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert "another process" in first
    assert others == ["the child ended with 0", "the parent closed its own"]
