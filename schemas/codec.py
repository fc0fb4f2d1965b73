"""Bytes to commands and replies and back: JSON by default, MessagePack by content type."""

from typing import Final, Protocol, TypeVar

import msgspec

from schemas.commands import SCHEMA_VERSION, AppendCommand, ClaimedCommand, Command
from schemas.problems import Problem, shortened
from schemas.replies import RejectionCode, Reply
from schemas.types import CommandId

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"

_CANONICAL: Final = {
    "": JSON,
    JSON: JSON,
    "text/json": JSON,
    MSGPACK: MSGPACK,
    "application/x-msgpack": MSGPACK,
    "application/vnd.msgpack": MSGPACK,
}

_T_co = TypeVar("_T_co", covariant=True)


class _Decoder(Protocol[_T_co]):
    def decode(self, body: bytes, /) -> _T_co: ...


class _Encoder(Protocol):
    def encode(self, value: object, /) -> bytes: ...


class _Envelope(msgspec.Struct, rename="camel"):
    """What can be told of a command that does not decode. Tolerant on purpose."""

    schema_version: object = SCHEMA_VERSION
    command_id: object = None
    claim: object = msgspec.UNSET
    events: object = msgspec.UNSET


_REMEDIES: Final = {
    "body": f"send one command, in the form that its content type says: {JSON} or {MSGPACK}",
    "brook": 'give an object: {"name": …, "entityId": …}',
    "expected": 'give "any", "empty", "exists" or the position of the head',
    "events": "give an array of events",
}
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# One encoder and decoder of each kind for the process: building them is what costs.
_ENCODERS: Final[dict[str, _Encoder]] = {JSON: msgspec.json.Encoder(), MSGPACK: msgspec.msgpack.Encoder()}
_COMMANDS: Final[dict[str, _Decoder[AppendCommand]]] = {
    JSON: msgspec.json.Decoder(AppendCommand),
    MSGPACK: msgspec.msgpack.Decoder(AppendCommand),
}
_CLAIMED_COMMANDS: Final[dict[str, _Decoder[ClaimedCommand]]] = {
    JSON: msgspec.json.Decoder(ClaimedCommand),
    MSGPACK: msgspec.msgpack.Decoder(ClaimedCommand),
}
_REPLIES: Final[dict[str, _Decoder[Reply]]] = {
    JSON: msgspec.json.Decoder(Reply),
    MSGPACK: msgspec.msgpack.Decoder(Reply),
}
_ENVELOPES: Final[dict[str, _Decoder[_Envelope]]] = {
    JSON: msgspec.json.Decoder(_Envelope),
    MSGPACK: msgspec.msgpack.Decoder(_Envelope),
}


class CommandDecodeError(ValueError):
    """The body is not a command of this version.

    `code` and `problem` make the rejection; `command_id` is what could still be read of the sender's id.
    """

    def __init__(self, code: RejectionCode, problem: Problem, command_id: CommandId | None = None) -> None:
        super().__init__(str(problem))
        self.code = code
        self.problem = problem
        self.command_id = command_id


def canonical_content_type(content_type: str | None) -> str | None:
    """`JSON` or `MSGPACK` for the names that they go by (parameters ignored), None for any other type."""
    name = (content_type or "").partition(";")[0].strip().lower()
    return JSON if name.endswith("+json") else _CANONICAL.get(name)


def decode_command(body: bytes, content_type: str | None = None) -> AppendCommand:
    """Read a command with its events. Raises CommandDecodeError: the field, what is wrong and what to change."""
    kind = _command_kind(content_type)
    try:
        return _COMMANDS[kind].decode(body)
    except _UNREADABLE as error:
        raise _explained(error, _envelope(body, kind)) from error


def decode_message(body: bytes, content_type: str | None = None) -> Command:
    """Read what a message on the command queue holds: a command with its events or with a claim.

    Raises CommandDecodeError, as `decode_command` does.
    """
    kind = _command_kind(content_type)
    try:
        return _COMMANDS[kind].decode(body)
    except _UNREADABLE as error:
        envelope = _envelope(body, kind)
        if envelope.claim is msgspec.UNSET:
            raise _explained(error, envelope) from error
    if envelope.events is not msgspec.UNSET and _is_our_version(envelope):
        problem = Problem("claim", "stands beside `events`", "send either the events or a claim")
        raise CommandDecodeError(RejectionCode.UNDECODABLE, problem, _command_id(envelope))
    try:
        return _CLAIMED_COMMANDS[kind].decode(body)
    except _UNREADABLE as error:
        raise _explained(error, envelope) from error


def encode_command(command: Command, content_type: str = JSON) -> bytes:
    """Write a command as JSON or MessagePack. Raises ValueError for another content type."""
    return _ENCODERS[_supported(content_type)].encode(command)


def encode_reply(reply: Reply, content_type: str = JSON) -> bytes:
    """Write a reply as JSON or MessagePack: the same bytes for the same reply. ValueError for another type."""
    return _ENCODERS[_supported(content_type)].encode(reply)


def decode_reply(body: bytes, content_type: str | None = None) -> Reply:
    """Read a reply. Raises ValueError (msgspec.DecodeError is one) for what is not a reply."""
    try:
        return _REPLIES[_supported(content_type)].decode(body)
    except RecursionError as error:
        raise ValueError("the reply is nested too deeply") from error


def _supported(content_type: str | None) -> str:
    kind = canonical_content_type(content_type)
    if kind is None:
        raise ValueError(f"content type {content_type!r} is not supported; use {JSON} or {MSGPACK}")
    return kind


def _command_kind(content_type: str | None) -> str:
    kind = canonical_content_type(content_type)
    if kind is None:
        problem = Problem(
            "contentType", f"{shortened(repr(content_type))} is not supported", f"use {JSON} or {MSGPACK}"
        )
        raise CommandDecodeError(RejectionCode.UNSUPPORTED_CONTENT_TYPE, problem)
    return kind


def _envelope(body: bytes, kind: str) -> _Envelope:
    try:
        return _ENVELOPES[kind].decode(body)
    except _UNREADABLE:
        return _Envelope()


def _command_id(envelope: _Envelope) -> CommandId | None:
    return CommandId(envelope.command_id) if isinstance(envelope.command_id, str) else None


def _is_our_version(envelope: _Envelope) -> bool:
    return envelope.schema_version == SCHEMA_VERSION and not isinstance(envelope.schema_version, bool)


def _shown(version: object) -> str:
    """A version in the same words each time: of what is not plain, Python may tell its place in memory."""
    if version is None or isinstance(version, str | int | float):
        return shortened(str(version))
    return f"of the type {type(version).__name__}"


def _explained(error: Exception, envelope: _Envelope) -> CommandDecodeError:
    """Say why a body did not decode; a version that is not ours goes first, since it explains unknown fields."""
    command_id = _command_id(envelope)
    if not _is_our_version(envelope):
        problem = Problem(
            "schemaVersion",
            f"is {_shown(envelope.schema_version)}",
            f"send version {SCHEMA_VERSION} or run a newer worker",
        )
        return CommandDecodeError(RejectionCode.UNKNOWN_VERSION, problem, command_id)
    if isinstance(error, RecursionError):
        problem = Problem("body", "is nested too deeply", "flatten it, above all the metadata")
        return CommandDecodeError(RejectionCode.UNDECODABLE, problem, command_id)
    text, _, path = str(error).partition(" - at `")
    field = path.rstrip("`").removeprefix("$").removeprefix(".") or "body"
    problem = Problem(shortened(field), shortened(text) or "is not readable", _remedy(field, text))
    return CommandDecodeError(RejectionCode.UNDECODABLE, problem, command_id)


def _remedy(field: str, text: str) -> str:
    """What to change, by the field and by what the decoder has to say of it."""
    if text.startswith("Object contains unknown field"):
        return "take it out, or correct its name: a field that is not known is an error"
    if text.startswith("Object missing required field"):
        return "add it"
    if field.endswith("].data"):
        return "give the event's bytes: as base64 text in JSON, as binary in MessagePack"
    return _REMEDIES.get(field, "schemas/json/command.schema.json has what each field may be")
