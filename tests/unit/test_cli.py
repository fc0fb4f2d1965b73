"""The command line: what it reads, prints and exits with."""

import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from brook_client.errors import SendError
from schemas.codec import decode_command
from schemas.commands import NewEvent
from schemas.events import RecordedEvent
from schemas.types import CommandId, Position
from worker.cli import app
from worker.commands.failures import CommandError, reported
from worker.commands.lines import chunks, commands
from worker.commands.outstanding import Outstanding
from worker.commands.read import at_most, write_ndjson, write_table

pytestmark = pytest.mark.anyio


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
