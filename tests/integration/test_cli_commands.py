"""The subcommands as processes of their own, against the embedded services."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest
from anyio.abc import SocketStream

from schemas.codec import encode_command
from schemas.commands import AppendCommand, NewEvent
from schemas.keys import BrookKey
from schemas.types import CommandId
from tests.support.listening import listening
from worker.configuration import variable
from worker.demo.processes import child

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
BROOK_WORKER = [sys.executable, "-m", "worker.cli"]

CONNECTIONS = ("servicebus_connection_string", "cosmos_endpoint", "cosmos_key", "blob_connection_string")


@pytest.fixture
async def settings(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """The settings that lead to a running emulator."""
    ready = tmp_path / "ready.json"
    config = ROOT / "emulator" / "Config.json"
    command = [*BROOK_WORKER, "emulator", "--config", str(config), "--ready-file", str(ready)]
    log_file = tmp_path / "emulator.log"
    async with child("emulator", command, log_file=log_file) as emulator:
        addresses = await emulator.ready_file(ready)
        await emulator.logged("control_endpoint")
        assert log_file.read_text().count("control_endpoint") == 1
        yield {name: addresses[name] for name in CONNECTIONS}


async def brook_worker(
    *arguments: str, settings: dict[str, str], stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "COLUMNS": "200"} | {variable(name): value for name, value in settings.items()}

    def run() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*BROOK_WORKER, *arguments], input=stdin, capture_output=True, check=False, timeout=60, env=environment
        )

    done = await anyio.to_thread.run_sync(run)
    assert b"Traceback" not in done.stderr
    return done


def lines(text: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def command(number: int, *, expected: int | str = "any", data: bytes = b"{}") -> bytes:
    made = AppendCommand(
        command_id=CommandId(f"c{number}"),
        brook=BrookKey("order", "größe"),
        expected=msgspec.convert(expected, int | str),
        events=(NewEvent(event_id=f"e{number}", event_type="Opened", data=data),),
    )
    return encode_command(made) + b"\n"


@pytest.mark.parametrize("name", ["check", "provision"])
async def test_a_command_that_waits_for_silent_services_ends_with_the_signal(name: str) -> None:
    asked = anyio.Event()

    async def stay_silent(stream: SocketStream) -> None:
        asked.set()
        async with stream:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                while True:
                    await stream.receive()

    async with listening(stay_silent) as port:
        address = f"127.0.0.1:{port}"
        silent = {
            "servicebus_connection_string": f"Endpoint=sb://{address};SharedAccessKeyName=k;SharedAccessKey=a2V5;"
            "UseDevelopmentEmulator=true;",
            "cosmos_endpoint": f"http://{address}/",
            "cosmos_key": "a2V5a2V5a2V5",
            "blob_connection_string": f"AccountName=a;AccountKey=a2V5;BlobEndpoint=http://{address}/a;",
            "reply_queue": "replies",
        }
        environment = os.environ | {variable(name): value for name, value in silent.items()}
        async with await anyio.open_process([*BROOK_WORKER, name], env=environment) as process:
            with anyio.fail_after(30):
                await asked.wait()
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 130


async def test_provisioning_tells_what_is_missing_and_makes_it(settings: dict[str, str]) -> None:
    checked = await brook_worker("provision", "--check", settings=settings)
    assert checked.returncode == 1
    assert b"missing" in checked.stderr
    made = await brook_worker("provision", settings=settings)
    assert (made.returncode, made.stdout.count(b"made") > 0) == (0, True)
    assert (await brook_worker("provision", "--check", settings=settings)).returncode == 0


async def test_commands_sent_from_a_pipe_are_answered_and_their_events_read_back(
    settings: dict[str, str], tmp_path: Path
) -> None:
    log_file = tmp_path / "worker.log"
    settings |= {"claim_container": "brook-claims"}
    given = settings | {"auto_provision": "true", "session_idle_s": "0.2", "session_accept_wait_s": "1"}
    async with child("worker", [*BROOK_WORKER, "run"], log_file=log_file, settings=given) as worker:
        await worker.logged("worker.started")
        text = command(1, expected="empty") + b"nonsense\n" + command(2, expected="empty") + command(3)
        sent = await brook_worker("send", "-", "--await", settings=settings, stdin=text)
        assert sent.returncode == 3, "some of it was done"
        assert b"error: line 2: " in sent.stderr
        assert b"sent 3 commands" in sent.stderr
        assert {reply["commandId"]: reply["outcome"] for reply in lines(sent.stdout)} == {
            "c1": "appended",
            "c2": "concurrency-conflict",
            "c3": "appended",
        }
        file = tmp_path / "more.ndjson"
        # One in the middle is larger than a message: its events go into a blob.
        file.write_bytes(command(4) + command(6, data=b"x" * 300_000) + command(5))
        sent = await brook_worker("send", str(file), "--await", "--msgpack", settings=settings)
        assert (sent.returncode, {reply["outcome"] for reply in lines(sent.stdout)}) == (0, {"appended"})
    forward = await brook_worker("read", "order|größe", settings=settings)
    assert [event["eventId"] for event in lines(forward.stdout)] == ["e1", "e3", "e4", "e6", "e5"]
    some = await brook_worker("read", "order|größe", "--backward", "--from", "2", "--limit", "2", settings=settings)
    assert [event["position"] for event in lines(some.stdout)] == [2, 1]
    table = await brook_worker("read", "order|größe", "--format", "table", settings=settings)
    assert "order|größe" in table.stdout.decode()
    empty = await brook_worker("read", "order|nobody", settings=settings)
    assert (empty.returncode, empty.stdout) == (0, b"")


async def test_a_service_that_does_not_answer_is_one_line(settings: dict[str, str]) -> None:
    nowhere = settings | {"cosmos_endpoint": "http://127.0.0.1:1/", "cosmos_timeout_s": "1"}
    done = await brook_worker("read", "order|1", settings=nowhere)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(b"error: Cosmos DB at http://127.0.0.1:1/ does not answer")


async def test_a_port_that_is_taken_is_one_line(settings: dict[str, str]) -> None:
    port = settings["cosmos_endpoint"].rstrip("/").rpartition(":")[2]
    done = await brook_worker("emulator", "--cosmos-port", port, settings={})
    assert done.returncode == 1
    assert f"error: cannot listen on 127.0.0.1:{port}".encode() in done.stderr
    assert done.stdout == b""
