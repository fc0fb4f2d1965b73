"""`brook-worker provision`: what was found and made, as a table."""

from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.provisioning import Finding, ProvisioningError, State, provision
from worker.settings import Settings

_STYLES: Final = {State.MADE: "green", State.ADVICE: "yellow", State.MISSING: "red", State.WRONG: "red"}


async def provision_and_tell(settings: Settings, *, check_only: bool, console: Console) -> None:
    """Provision and print what was found, also when something is missing or wrong: then raise ProvisioningError."""
    try:
        findings = await provision(settings, check_only=check_only)
    except ProvisioningError as error:
        console.print(_table(error.findings))
        raise
    console.print(_table(findings))


def _table(findings: Iterable[Finding]) -> Table:
    table = Table()
    for name in ("resource", "state", "note"):
        table.add_column(name)
    for finding in findings:
        state = Text(finding.state, style=_STYLES.get(finding.state, ""))
        table.add_row(Text(finding.resource), state, Text(finding.note))
    return table
