"""`brook-worker check`: every connection and right that a worker needs, what works, and what to do about the rest."""

from functools import partial
from typing import Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.checks import Row, Status, check_all
from worker.commands.console import SafeConsole, print_json
from worker.commands.failures import reported
from worker.commands.interruption import run_interruptible
from worker.commands.shared import ConfigOption, JsonOption, settings_of
from worker.settings import Settings

_STYLES: Final = {Status.OK: "green", Status.ADVICE: "yellow", Status.FAILED: "red", Status.NOT_CHECKED: "dim"}


class Report(msgspec.Struct, frozen=True):
    """What `--json` prints. `ok` is whether a worker with these settings can work."""

    ok: bool
    rows: tuple[Row, ...]


def check(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Test every connection and right that a worker needs, and say what to do. Exit code 1 when something fails.

    Changes nothing but an empty blob named brook-worker-check, which stays in the container of the leases.
    """
    with reported():
        if not run_interruptible(partial(check_and_tell, as_json=as_json, console=SafeConsole()), settings_of(config)):
            raise typer.Exit(1)


async def check_and_tell(settings: Settings, *, as_json: bool, console: Console) -> bool:
    """Print what was found; tells whether nothing failed."""
    rows = await check_all(settings)
    ok = not any(row.status is Status.FAILED for row in rows)
    if as_json:
        print_json(console, Report(ok, rows))
    else:
        console.print(_table(rows))
        console.print(_summary(rows))
    return ok


def _table(rows: tuple[Row, ...]) -> Table:
    table = Table()
    for name in ("service", "check", "status", "note"):
        table.add_column(name, overflow="fold")
    before = ""
    for row in rows:
        if row.service != before and before:
            table.add_section()
        status = Text(row.status, style=_STYLES[row.status])
        table.add_row(Text(row.service if row.service != before else ""), Text(row.check), status, Text(row.note))
        before = row.service
    return table


def _summary(rows: tuple[Row, ...]) -> str:
    count = {status: sum(row.status is status for row in rows) for status in Status}
    if count[Status.FAILED]:
        return f"{count[Status.FAILED]} of {len(rows)} checks failed: their notes say what to do."
    rest = f", {count[Status.ADVICE]} with advice" if count[Status.ADVICE] else ""
    unseen = f", {count[Status.NOT_CHECKED]} could not be looked at" if count[Status.NOT_CHECKED] else ""
    return f"A worker can work with these settings{rest}{unseen}."
