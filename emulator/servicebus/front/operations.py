"""The operations by the names that fault rules and counters use."""

from typing import Final

from emulator.servicebus.front import management

OPEN_CONNECTION: Final = "open-connection"
PUT_TOKEN: Final = "cbs-put-token"  # noqa: S105 - the name of an operation
OPEN_SENDER: Final = "open-sender"
OPEN_RECEIVER: Final = "open-receiver"
ACCEPT_SESSION: Final = "accept-session"
SEND: Final = "send"
RECEIVE: Final = "receive"
SETTLE: Final = "settle"
UNKNOWN: Final = "unknown"
"""A management request whose name means nothing here."""
OPERATIONS: Final = (
    OPEN_CONNECTION,
    PUT_TOKEN,
    OPEN_SENDER,
    OPEN_RECEIVER,
    ACCEPT_SESSION,
    SEND,
    RECEIVE,
    SETTLE,
    *management.OPERATIONS,
    UNKNOWN,
)
