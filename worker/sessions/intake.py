"""From a delivery to a command ready for planning, or to the reason why it never will be."""

from datetime import UTC, datetime
from typing import Final

import msgspec

from schemas.codec import CommandDecodeError, decode_message
from schemas.commands import AppendCommand, ClaimedCommand, Command
from schemas.guards import Guards, check_command, count_values
from schemas.keys import BrookKey, session_id_for
from schemas.problems import Problem
from schemas.replies import Rejected, RejectionCode, rejected
from schemas.types import MESSAGE_ID_LENGTH_MAX, CommandId
from worker.protocol.prepare import PreparedCommand, prepare
from worker.sessions.answers import asked_reply_session, dead_letter
from worker.sessions.base import Complete, Delivery, Settlement

_VALUE_BYTES: Final = 120
"""What a small value takes in memory, be it a single byte in the message."""

_EVENT_VALUES: Final = 4
"""What an event takes besides its data and metadata, in such values."""


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A command that may be planned."""

    delivery: Delivery
    key: BrookKey
    command: PreparedCommand
    memory_bytes: int = 0
    """About what it takes in memory: of metadata that is all small values, seventy times what the message took."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A command that may be planned once its events are read, if they can be."""

    delivery: Delivery
    key: BrookKey
    command: ClaimedCommand
    default_time: str


class TurnedAway(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is not planned: its reply and how to settle it."""

    delivery: Delivery
    reply: Rejected
    settlement: Settlement


class Intake:
    """Decodes and checks deliveries. Deterministic: a message delivered again is taken or turned away as before."""

    def __init__(
        self,
        guards: Guards,
        reply_addresses: frozenset[str],
        session_buckets: int | None = None,
        *,
        command_bytes_max: int | None = None,
    ) -> None:
        """Take `reply_addresses` (lower case) as the entities that a sender may name; no name is always fine.

        With `session_buckets`, a command may come in its brook's bucket or in its brook's own session. A body over
        `command_bytes_max` is not decoded.
        """
        self._guards = guards
        self._command_bytes_max = command_bytes_max
        self._session_buckets = session_buckets
        self._reply_addresses = reply_addresses

    def take(self, delivery: Delivery) -> Taken | Claimed | TurnedAway:
        """Look at one delivery.

        What is not a command of ours, or stands in the wrong session, is dead-lettered: its sender has to be found.
        What is a command but can never take effect is rejected and completed: its sender is told.
        """
        if delivery.session_id is None:
            problem = Problem("sessionId", "is missing", "set it to session_id_for(brook)")
            return _dead_lettered(delivery, RejectionCode.NO_SESSION, problem, None)
        if delivery.body is None:
            problem = Problem("body", "is not a binary body", "send the encoded command as data")
            return _dead_lettered(delivery, RejectionCode.UNDECODABLE, problem, None)
        size_bytes, limit = len(delivery.body), self._command_bytes_max
        if limit is not None and size_bytes > limit:
            problem = Problem("body", f"takes {size_bytes:,} bytes", f"send at most {limit:,} in a command")
            return _dead_lettered(delivery, RejectionCode.COMMAND_TOO_LARGE, problem, None)
        try:
            command = decode_message(delivery.body, delivery.content_type)
        except CommandDecodeError as error:
            return _dead_lettered(delivery, error.code, error.problem, error.command_id)
        if (reply := check_command(command, self._guards) or self._check_delivery(command, delivery)) is not None:
            return TurnedAway(delivery=delivery, reply=reply, settlement=Complete())
        if not self._is_session_of(command.brook, delivery.session_id):
            buckets = "" if self._session_buckets is None else f", {self._session_buckets}"
            remedy = f"set it to session_id_for(brook{buckets})"
            problem = Problem("sessionId", f"is not that of brook {command.brook}", remedy)
            return _dead_lettered(delivery, RejectionCode.WRONG_SESSION, problem, command.command_id)
        time = _time_of(delivery)
        if isinstance(command, ClaimedCommand):
            return Claimed(delivery=delivery, key=command.brook, command=command, default_time=time)
        memory_bytes = size_bytes + _VALUE_BYTES * self._values_of(command)
        return Taken(delivery=delivery, key=command.brook, command=prepare(command, time), memory_bytes=memory_bytes)

    def _values_of(self, command: AppendCommand) -> int:
        values = _EVENT_VALUES * len(command.events)
        for event in command.events:
            if event.metadata:
                values += count_values(event.metadata, self._guards.metadata_bytes_max)
        return values

    def _is_session_of(self, brook: BrookKey, session_id: str) -> bool:
        buckets = self._session_buckets
        return session_id == session_id_for(brook) or (
            buckets is not None and session_id == session_id_for(brook, buckets)
        )

    def _check_delivery(self, command: Command, delivery: Delivery) -> Rejected | None:
        if delivery.message_id not in (None, command.command_id):
            problem = Problem("commandId", "is not the message id", "set the message id to the command id")
            return rejected(command.command_id, RejectionCode.INVALID_COMMAND_ID, problem)
        if delivery.reply_to and self.reply_address(delivery) is None:
            problem = Problem(
                "replyTo", f"{delivery.reply_to[:260]!r} is not allowed", "use the worker's reply entity or none"
            )
            return rejected(command.command_id, RejectionCode.REPLY_ADDRESS_NOT_ALLOWED, problem)
        if delivery.reply_to_session_id and asked_reply_session(delivery) is None:
            problem = Problem(
                "replyToSessionId",
                "is no session id that a reply can have",
                f"use at most {MESSAGE_ID_LENGTH_MAX} characters",
            )
            return rejected(command.command_id, RejectionCode.REPLY_ADDRESS_NOT_ALLOWED, problem)
        return None

    def reply_address(self, delivery: Delivery) -> str | None:
        """Where the reply goes: as the sender asked if that is allowed, else (None) the worker's own entity.

        Names of entities are the same in whatever case, in ASCII: beyond it, a character may become an allowed one in
        lower case (the Kelvin sign a k) and still name nothing that could be opened.
        """
        asked = delivery.reply_to
        return asked if asked and asked.isascii() and asked.lower() in self._reply_addresses else None


def _time_of(delivery: Delivery) -> str:
    """When the broker took the message: the same on each delivery, unlike the time of processing."""
    at = delivery.enqueued_at or datetime.now(UTC)
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _dead_lettered(
    delivery: Delivery, code: RejectionCode, problem: Problem, command_id: CommandId | None
) -> TurnedAway:
    return TurnedAway(
        delivery=delivery,
        reply=rejected(command_id, code, problem),
        settlement=dead_letter(code, problem),
    )
