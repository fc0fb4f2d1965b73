"""What anybody may have sent is shown on a terminal and does not steer it: no escape sequence, no forged line."""

import io
import json
import re
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tests.support.worker_settings import worker_settings
from worker.commands.console import SafeConsole
from worker.logs import configure_logs
from worker.terminal import visible

ROOT = Path(__file__).parents[2]
HOSTILE = "a\x1b[2J\x1b]0;title\x9b31m\x00\u202eb"
SHOWN = r"a\u001b[2J\u001b]0;title\u009b31m\u0000\u202eb"


def steers(text: str) -> bool:
    return re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text) is not None


def unwrapped(text: str) -> str:
    """Without what tables and their width put between."""
    return re.sub(r"[\s│┃]", "", text)


def table() -> Table:
    found = Table(title=Text(HOSTILE))
    found.add_column(Text(HOSTILE), overflow="fold")
    found.add_row(Text(f"{HOSTILE} and more"))
    found.add_row(f"{HOSTILE}")
    return found


@pytest.mark.parametrize(
    "shown", [HOSTILE, Text(HOSTILE, style="bold"), table(), Group(table(), Text(HOSTILE)), Panel(Text(HOSTILE))]
)
def test_a_console_shows_what_would_steer_the_terminal(shown: object) -> None:
    file = io.StringIO()
    SafeConsole(file=file, width=200).print(shown)
    assert not steers(file.getvalue())
    assert SHOWN in unwrapped(file.getvalue())


def test_rich_alone_would_let_it_through() -> None:
    file = io.StringIO()
    Console(file=file, width=200).print(table())
    assert steers(file.getvalue())


def test_a_board_that_changes_on_a_terminal_shows_it_too() -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, width=200, force_terminal=True, color_system=None)
    with Live(console=console, auto_refresh=False) as live:
        live.update(table(), refresh=True)
    # The board's own sequences move the cursor; what was sent is not among them.
    assert "\x1b[2J" not in file.getvalue()
    assert "\x1b]0;" not in file.getvalue()
    assert SHOWN in unwrapped(file.getvalue())


def test_a_table_keeps_its_form() -> None:
    file = io.StringIO()
    SafeConsole(file=file, width=30).print(table())
    rows = [line for line in file.getvalue().splitlines() if line.startswith(("│", "┏", "└"))]
    assert len({len(row) for row in rows}) == 1


@given(st.text())
def test_what_is_shown_is_the_same_json(text: str) -> None:
    written = json.dumps(text, ensure_ascii=False)
    assert json.loads(visible(written)) == text
    assert not steers(visible(written))


def test_json_comes_out_of_a_console_as_the_same_json() -> None:
    file = io.StringIO()
    SafeConsole(file=file, width=20).out(json.dumps({"id": "\x9b31m\u202e é"}, ensure_ascii=False), highlight=False)
    assert json.loads(file.getvalue()) == {"id": "\x9b31m\u202e é"}
    assert not steers(file.getvalue())


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_log_line_is_one_line_and_steers_nothing(log_format: str) -> None:
    file = io.StringIO()
    configure_logs(worker_settings(log_format=log_format), file)
    structlog.get_logger().info("session.accepted", session=f"{HOSTILE}\nforged=1", brook="é\x9b31m", some=[HOSTILE])
    assert not steers(file.getvalue())
    assert file.getvalue().count("\n") == 1


def test_an_error_that_quotes_what_was_sent_steers_nothing_in_the_log() -> None:
    file = io.StringIO()
    configure_logs(worker_settings(log_format="console"), file)
    structlog.get_logger().error("command.failed", exc_info=ValueError(HOSTILE))
    assert not steers(file.getvalue())
    assert "ValueError" in file.getvalue()


def test_no_command_has_another_console() -> None:
    bare = re.compile(r"(?<![A-Za-z])Console\(")
    found = [path.name for path in (ROOT / "worker").rglob("*.py") if bare.search(path.read_text(encoding="utf-8"))]
    assert found == []
