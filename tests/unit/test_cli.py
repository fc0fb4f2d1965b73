"""The command line: what it reads, prints and exits with."""

import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from brook_client.dispatch import Listener
from brook_client.errors import SendError
from brook_client.messages import ReceivedReply
from schemas.codec import decode_command
from schemas.commands import AppendCommand, NewEvent
from schemas.events import RecordedEvent
from schemas.replies import Appended
from schemas.types import CommandId, Position
from worker.cli import app
from worker.commands.failures import CommandError, reported
from worker.commands.lines import chunks, commands
from worker.commands.outstanding import Outstanding
from worker.commands.read import at_most, write_ndjson, write_table
from worker.commands.send import send_lines
from worker.configuration import variable
from worker.operations.workers import UrlError, checked_url
from worker.telemetry.instruments import VERSION

pytestmark = pytest.mark.anyio

SETTINGS = {
    "servicebus_connection_string": "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=a;SharedAccessKey=b",
    "cosmos_endpoint": "http://127.0.0.1:1/",
    "cosmos_key": "a2V5",
    "blob_connection_string": "AccountName=a;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:1/a",
}
VARIABLES = {variable(name): value for name, value in SETTINGS.items()}


def line(command_id: str) -> bytes:
    return json.dumps(
        {
            "commandId": command_id,
            "brook": {"name": "order", "entityId": "1"},
            "expected": "any",
            "events": [{"eventId": "e", "eventType": "Opened", "data": ""}],
        }
    ).encode()


async def in_chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read_all(*parts: bytes) -> tuple[list[CommandId], list[tuple[int, str]]]:
    problems: list[tuple[int, str]] = []
    found = [
        command.command_id
        async for group in commands(in_chunks(*parts), lambda number, problem: problems.append((number, problem)))
        for command in group
    ]
    return found, problems


async def test_lines_are_commands_however_they_are_cut_into_chunks() -> None:
    text = line("a") + b"\n\n" + line("b") + b"\n" + line("c")
    for size in (1, 7, len(text)):
        parts = [text[start : start + size] for start in range(0, len(text), size)]
        assert await read_all(*parts) == (["a", "b", "c"], [])


async def test_a_bad_line_is_told_by_its_number_and_the_others_are_kept() -> None:
    good, problems = await read_all(
        line("a") + b"\n{\n\n" + line("b") + b'\n{"nonsense": 1}\n', line(""), b"\n" + line("c")
    )
    assert good == ["a", "b", "c"]
    assert [number for number, _ in problems] == [2, 5, 6]
    assert "nonsense" in problems[1][1]
    assert "use 1 to 128" in problems[2][1]


async def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "commands"
    path.write_bytes(b"x" * 200_000)
    with path.open("rb") as file:
        assert b"".join([chunk async for chunk in chunks(file.fileno())]) == b"x" * 200_000


async def test_outstanding_waits_for_replies_and_gives_up_when_none_comes() -> None:
    outstanding = Outstanding()
    for command_id in ("a", "b", "b"):
        outstanding.add(CommandId(command_id))
    assert len(outstanding) == 2
    outstanding.settle(CommandId("a"))
    outstanding.add(CommandId("a"))
    assert outstanding.ids() == ["b"], "an answered command is not waited for again"
    assert await outstanding.at_most(1, quiet_s=5)
    assert not await outstanding.at_most(0, quiet_s=0.01)
    async with anyio.create_task_group() as tasks:

        async def answer() -> None:
            outstanding.settle(CommandId("b"))

        tasks.start_soon(answer)
        assert await outstanding.at_most(0, quiet_s=5)


def test_expected_errors_become_lines_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as exited, reported():
        raise CommandError("one\ntwo")
    assert exited.value.exit_code == 1
    assert capsys.readouterr().err == "error: one\nerror: two\n"


def test_expected_errors_that_came_together_are_all_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), reported():
        raise ExceptionGroup("tasks", [CommandError("one"), ExceptionGroup("inner", [SendError("two")])])
    assert capsys.readouterr().err == "error: one\nerror: two\n"


def test_a_bug_is_not_hidden_among_expected_errors() -> None:
    with pytest.raises(ExceptionGroup), reported():
        raise ExceptionGroup("tasks", [CommandError("one"), ZeroDivisionError()])


def recorded(position: int, data: bytes = b"{}") -> RecordedEvent:
    return RecordedEvent(
        position=Position(position),
        event_id=f"e{position}",
        event_type="Opened",
        data=data,
        time="2026-01-01T00:00:00Z",
    )


async def recorded_events(count: int) -> AsyncIterator[RecordedEvent]:
    for position in range(count):
        yield recorded(position)


@pytest.mark.parametrize(("limit", "expected"), [(None, 3), (0, 0), (2, 2), (5, 3)])
async def test_a_limit_ends_the_reading(limit: int | None, expected: int) -> None:
    assert len([event async for event in at_most(recorded_events(3), limit)]) == expected


async def test_events_are_printed_as_one_json_object_a_line() -> None:
    output = io.StringIO()
    console = Console(file=output, width=40)
    assert await write_ndjson(recorded_events(2), console) == 2
    lines = [json.loads(text) for text in output.getvalue().splitlines()]
    assert [event["position"] for event in lines] == [0, 1]


async def test_a_table_shows_text_as_it_is_and_only_the_size_of_other_data() -> None:
    async def events() -> AsyncIterator[RecordedEvent]:
        yield recorded(0, "[red]für später[/red]".encode())
        yield recorded(1, b"\x00\xff")

    output = io.StringIO()
    await write_table(events(), "order|1", Console(file=output, width=160))
    assert "[red]für später[/red]" in output.getvalue()
    assert "2 bytes" in output.getvalue()


async def test_a_table_keeps_times_whole_on_a_narrow_terminal_and_cuts_nothing_away() -> None:
    async def events() -> AsyncIterator[RecordedEvent]:
        event = recorded(7, b'{"by": "me"}')
        yield msgspec.structs.replace(event, event_id="e" * 30, command_id=CommandId("c" * 30))

    output = io.StringIO()
    assert await write_table(events(), "order|1", Console(file=output, width=80)) == 1
    assert recorded(7, b"").time in output.getvalue()
    assert "…" not in output.getvalue()


async def test_a_brook_without_events_is_told_in_words() -> None:
    output = io.StringIO()
    assert await write_table(recorded_events(0), "order|1", Console(file=output, width=80)) == 0
    assert output.getvalue() == "order|1: no events there\n"


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"brook-worker {VERSION}\n")


@pytest.mark.parametrize("words", [["dead-letter", "resubmit"], ["read"]])
def test_the_help_is_wrapped_where_the_terminal_ends_and_not_as_in_the_code(words: list[str]) -> None:
    text = CliRunner(env={"COLUMNS": "300"}).invoke(app, [*words, "--help"]).stdout
    lines = [line.strip() for line in text.splitlines() if line.startswith(" ") and line.strip()]
    prose = [line for line in lines if not line.startswith(("Usage:", "Example:"))]
    assert len(prose) == 2
    assert [line for line in prose if not line.endswith(".")] == []


@pytest.mark.parametrize("option", ["--name", "--prefix"])
def test_what_is_not_utf_8_is_refused_before_anything_is_asked(option: str) -> None:
    """The shell hands on any bytes; Cosmos DB answered that its request was malformed."""
    result = CliRunner().invoke(app, ["brooks", "list", option, "order\udcff"])
    assert result.exit_code == 2
    assert f"error: {option}: is not UTF-8" in result.output


def test_a_brook_that_is_no_key_is_one_clear_line() -> None:
    result = CliRunner().invoke(app, ["read", "no-separator"])
    assert result.exit_code == 1
    assert result.stderr == "error: brook: no '|' in 'no-separator'; write it as name|entityId\n"


def test_a_command_in_the_examples_form_is_what_the_schema_says() -> None:
    assert decode_command(line("a")).events == (NewEvent(event_id="e", event_type="Opened", data=b""),)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["read", "a|b"], 1, "error: BROOK_WORKER_COSMOS_KEY: is missing"),
        (["send", "no-such-file"], 1, "error: BROOK_WORKER_SERVICEBUS_CONNECTION_STRING: is missing"),
        (["read"], 2, "Missing argument"),
        (["fly"], 2, "No such command 'fly'"),
    ],
)
def test_the_process_exits_without_a_traceback(arguments: list[str], code: int, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"COLUMNS": "200", "PATH": ""},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def started(shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell's command, in which $PYTHON is ours."""
    return subprocess.run(
        ["/bin/sh", "-c", shell],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"COLUMNS": "200", "PATH": "", "PYTHON": sys.executable, **environment},
        cwd=Path(__file__).parents[2],
    )


def test_starting_needs_no_blob_client() -> None:
    done = started(
        'exec "$PYTHON" -c "import sys, worker.cli; print([n for n in sys.modules if \'azure.storage\' in n])"'
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_closed_stdin_is_one_clear_line() -> None:
    done = started('exec "$PYTHON" -m worker.cli send - <&-', **VARIABLES)
    assert (done.returncode, done.stderr) == (
        1,
        "error: -: stdin is closed; give it a pipe or a file, or name a file\n",
    )


def test_closed_streams_end_no_program() -> None:
    """uvloop aborts when one of its own files gets a standard stream's number."""
    program = "from worker.commands.shared import *; import anyio; open_standard_streams(); run_async(anyio.sleep, 0)"
    done = started(f'exec "$PYTHON" -c "{program}" <&- >&-')
    assert (done.returncode, done.stderr) == (0, "")


def test_output_that_finds_no_room_is_one_clear_line() -> None:
    program = (
        "from worker.commands.failures import reported; from rich.console import Console\n"
        "with reported():\n"
        "    try:\n"
        "        Console().out('x' * 9)\n"
        "    except OSError as error:\n"
        "        raise ExceptionGroup('tasks', [error])\n"
    )
    done = started(f'exec "$PYTHON" -c "{program}" > /dev/full')
    assert "No space left on device; make room for it\n" in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Exception ignored" not in done.stderr


class Answering:
    """A client whose every command is answered at once, and whose listener's errors reach nobody."""

    def __init__(self) -> None:
        self.sent = 0
        self._listener: Listener | None = None

    @contextmanager
    def listen(self, listener: Listener) -> Iterator[None]:
        self._listener = listener
        yield

    async def send_many(self, commands_: Iterable[AppendCommand], *, on_sent: Callable[[int], None]) -> None:
        for one in commands_:
            self.sent += 1
            on_sent(1)
            assert self._listener is not None
            with suppress(Exception):  # as the client does
                self._listener(reply_to(one))
        await anyio.lowlevel.checkpoint()


def reply_to(one: AppendCommand) -> ReceivedReply:
    reply = Appended(command_id=one.command_id, first_position=Position(0), last_position=Position(0))
    return ReceivedReply(command_id=one.command_id, reply=reply, body=b"", facts={})


async def test_sending_ends_once_nobody_reads_the_replies() -> None:
    """`send --await | head`: it would go on without a word to the end of its input, or wait for replies in vain."""
    client = Answering()

    async def source() -> AsyncIterator[bytes]:
        yield line("c1") + b"\n"
        await anyio.sleep_forever()

    def unread(_: ReceivedReply) -> None:
        raise BrokenPipeError

    with anyio.fail_after(5), pytest.raises(CommandError, match="nobody reads the replies any more"):
        await send_lines(
            client,  # type: ignore[arg-type]  # what is needed of one
            source(),
            await_replies=True,
            quiet_s=60,
            on_reply=unread,
            on_problem=pytest.fail,
        )
    assert client.sent == 1


def test_a_reply_that_nobody_reads_leaves_no_complaint() -> None:
    program = (
        "import os, sys, time\n"
        "from schemas.replies import Appended\n"
        "from types import SimpleNamespace\n"
        "from worker.commands.send import print_reply\n"
        "read, write = os.pipe(); os.dup2(write, 1); os.close(read)\n"
        "try:\n"
        "    print_reply(SimpleNamespace(reply=Appended(command_id='c', first_position=0, last_position=0)))\n"
        "except BrokenPipeError:\n"
        "    sys.exit(7)\n"
    )
    done = started(f'exec "$PYTHON" -c "{program}"')
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://h:port", "http://h:99999", "http://:9464", "h:9464", "http://h/metrics", "http://h/#x"],
)
def test_an_address_that_is_none_is_told_as_such(url: str) -> None:
    with pytest.raises(UrlError, match="is no worker's address; give it as http://HOST:PORT"):
        checked_url(url)


@pytest.mark.parametrize("command", ["stats", "watch"])
def test_an_address_that_is_none_is_an_error_of_the_command_line(command: str) -> None:
    result = CliRunner(env=VARIABLES).invoke(app, [command, "--url", "h:9464"])
    assert (result.exit_code, "'h:9464' is no worker's address" in result.stderr) == (2, True)


@pytest.mark.parametrize("url", ["http://h:9464/", "https://[::1]:9464", "http://worker"])
def test_an_address_is_taken_without_its_slash(url: str) -> None:
    assert checked_url(url) == url.rstrip("/")
