"""Commands as Service Bus messages, and messages back to replies."""

import json
from typing import Final

import msgspec
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage

from brook_client import tracing
from schemas import codec
from schemas.commands import AppendCommand, Command, NewEvent
from schemas.ids import utf16_length
from schemas.keys import session_id_for
from schemas.replies import Reply
from schemas.types import MESSAGE_ID_LENGTH_MAX, CommandId

Fact = str | int | float | bool


class ReceivedReply(msgspec.Struct, frozen=True, kw_only=True):
    """A reply as it came.

    `body` is the same for each delivery of a command. `facts` are what the worker tells about the way there, such
    as `requestCharge` or `batchCommands`; they may differ from one delivery to the next.
    """

    command_id: CommandId
    reply: Reply
    body: bytes
    facts: dict[str, Fact]


class UnreadableReplyError(ValueError):
    """The message is not a reply. `command_id` is the command that it answers, where that can be told."""

    def __init__(self, message: str, command_id: CommandId | None) -> None:
        super().__init__(message)
        self.command_id = command_id


def command_message(
    command: Command,
    *,
    content_type: str = codec.JSON,
    reply_to: str | None = None,
    reply_session_id: str | None = None,
    session_buckets: int | None = None,
) -> ServiceBusMessage:
    """Make the message that carries `command` in its brook's session, or in its bucket of so many.

    It carries the trace context of the current span too, where there is one.

    Raises ValueError for a command id that no message id can be, and for metadata with a number that is not finite;
    TypeError for data that is not bytes.
    """
    if not 0 < (length := utf16_length(command.command_id)) <= MESSAGE_ID_LENGTH_MAX:
        raise ValueError(
            f"commandId: is {length} characters long (UTF-16); use 1 to {MESSAGE_ID_LENGTH_MAX}, since it is the"
            " message id too"
        )
    if isinstance(command, AppendCommand):
        for index, event in enumerate(command.events):
            check_event(index, event)
    return ServiceBusMessage(
        codec.encode_command(command, content_type),
        content_type=content_type,
        message_id=command.command_id,
        session_id=session_id_for(command.brook, session_buckets),
        correlation_id=command.correlation_id,
        reply_to=reply_to,
        reply_to_session_id=reply_session_id,
        application_properties=tracing.properties(),
    )


def check_event(index: int, event: NewEvent) -> None:
    """Refuse what would be sent as something else in silence.

    TypeError for data that is not bytes: text would be taken for base64. ValueError for a number in the metadata that
    JSON has no way to write: it would become null.
    """
    data: object = event.data  # whoever made the event need not have checked its types
    if not isinstance(data, bytes | bytearray | memoryview):
        problem = (
            f"events[{index}].data: is of the type {type(data).__name__}; give bytes, such as json.dumps(…).encode()"
        )
        raise TypeError(problem)
    if not event.metadata:
        return
    try:
        # What JSON writes as text is fine, and so are keys of other kinds: their encoder has its own word on them.
        json.dumps(event.metadata, allow_nan=False, skipkeys=True, default=str)
    except ValueError as error:
        problem = f"events[{index}].metadata: holds a number that is not finite; send a finite number or null"
        raise ValueError(problem) from error


def received_reply(message: ServiceBusReceivedMessage) -> ReceivedReply:
    """Read a reply. Raises UnreadableReplyError for what is none."""
    command_id = CommandId(message.correlation_id) if message.correlation_id else None
    try:
        body = b"".join(message.body)
        reply = codec.decode_reply(body, message.content_type)
    except (ValueError, TypeError) as error:
        raise UnreadableReplyError(f"the message is not a reply: {error}", command_id) from error
    if command_id is None:
        raise UnreadableReplyError("the reply has no correlation id", None)
    return ReceivedReply(command_id=command_id, reply=reply, body=body, facts=_facts(message))


_FACT_TYPES: Final = (str, int, float, bool)


def _facts(message: ServiceBusReceivedMessage) -> dict[str, Fact]:
    """The application properties: received keys and strings are bytes (azure-servicebus 7.15)."""
    facts = {str(_text(name)): _text(value) for name, value in (message.application_properties or {}).items()}
    return {name: value for name, value in facts.items() if isinstance(value, _FACT_TYPES)}


def _text(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
