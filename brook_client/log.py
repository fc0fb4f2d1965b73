"""Where the client logs: to structlog where the program has set that up, else to the standard library's logging.

As structlog comes, it prints to stdout, which is the program's own.
"""

import logging
from collections.abc import Mapping
from typing import Final, Literal

import structlog

_LOGGER: Final = logging.getLogger("brook_client")


class Log:
    """Constant event names, with what varies in fields. `exc_info` is the error to show with its traceback, or None."""

    def debug(self, event: str, **fields: object) -> None:
        """For whoever looks for a fault."""
        _write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """What is worth knowing."""
        _write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """What may need somebody's attention."""
        _write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """What needs somebody's attention."""
        _write("error", event, fields)


def _write(level: Literal["debug", "info", "warning", "error"], event: str, fields: Mapping[str, object]) -> None:
    if structlog.is_configured():
        getattr(structlog.get_logger("brook_client"), level)(event, **fields)
        return
    shown = " ".join([event, *(f"{name}={value!r}" for name, value in fields.items() if name != "exc_info")])
    error = fields.get("exc_info")
    traceback = error if isinstance(error, BaseException) else None
    _LOGGER.log(logging.getLevelNamesMapping()[level.upper()], "%s", shown, exc_info=traceback)


log: Final = Log()
