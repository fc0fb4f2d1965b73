"""`brook-worker provision`: what was found and made, as a table."""

from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.provisioning import Finding, ProvisioningError, State, provision
from worker.settings import Settings

_STYLES: Final = {
    State.FOUND: "green",
    State.MADE: "bold green",
    State.ADVICE: "yellow",
    State.MISSING: "bold red",
    State.WRONG: "bold red",
}


async def provision_and_show(settings: Settings, console: Console, *, check_only: bool) -> bool:
    """Print a row for each resource. False when something that a worker needs is missing or wrong."""
    try:
        findings = await provision(settings, check_only=check_only)
    except ProvisioningError as error:
        console.print(table(error.findings))
        return False
    console.print(table(findings))
    return True


def table(findings: tuple[Finding, ...]) -> Table:
    """One row for each finding, in the order in which they were made."""
    rows = Table()
    for name in ("resource", "state", "note"):
        rows.add_column(name, overflow="fold")
    for finding in findings:
        rows.add_row(Text(finding.resource), Text(finding.state, style=_STYLES[finding.state]), Text(finding.note))
    return rows
