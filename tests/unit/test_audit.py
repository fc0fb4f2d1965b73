"""The audit fails where a vulnerability is known, and only there."""

import sys

import pytest

from tests.audit import CONSTRAINTS, Advisory, Dependency, Report, audited, judged

GOOD = Dependency("good", "1.0")
BAD = Dependency("bad", "1.0", [Advisory("GHSA-1", ["1.1", "2.0"], ["CVE-1"]), Advisory("GHSA-2")])
UNKNOWN = Dependency("unknown", skip_reason="Dependency not found and could not be audited: unknown (1.0)")


def saying(text: str, *, code: int = 0, errors: str = "") -> list[str]:
    program = f"import sys; sys.stdout.write({text!r}); sys.stderr.write({errors!r}); sys.exit({code})"
    return [sys.executable, "-c", program]


def test_a_known_vulnerability_fails_and_says_what_to_use() -> None:
    assert judged(Report([GOOD, BAD, UNKNOWN])) == (
        [
            "bad 1.0: GHSA-1 (CVE-1); use 1.1 or 2.0",
            "bad 1.0: GHSA-2 (no alias); there is no fix yet",
            "SKIPPED 1 that the advisories do not know: unknown",
            "2 dependencies audited, 2 known vulnerabilities",
        ],
        False,
    )


def test_without_any_all_is_well() -> None:
    assert judged(Report([GOOD])) == (["1 dependencies audited, no known vulnerabilities"], True)


def test_what_cannot_be_audited_is_said_and_no_failure() -> None:
    (line,), well = judged(Report([UNKNOWN, UNKNOWN]))
    assert well
    assert line.startswith("SKIPPED: Dependency not found and could not be audited")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (saying("", code=1, errors="Traceback\nConnectionError: no route"), "(ConnectionError: no route)"),
        (saying("<html>", code=1), "could not be asked (it says nothing)"),
        (["/nonexistent/pip-audit"], "cannot be run"),
    ],
)
def test_a_tool_that_does_not_work_is_said_and_no_failure(command: list[str], told: str) -> None:
    (line,), well = audited(command)
    assert (well, told in line, line.startswith("SKIPPED: ")) == (True, True, True)


def test_a_silent_index_is_given_up_in_time() -> None:
    (line,), well = audited([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.2)
    assert (line, well) == ("SKIPPED: no answer within 0.2 s", True)


def test_what_the_tool_says_is_read_whatever_its_exit_code() -> None:
    report = (
        '{"dependencies": [{"name": "bad", "version": "1", "vulns": [{"id": "X", "description": "d"}]}], "fixes": []}'
    )
    lines, well = audited(saying(report, code=1))
    assert (lines[0], well) == ("bad 1: X (no alias); there is no fix yet", False)


def test_the_pins_are_plain_versions_that_the_audit_reads() -> None:
    lines = CONSTRAINTS.read_text().splitlines()
    assert all(line.count("==") == 1 and " " not in line for line in lines)
