"""The AsyncAPI 3 document of the worker: channels, operations, messages and how one logs in."""

from typing import Any, Final

import msgspec

from schemas import codec, json_schema
from schemas.commands import SCHEMA_VERSION, AppendCommand, NewEvent
from schemas.json_schema import Json
from schemas.keys import BrookKey, reply_message_id, session_id_for
from schemas.replies import Appended
from schemas.types import START, CommandId

VERSION: Final = "3.0.0"

_COMMAND: Final = AppendCommand(
    command_id=CommandId("open-order-42"),
    brook=BrookKey("order", "42"),
    expected="empty",
    events=(
        NewEvent(event_id="5d1c6f0e", event_type="Opened", data=b'{"by":"me"}', data_content_type="application/json"),
    ),
    correlation_id="checkout-7",
)
_REPLY: Final = Appended(command_id=_COMMAND.command_id, first_position=START, last_position=START)
_REPLY_SESSION: Final = "client-1"
_TRACE_PARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def document() -> Json:
    """The whole document. Its schemas are those of `schemas.json_schema`."""
    return {
        "asyncapi": VERSION,
        "id": "urn:brook-worker",
        "info": {
            "title": "Brook worker",
            "version": f"{SCHEMA_VERSION}.0.0",
            "description": (
                "Append commands go to a Service Bus session queue. The worker appends their events to brooks, each"
                " command all or nothing and at most once, and answers each with one reply. Names of queues and topics"
                " are settings of the worker; the defaults stand here."
            ),
            "license": {"name": "MIT"},
        },
        "defaultContentType": codec.JSON,
        "servers": {"servicebus": _server()},
        "channels": {"commands": _commands(), "replies": _replies()},
        "operations": {"append": _append(), "reply": _reply()},
        "components": {
            "messages": {"command": _command_message(), "reply": _reply_message()},
            "schemas": json_schema.components("#/components/schemas/{name}"),
            "securitySchemes": _security_schemes(),
        },
    }


def _server() -> Json:
    return {
        "host": "{namespace}.servicebus.windows.net:5671",
        "protocol": "amqps",
        "protocolVersion": "1.0",
        "description": "An Azure Service Bus namespace. Emulators of it, the embedded one too, speak plain AMQP.",
        "variables": {"namespace": {"description": "The name of the namespace."}},
        "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in _security_schemes()],
        "bindings": {"amqp1": {}},
    }


def _security_schemes() -> Json:
    return {
        "entraId": {
            "type": "oauth2",
            "description": (
                "A token of Microsoft Entra ID, put by claims-based security. Roles: Azure Service Bus Data Sender on"
                " the command queue, Azure Service Bus Data Receiver on the queue or subscription of replies."
            ),
            "flows": {
                "clientCredentials": {
                    "tokenUrl": "https://login.microsoftonline.com/organizations/oauth2/v2.0/token",
                    "availableScopes": {"https://servicebus.azure.net/.default": "What the roles allow."},
                }
            },
        },
        "sharedAccessKey": {
            "type": "userPassword",
            "description": "The name of a shared access policy and its key, from which the client signs its tokens.",
        },
    }


def _commands() -> Json:
    return {
        "address": "brook-commands",
        "title": "Command queue",
        "description": "A queue that requires sessions and best detects duplicates. The commands of a brook share one.",
        "servers": [{"$ref": "#/servers/servicebus"}],
        "messages": {"command": {"$ref": "#/components/messages/command"}},
        "bindings": {"amqp1": {}},
    }


def _replies() -> Json:
    return {
        "address": None,
        "title": "Replies",
        "description": (
            "The queue or topic that a command names in `replyTo`, if the settings allow it; else the worker's"
            " `reply_queue` (by default `brook-replies`) or `reply_topic`."
        ),
        "servers": [{"$ref": "#/servers/servicebus"}],
        "messages": {"reply": {"$ref": "#/components/messages/reply"}},
        "bindings": {"amqp1": {}},
    }


def _append() -> Json:
    return {
        "action": "receive",
        "title": "Append",
        "summary": "Append events to a brook, all or none, if its head is as expected.",
        "description": (
            "Sending a command again under its id is safe: it takes effect at most once, and each of its deliveries"
            " gets the same reply."
        ),
        "channel": {"$ref": "#/channels/commands"},
        "messages": [{"$ref": "#/channels/commands/messages/command"}],
        "reply": {
            "address": {"location": "$message.header#/replyTo", "description": "A queue or topic that is allowed."},
            "channel": {"$ref": "#/channels/replies"},
            "messages": [{"$ref": "#/channels/replies/messages/reply"}],
        },
    }


def _reply() -> Json:
    return {
        "action": "send",
        "title": "Reply",
        "summary": "Tell what became of a command.",
        "channel": {"$ref": "#/channels/replies"},
        "messages": [{"$ref": "#/channels/replies/messages/reply"}],
    }


def _command_message() -> Json:
    headers = {
        "messageId": _property("message-id", "The command id.", minLength=1, maxLength=128),
        "sessionId": _property(
            "group-id",
            "Made from the brook key alone, by the rule in docs/producers.md.",
            minLength=1,
            maxLength=128,
        ),
        "contentType": _CONTENT_TYPE,
        "correlationId": _property("correlation-id", "The body's `correlationId`; not read by the worker."),
        "replyTo": _property("reply-to", "The queue or topic for the reply; without it, the worker's own."),
        "replyToSessionId": _property(
            "reply-to-group-id", "The session for the reply: the sender's own.", maxLength=128
        ),
        **_TRACE,
    }
    return {
        "name": "command",
        "title": "Append command",
        "contentType": codec.JSON,
        "correlationId": {"location": "$message.header#/messageId", "description": "The reply's correlation id."},
        "headers": {"type": "object", "properties": headers, "required": ["messageId", "sessionId"]},
        "payload": {"$ref": "#/components/schemas/Command"},
        "examples": [
            {
                "name": "open-an-order",
                "summary": "The first event of a brook.",
                "headers": {
                    "messageId": _COMMAND.command_id,
                    "sessionId": session_id_for(_COMMAND.brook),
                    "contentType": codec.JSON,
                    "replyTo": "brook-replies",
                    "replyToSessionId": _REPLY_SESSION,
                    "traceparent": _TRACE_PARENT,
                },
                "payload": _as_json(codec.encode_command(_COMMAND)),
            }
        ],
    }


def _reply_message() -> Json:
    headers = {
        "messageId": _property("message-id", "The same for each reply to one command in one session."),
        "correlationId": _property("correlation-id", "The command's message id."),
        "sessionId": _property("group-id", "The command's `replyToSessionId`, else the session of its brook."),
        "contentType": _CONTENT_TYPE,
        **_FACTS,
        **_TRACE,
    }
    return {
        "name": "reply",
        "title": "Reply",
        "contentType": codec.JSON,
        "correlationId": {"location": "$message.header#/correlationId", "description": "The command's message id."},
        "headers": {"type": "object", "properties": headers, "required": ["messageId", "correlationId"]},
        "payload": {"$ref": "#/components/schemas/Reply"},
        "examples": [
            {
                "name": "appended",
                "summary": "The event is in its brook, at position 0.",
                "headers": {
                    "messageId": reply_message_id(_COMMAND.command_id, _REPLY_SESSION),
                    "correlationId": _COMMAND.command_id,
                    "sessionId": _REPLY_SESSION,
                    "contentType": codec.JSON,
                },
                "payload": _as_json(codec.encode_reply(_REPLY)),
            }
        ],
    }


def _property(name: str, description: str, **keywords: int) -> Json:
    """A property of the AMQP message itself."""
    return {"type": "string", "description": f"AMQP property `{name}`. {description}", **keywords}


_CONTENT_TYPE: Final = _property(
    "content-type", f"`{codec.JSON}` (also when it is missing) or `{codec.MSGPACK}`; the reply has the command's."
)

_FACTS: Final = {
    name: {"type": kind, "description": f"Application property: {what} May be missing."}
    for name, kind, what in (
        ("requestCharge", "number", "the RU that the batch of the command took."),
        ("batchCommands", "integer", "how many commands were committed together."),
        ("batchEvents", "integer", "how many events they had."),
    )
}

_TRACE: Final = {
    name: {"type": "string", "description": f"Application property: W3C Trace Context, {what}."}
    for name, what in (("traceparent", "the sender's span"), ("tracestate", "what its tracing system adds"))
}


def _as_json(body: bytes) -> Any:
    return msgspec.json.decode(body)
