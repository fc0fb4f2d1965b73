"""Brook keys: what they may be, and the ids derived from them.

Writers and readers take the partition key from `partition_key` alone, so that both always look at the same
logical partition. Producers and the worker take the session id from `session_id_for` alone.
"""

import hashlib
from typing import Final, Self

import msgspec

from schemas.ids import utf16_length
from schemas.problems import Problem, has_control_characters, is_encodable
from schemas.types import MESSAGE_ID_LENGTH_MAX, CommandId

SEPARATOR: Final = "|"

BROOK_KEY_BYTES_MAX: Final = 1024
"""UTF-8 bytes of both parts together. Cosmos DB takes partition keys of up to 2,048 bytes."""


class InvalidBrookKeyError(ValueError):
    """The text is not a brook key. Its message says which part, what is wrong and what to change."""


class BrookKey(msgspec.Struct, frozen=True, order=True, forbid_unknown_fields=True, rename="camel"):
    """Names one brook: one ordered sequence of events.

    Holding one does not mean that it is valid: it may have come from a command. `checked` and `parse` give valid
    keys only; `problems` tells what is wrong.
    """

    name: str
    entity_id: str

    def __str__(self) -> str:
        """Render as `name|entityId`, the form that `parse` reads."""
        return f"{self.name}{SEPARATOR}{self.entity_id}"

    @classmethod
    def checked(cls, name: str, entity_id: str) -> Self:
        """Make a valid key or raise InvalidBrookKeyError."""
        key = cls(name, entity_id)
        if problems := key.problems():
            raise InvalidBrookKeyError("; ".join(map(str, problems)))
        return key

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name|entityId` or raise InvalidBrookKeyError."""
        name, separator, entity_id = text.partition(SEPARATOR)
        if not separator:
            raise InvalidBrookKeyError(f"brook: no {SEPARATOR!r} in {text!r}; write it as name{SEPARATOR}entityId")
        return cls.checked(name, entity_id)

    def problems(self, field: str = "brook") -> tuple[Problem, ...]:
        """Everything that keeps this from being a valid key; empty when it is one."""
        found = []
        for part, text in ((f"{field}.name", self.name), (f"{field}.entityId", self.entity_id)):
            if not text:
                found.append(Problem(part, "is empty", "give at least one character"))
            elif SEPARATOR in text:
                found.append(Problem(part, f"contains {SEPARATOR!r}", "leave it out: it separates the two parts"))
            elif has_control_characters(text) or not is_encodable(text):
                found.append(
                    Problem(part, "contains a control character or a lone surrogate", "use printable characters")
                )
        if not found:
            size = len(self.name.encode()) + len(self.entity_id.encode())
            if size > BROOK_KEY_BYTES_MAX:
                limit = f"use at most {BROOK_KEY_BYTES_MAX:,} bytes of UTF-8 for both parts together"
                found.append(Problem(field, f"is {size:,} bytes long", limit))
        return tuple(found)


def partition_key(key: BrookKey) -> str:
    """The value of `/brookPartitionKey` of every document of the brook, for writers and readers alike."""
    return str(key)


def session_id_for(key: BrookKey, buckets: int | None = None) -> str:
    """The Service Bus session that carries the brook's commands.

    Without `buckets`: the brook key itself while it fits the 128 characters of a session id (counted in UTF-16 units,
    as .NET counts them), else `sha256:` and the SHA-256 of its UTF-8 bytes in hex.

    With `buckets`: one of so many sessions, by hash, that each carry many brooks. For brooks that are many and small:
    opening a session costs far more than a command. Producers and workers must use the same number.

    The forms never meet: a brook key contains a `|`, `sha256:…` and `bucket:3/16` do not.
    """
    text = str(key)
    if buckets is not None:
        return f"bucket:{int(_sha256(text)[:15], 16) % buckets}/{buckets}"
    return text if utf16_length(text) <= MESSAGE_ID_LENGTH_MAX else f"sha256:{_sha256(text)}"


def reply_message_id(
    command_id: CommandId, reply_session_id: str | None = None, *, rejection: bytes | None = None
) -> str:
    """The message id of the reply to a command: always the same, so that duplicate detection drops resends.

    To a sender that named no reply session: `r:` and the command id while that fits the 128 characters of a message
    id, else `h:` and a SHA-256 in hex. To one that did: `s:` and a SHA-256 of both, so that a command sent again
    from elsewhere is answered there too.

    A command has one outcome for ever, but may be rejected before, mended and sent again under its id, and another
    command may be sent under its id by mistake: each `rejection`, the body of that reply, has an id of its own, `x:`
    and a SHA-256 of all three.
    """
    if rejection is not None:
        return f"x:{_sha256(chr(0).join((command_id, reply_session_id or '', rejection.hex())))}"
    if reply_session_id:
        return f"s:{_sha256(chr(0).join((command_id, reply_session_id)))}"
    message_id = f"r:{command_id}"
    return message_id if utf16_length(message_id) <= MESSAGE_ID_LENGTH_MAX else f"h:{_sha256(command_id)}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
