"""Known vulnerabilities among the pinned dependencies: `python -m tests.audit` (`make audit`).

Exit code 1 where one is known. Where the advisories cannot be asked, or know nothing of a package, that is said and is
no failure: a machine without access must be able to run everything else.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

CONSTRAINTS: Final = Path(__file__).parents[1] / "constraints.txt"
TIMEOUT_S: Final = 60.0
_REQUEST_TIMEOUT_S: Final = 5
_REASON_LENGTH_MAX: Final = 200


class Advisory(msgspec.Struct):
    """One known vulnerability."""

    id: str
    fix_versions: list[str] = []
    aliases: list[str] = []


class Dependency(msgspec.Struct):
    """One package, as pip-audit tells of it."""

    name: str
    version: str = ""
    vulns: list[Advisory] = []
    skip_reason: str | None = None


class Report(msgspec.Struct):
    """What pip-audit says."""

    dependencies: list[Dependency]


def judged(report: Report) -> tuple[list[str], bool]:
    """What to say, and whether no vulnerability is known."""
    lines = [
        f"{one.name} {one.version}: {found.id} ({', '.join(found.aliases) or 'no alias'});"
        f" {'use ' + ' or '.join(found.fix_versions) if found.fix_versions else 'there is no fix yet'}"
        for one in report.dependencies
        for found in one.vulns
    ]
    well = not lines
    unknown = [one.name for one in report.dependencies if one.skip_reason is not None]
    audited = len(report.dependencies) - len(unknown)
    if unknown and not audited:
        lines.append(f"SKIPPED: {report.dependencies[0].skip_reason}, and likewise all {len(unknown)} dependencies")
        return lines, well
    if unknown:
        lines.append(f"SKIPPED {len(unknown)} that the advisories do not know: {', '.join(unknown)}")
    lines.append(
        f"{audited} dependencies audited, {'no' if well else len(lines) - bool(unknown)} known vulnerabilities"
    )
    return lines, well


def audited(command: Sequence[str], timeout_s: float = TIMEOUT_S) -> tuple[list[str], bool]:
    """Run `command`, which is pip-audit, and judge what it says."""
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return [f"SKIPPED: no answer within {timeout_s:g} s"], True
    except OSError as error:
        return [f"SKIPPED: {command[0]} cannot be run ({error.strerror})"], True
    try:
        return judged(msgspec.json.decode(done.stdout, type=Report))
    except msgspec.DecodeError:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        return [f"SKIPPED: the advisories could not be asked ({said[-1][:_REASON_LENGTH_MAX]})"], True


def main() -> int:
    """Audit constraints.txt."""
    options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    asked = ["--requirement", str(CONSTRAINTS), "--timeout", str(_REQUEST_TIMEOUT_S)]
    lines, well = audited([sys.executable, "-m", "pip_audit", *asked, *options])
    for line in lines:
        sys.stdout.write(f"audit: {line}\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
