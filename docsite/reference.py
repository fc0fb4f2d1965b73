"""Pages that are made from the code while the site is built, so that they cannot be out of date."""

import enum
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from schemas.claims import Claim
from schemas.commands import AppendCommand, ClaimedCommand, NewEvent
from schemas.events import RecordedEvent
from schemas.guards import Guards
from schemas.keys import BROOK_KEY_BYTES_MAX, BrookKey
from schemas.problems import Problem
from schemas.replies import Appended, ConcurrencyConflict, Rejected
from schemas.types import MESSAGE_ID_LENGTH_MAX, POSITION_MAX

_PYTHON: Final = {
    "brook_client": "The producer's and reader's side.",
    "schemas.commands": "What a producer sends.",
    "schemas.replies": "What it gets back.",
    "schemas.events": "What a reader gets.",
    "schemas.keys": "Brook keys, and the ids made from them.",
    "schemas.codec": "Bytes to commands and replies, and back.",
    "worker.storage.base": "What the worker asks of a store: to implement for another one.",
    "worker.locking.base": "What the worker asks of leases.",
    "worker.sessions.base": "What the worker asks of a broker.",
    "emulator.app": "The embedded services in a test.",
    "emulator.handle": "The embedded services as another process.",
    "emulator.faults": "Rules for faults.",
}


def pages() -> Mapping[str, str]:
    """The pages by their place in the site."""
    return {
        "reference/messages.md": "\n".join(_messages()),
        "reference/python.md": "\n".join(_python()),
    }


# --- messages ---------------------------------------------------------------------------------------------------------


def _messages() -> Iterator[str]:
    yield "# Messages"
    yield ""
    yield "Made from `schemas/`. JSON by default, MessagePack with content type `application/msgpack`. A field with a"
    yield "default may be left out. In a command an unknown field is an error; in a reply it is to be ignored."
    yield ""
    yield "## A command's message"
    yield ""
    yield "| property | |"
    yield "|---|---|"
    yield f"| message id | the command id, at most {MESSAGE_ID_LENGTH_MAX} characters |"
    yield "| session id | `session_id_for(brook)` of `schemas.keys`: the brook key, or its hash, or its bucket |"
    yield "| content type | `application/json` or `application/msgpack`; none is JSON |"
    yield "| reply to | the worker's reply entity, one of `reply_entities_allowed`, or none |"
    yield "| reply-to session id | the session that the reply is to have; without one, the brook's |"
    yield ""
    for kind in (AppendCommand, NewEvent, BrookKey, ClaimedCommand, Claim):
        yield from _struct(kind)
    yield f"A brook key has at most {BROOK_KEY_BYTES_MAX:,} bytes of UTF-8, a position is at most {POSITION_MAX:,}."
    yield ""
    yield "## A reply's message"
    yield ""
    yield "The correlation id is the command's message id. The message id is a fixed function of the command id"
    yield "(`reply_message_id` of `schemas.keys`), so that duplicate detection drops repetitions."
    yield ""
    for reply in (Appended, ConcurrencyConflict, Rejected, Problem):
        yield from _struct(reply)
    yield "Each rejection code, and what to do about it: [rejections](../rejections.md)."
    yield ""
    yield "## An event as it is read"
    yield ""
    yield from _struct(RecordedEvent)
    yield "## What is checked"
    yield ""
    yield inspect.cleandoc(Guards.__doc__ or "")
    yield ""
    yield "| guard | default |"
    yield "|---|---|"
    for field in msgspec.structs.fields(Guards):
        yield f"| `{field.name}` | `{field.default}` |"
    yield ""


def _struct(kind: type[msgspec.Struct]) -> Iterator[str]:
    config = kind.__struct_config__
    yield f"### {kind.__name__}"
    yield ""
    yield inspect.cleandoc(kind.__doc__ or "")
    yield ""
    yield "| field | type | default |"
    yield "|---|---|---|"
    if config.tag is not None:
        yield f'| `{config.tag_field}` | `"{config.tag}"` | |'
    for field in msgspec.structs.fields(kind):
        default = "" if field.required else f"`{_default(field.default)}`"
        yield f"| `{field.encode_name}` | `{_cell(_type(field.type))}` | {default} |"
    yield ""


def _default(value: Any) -> str:
    return "null" if value is None else "[]" if value == () else str(value)


def _type(kind: Any) -> str:
    """A type as JSON has it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type, arguments))
    if origin is tuple:
        return f"array of {_type(arguments[0])}"
    if origin is dict:
        return "object"
    if isinstance(kind, typing.NewType):
        return _type(kind.__supertype__)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return " or ".join(f'"{value.value}"' for value in kind)
    return {
        str: "string",
        int: "integer",
        bytes: "base64 string",
        bool: "boolean",
        type(None): "null",
        float: "number",
    }.get(kind, getattr(kind, "__name__", str(kind)))


# --- Python -----------------------------------------------------------------------------------------------------------


def _python() -> Iterator[str]:
    yield "# Python"
    yield ""
    yield "Made from the docstrings: each says first what is guaranteed."
    yield ""
    for module, what in _PYTHON.items():
        yield f"## {module}"
        yield ""
        yield what
        yield ""
        yield f"::: {module}"
        yield ""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
