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
from schemas.types import POSITION_MAX

_PYTHON: Final = (
    "brook_client",
    "brook_client.sync",
    "schemas.commands",
    "schemas.replies",
    "schemas.events",
    "schemas.keys",
    "schemas.codec",
    "worker.storage.base",
    "worker.locking.base",
    "worker.sessions.base",
    "emulator.app",
    "emulator.handle",
    "emulator.faults",
)


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
    yield "The properties of the messages, and what to do with a reply: [producers](../producers.md#the-message)."
    yield ""
    yield "## A command"
    yield ""
    for kind in (AppendCommand, NewEvent, BrookKey, ClaimedCommand, Claim):
        yield from _struct(kind)
    yield f"A brook key has at most {BROOK_KEY_BYTES_MAX:,} bytes of UTF-8, a position is at most {POSITION_MAX:,}."
    yield ""
    yield "## A reply"
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
    for module in _PYTHON:
        yield f"## {module}"
        yield ""
        yield f"::: {module}"
        yield ""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
