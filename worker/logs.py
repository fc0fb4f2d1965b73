"""The log: structured, in UTC, one line an event, and never a connection string, a key or a payload.

Event names are constant (`append.committed`); what varies is in fields. What libraries log by the standard library's
logging comes out the same way, from warnings up, as `library.message`.
"""

import contextlib
import io
import logging
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any, Final, TextIO, cast
from uuid import UUID

import structlog
from opentelemetry import trace
from structlog.types import EventDict, Processor

from worker.redaction import HIDDEN, Redactor, Secret
from worker.settings import Settings
from worker.terminal import visible

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_HIDDEN_FIELDS: Final = frozenset(
    {
        "authorization",
        "body",
        "content",
        "data",
        "document",
        "documents",
        "events",
        "metadata",
        "password",
        "payload",
        "secret",
        "token",
    }
)
_HIDDEN_ENDINGS: Final = ("connection_string", "account_key", "access_key", "cosmos_key")
_EXCEPTION: Final = "exception"
_TEXT_LENGTH_MAX: Final = 2_000
_EXCEPTION_LENGTH_MAX: Final = 20_000
_ITEMS_MAX: Final = 50
_DEPTH_MAX: Final = 5
_QUOTED_PAYLOAD: Final = re.compile(
    r"""(?P<name>["'](?:data|body|payload|metadata)["']\s*:\s*)(?P<value>"[^"]*"|'[^']*'|\{[^}]*\})"""
)
_LONG_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{120,}={0,2}")


class _Unfailing(io.TextIOBase):
    """Writes to `target` what can be written.

    A full disk under the log, or a reader of it that went away, must not end the work that is being logged.
    """

    def __init__(self, target: TextIO) -> None:
        self._target = target

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            self._target.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._target.flush()


def configure_logs(settings: Settings, stream: TextIO | None = None) -> None:
    """Log to `stream` (standard error) as the settings say. Calling it again replaces what was set up before."""
    stream = stream or sys.stderr
    console = settings.log_format == "console" or (settings.log_format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _trace_ids,
        structlog.processors.StackInfoRenderer(),
        # As text, before it is redacted; the renderers' own tracebacks would show local variables.
        structlog.processors.format_exc_info,
        Redaction(settings.secrets()),
    ]
    if console:  # JSON lines write what would steer a terminal as \uXXXX by themselves
        shared.append(_visible_event)
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    level = _LEVELS[settings.log_level]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Unfailing(stream))),
        cache_logger_on_first_use=False,
    )
    _route_libraries(stream, [_library_message, *shared], renderer, max(level, logging.WARNING))


class Redaction:
    """A structlog processor that leaves no secret and no payload in an event.

    Secrets of the settings are found wherever they stand; further keys by the look of them. Bytes and objects are
    named, not shown. Text is bounded.
    """

    def __init__(self, secrets: tuple[Secret, ...]) -> None:
        self._redact = Redactor(secrets)

    def __call__(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        """Give back the event without secrets and payloads."""
        return {name: self._field(name, value, 0) for name, value in event.items()}

    def _field(self, name: object, value: object, depth: int) -> object:
        lowered = str(name).lower()
        if isinstance(value, bool | int | float | None):
            return value
        if lowered in _HIDDEN_FIELDS or lowered.endswith(_HIDDEN_ENDINGS):
            return HIDDEN
        return self._value(value, depth, _EXCEPTION_LENGTH_MAX if name == _EXCEPTION else _TEXT_LENGTH_MAX)

    def _value(self, value: object, depth: int, length_max: int = _TEXT_LENGTH_MAX) -> object:
        match value:
            case bool() | int() | float() | None:
                return value
            case str() | BaseException() | PurePath() | UUID() | datetime() | timedelta():
                return self._text(str(value), length_max)
            case bytes() | bytearray() | memoryview():
                return f"<{len(value):,} bytes>"
            case Secret():
                return HIDDEN
            case Mapping() | list() | tuple() | set() | frozenset() if depth >= _DEPTH_MAX:
                return "…"
            case Mapping():
                items = list(value.items())[:_ITEMS_MAX]
                return {self._text(str(name), length_max): self._field(name, inner, depth + 1) for name, inner in items}
            case list() | tuple() | set() | frozenset():
                return [self._value(inner, depth + 1) for inner in list(value)[:_ITEMS_MAX]]
            case _:  # a command or a message would show its payload
                return f"<{type(value).__name__}>"

    def _text(self, text: str, length_max: int) -> str:
        text = _QUOTED_PAYLOAD.sub(rf"\g<name>{HIDDEN}", self._redact(text))
        text = _LONG_BASE64.sub(lambda found: f"<{len(found[0]):,} characters>", text)
        return text if len(text) <= length_max else f"{text[:length_max]}… ({len(text):,} characters)"


def _visible_event(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Show what would steer a terminal: names of brooks and sessions are their senders', and so are errors' texts."""
    return {name: visible(value) if isinstance(value, str) else value for name, value in event.items()}


def _trace_ids(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Say in which span the line was logged, so that it is found from the trace and the other way round."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
        event["span_id"] = f"{context.span_id:016x}"
    return event


def _library_message(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Give what a library logged a constant name; its text becomes a field."""
    record: logging.LogRecord = event["_record"]
    return {**event, "event": "library.message", "logger": record.name, "message": event["event"]}


class _OurHandler(logging.StreamHandler[TextIO]):
    """Tells our handler from those of others, such as pytest's."""


def _route_libraries(stream: TextIO, before: list[Processor], renderer: Processor, level: int) -> None:
    """Send the standard library's log through the same processors."""
    keep_meta: Callable[[object, str, MutableMapping[str, Any]], EventDict] = (
        structlog.stdlib.ProcessorFormatter.remove_processors_meta
    )
    handler = _OurHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processors=[keep_meta, renderer], foreign_pre_chain=before)
    )
    root = logging.getLogger()
    for other in [other for other in root.handlers if isinstance(other, _OurHandler)]:
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=True)
