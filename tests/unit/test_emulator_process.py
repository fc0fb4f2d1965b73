"""What the emulator has as a process of its own: a log that cannot end what it logs, and tells no payload."""

import errno
import io
from pathlib import Path

import structlog

from emulator.process import log_to


class Unwritable(io.StringIO):
    """A log on a full disk, until there is room again."""

    is_full = True

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    stream = Unwritable()
    log_to(stream)
    structlog.get_logger().error("first")
    stream.is_full = False
    structlog.get_logger().error("second", port=5)
    assert "second" in stream.getvalue()
    assert "first" not in stream.getvalue()


def test_a_closed_log_ends_nothing(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        log_to(file)
    structlog.get_logger().error("late")


def fail_with(payload: str) -> None:
    raise RuntimeError(f"{len(payload)} characters")


def test_a_traceback_has_no_values_of_variables() -> None:
    stream = io.StringIO()
    log_to(stream)
    payload = "what a customer wrote"
    try:
        fail_with(payload)
    except RuntimeError:
        structlog.get_logger().exception("failed")
    assert "RuntimeError: 21 characters" in stream.getvalue()
    assert payload not in stream.getvalue()
