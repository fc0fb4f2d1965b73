"""The official Service Bus emulator's `Config.json`, as it stands in the file.

A misspelt key is an error. Keys that the official format has and that change nothing here (`Logging`) are
accepted; keys that would change what a message meets are read by `emulator.config`, which refuses what it
cannot do.
"""

import difflib
import re
from datetime import timedelta
from typing import Any

import msgspec


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="pascal"):
    """A JSON object of the official format: its keys are PascalCase and a misspelt key is an error."""


class FileForwarding(_Strict, frozen=True):
    """Keys that every receiving entity may have; forwarding is refused unless empty."""

    requires_session: bool = False
    lock_duration: timedelta = timedelta(minutes=1)
    max_delivery_count: int = 10
    default_message_time_to_live: timedelta | None = None
    dead_lettering_on_message_expiration: bool = False
    forward_to: str | None = None
    forward_dead_lettered_messages_to: str | None = None


class FileQueueProperties(FileForwarding, frozen=True):
    """What a queue may say about itself."""

    requires_duplicate_detection: bool = False
    duplicate_detection_history_time_window: timedelta = timedelta(minutes=10)


class FileQueue(_Strict, frozen=True):
    """One queue."""

    name: str
    properties: FileQueueProperties = FileQueueProperties()


class FileCorrelationFilter(_Strict, frozen=True):
    """What must be equal; `Label` is the subject."""

    content_type: str | None = None
    correlation_id: str | None = None
    label: str | None = None
    message_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    session_id: str | None = None
    to: str | None = None
    properties: dict[str, str | int | float | bool] = {}


class FileSqlExpression(_Strict, frozen=True):
    """A condition or an action in the Service Bus SQL dialect."""

    sql_expression: str


class FileRuleProperties(_Strict, frozen=True):
    """A filter by its type, and what to do to a message that it takes."""

    filter_type: str = "Sql"
    correlation_filter: FileCorrelationFilter | None = None
    sql_filter: FileSqlExpression | None = None
    action: FileSqlExpression | None = None


class FileRule(_Strict, frozen=True):
    """One rule of a subscription."""

    name: str
    properties: FileRuleProperties


class FileSubscription(_Strict, frozen=True):
    """One subscription; without rules it takes everything."""

    name: str
    properties: FileForwarding = FileForwarding()
    rules: list[FileRule] = []


class FileTopicProperties(_Strict, frozen=True):
    """What a topic may say about itself."""

    default_message_time_to_live: timedelta | None = None
    requires_duplicate_detection: bool = False
    duplicate_detection_history_time_window: timedelta = timedelta(minutes=10)


class FileTopic(_Strict, frozen=True):
    """One topic."""

    name: str
    properties: FileTopicProperties = FileTopicProperties()
    subscriptions: list[FileSubscription] = []


class FileNamespace(_Strict, frozen=True):
    """The entities."""

    name: str = "sbemulatorns"
    queues: list[FileQueue] = []
    topics: list[FileTopic] = []


class FileUserConfig(_Strict, frozen=True):
    """Namespaces, and settings of the official emulator."""

    namespaces: list[FileNamespace]
    logging: Any = None  # where the official emulator writes its log; ours goes to standard error


class File(_Strict, frozen=True):
    """The whole file."""

    user_config: FileUserConfig


_KNOWN_KEYS = sorted(
    {
        key
        for struct in (
            FileQueueProperties,
            FileQueue,
            FileCorrelationFilter,
            FileSqlExpression,
            FileRuleProperties,
            FileRule,
            FileSubscription,
            FileTopicProperties,
            FileTopic,
            FileNamespace,
            FileUserConfig,
            File,
        )
        for key in struct.__struct_encode_fields__
    }
)


def explain(source: str, message: str) -> str:
    """Turn msgspec's sentence into file, path, what is wrong and what to change."""
    wrong, _, path = message.partition(" - at ")
    advice = "correct the value"
    if unknown := re.search(r"unknown field `(.*)`", wrong):
        close = difflib.get_close_matches(unknown[1], _KNOWN_KEYS, n=1)
        advice = f"did you mean {close[0]}?" if close else f"remove it; known keys are {', '.join(_KNOWN_KEYS)}"
    elif "missing required field" in wrong:
        advice = "add it"
    elif "ISO8601" in wrong:
        advice = "write a duration such as PT30S, PT5M or P1DT12H"
    return f"{source}: {path.strip('`') or '$'}: {wrong}; {advice}"
