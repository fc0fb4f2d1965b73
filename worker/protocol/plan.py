"""Decides on a group of commands: a verdict for each and the fewest conditional batches that carry them out."""

from collections.abc import Mapping, Sequence
from typing import Final, assert_never

import msgspec

from schemas.commands import Expected
from schemas.problems import Problem
from schemas.replies import RejectionCode
from schemas.types import EMPTY, CommandId, Position
from worker.protocol.documents import Document, encoded_bytes, head_document
from worker.protocol.model import Head, Limits, RecentCommand, RecentConflict, StoredHead
from worker.protocol.prepare import Identity, PreparedCommand
from worker.protocol.verdicts import Accepted, AlreadyAppended, Conflicted, Refused, Verdict
from worker.protocol.window import Window
from worker.protocol.withheld import refusal
from worker.protocol.writes import CREATE_BYTES, REPLACE_HEAD_BYTES, REQUEST_BYTES

_CONFLICTS_FIELD_BYTES: Final = len(',"recentConflicts":[]')


class AppendBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One conditional batch: the head after it and the events that it creates.

    `commands` counts the commands accepted in it; it is 0 where only conflicts are put on record.
    """

    before: Position
    head: Head
    events: tuple[Document, ...]
    commands: int
    request_bytes: int

    @property
    def operations(self) -> int:
        """The write of the head and one for each event."""
        return 1 + len(self.events)


class LargeAppend(msgspec.Struct, frozen=True, kw_only=True):
    """One command that takes several batches, by way of a pending head. `before` is the head that it begins on."""

    before: Head
    command: PreparedCommand
    head: Head


Step = AppendBatch | LargeAppend


class Plan(msgspec.Struct, frozen=True):
    """A verdict for each command, in order, and the steps that make the verdicts true, in order."""

    verdicts: tuple[Verdict, ...]
    steps: tuple[Step, ...]


def plan(
    stored: StoredHead,
    commands: Sequence[PreparedCommand],
    limits: Limits,
    decided_before: Mapping[Identity, AlreadyAppended | Refused] | None = None,
) -> Plan:
    """Decide on `commands` one after the other, each against the head as it would then be.

    Guarantee: with the same head, commands and limits it decides the same again; a command found among the head's
    recent ones gets the verdict that it got first; nothing in a step exceeds `limits`. A conflict is put on record
    by the next step, or by one of its own, before anybody can hear of it. `decided_before` are commands that the
    head's windows have outlived, found among the events.
    """
    planner = _Planner(stored, limits, decided_before or {})
    verdicts = tuple(planner.decide(command) for command in commands)
    steps = planner.finish()
    positions = [step.head.position for step in steps]
    assert positions == sorted(positions), "steps build on each other"
    return Plan(verdicts, steps)


class _Planner:
    """The head as it would be after what was decided so far, and the batch being filled."""

    def __init__(
        self,
        stored: StoredHead,
        limits: Limits,
        decided_before: Mapping[Identity, AlreadyAppended | Refused],
    ) -> None:
        self._limits = limits
        self._decided_before = decided_before
        self._position = stored.head.position
        self._pending = stored.head.pending
        self._recent = Window(stored.head.recent, limits.recent_commands_max)
        self._conflicts = Window(stored.head.conflicts, limits.recent_commands_max)
        bare = Head(position=Position(0), pending=self._pending)
        self._bare_head_bytes = encoded_bytes(head_document(stored.key, bare))
        self._steps: list[Step] = []
        self._open()

    def decide(self, command: PreparedCommand) -> Verdict:
        """Decide on the next command."""
        if (known := self._known(command)) is not None:
            return known
        if command.withheld is not None:
            return self._withhold(command, command.withheld)
        if (too_large := self._event_too_large(command)) is not None:
            return too_large
        if not is_expected(command.expected, self._position):
            return self._conflict(command)
        return self._accept(command)

    def finish(self) -> tuple[Step, ...]:
        """Close the batch being filled, if it holds anything."""
        if self._documents or self._unrecorded:
            self._close()
        return tuple(self._steps)

    def _known(self, command: PreparedCommand) -> Verdict | None:
        """The verdict that the command's id got before, if the windows still tell."""
        if (entry := self._recent.find(command.command_id)) is not None:
            verdict: Verdict = AlreadyAppended(entry.first, entry.last)
            digest = entry.digest
            if command.withheld is not None and entry.last - entry.first + 1 != len(command):
                return command_id_reused(command.command_id)
        elif (conflict := self._conflicts.find(command.command_id)) is not None:
            verdict = refusal(conflict.refusal) if conflict.refusal else Conflicted(command.expected, conflict.actual)
            digest = conflict.digest
        else:
            return self._decided_before.get(command.identity)
        return verdict if command.is_same_as(digest) else command_id_reused(command.command_id)

    def _event_too_large(self, command: PreparedCommand) -> Refused | None:
        # Measured where positions have most digits. Nobody records this, and it has to be told in the same words when
        # the command comes again, behind what was appended meanwhile.
        limit, refused = self._limits.single_event_bytes_max, self._limits.event_refused_bytes
        index, size = command.largest_event()
        if size > limit:
            reason = f"over the limit of {limit:,}"
        elif refused is not None and size >= refused:
            reason = "more than the store takes"
        else:
            return None
        problem = Problem(
            f"events[{index}]",
            f"takes {size:,} bytes as a stored document, {reason}",
            "make the event smaller, or keep its data elsewhere and append a reference to it",
        )
        return Refused(RejectionCode.EVENT_TOO_LARGE, problem)

    def _conflict(self, command: PreparedCommand) -> Conflicted:
        self._remember(RecentConflict(command.command_id, self._position, command.digest))
        return Conflicted(command.expected, self._position)

    def _withhold(self, command: PreparedCommand, reason: RejectionCode) -> Refused:
        """Refuse for a reason that others may see otherwise: recording it keeps those from carrying the command out."""
        self._remember(RecentConflict(command.command_id, self._position, command.digest, reason))
        return refusal(reason)

    def _remember(self, entry: RecentConflict) -> None:
        if self._documents and self._request_bytes(conflict=entry) > self._limits.batch_bytes_max:
            self._close()
        self._conflicts.add(entry)
        self._unrecorded = True

    def _accept(self, command: PreparedCommand) -> Accepted:
        count = len(command)
        first, last = Position(self._position + 1), Position(self._position + count)
        entry = RecentCommand(command.command_id, first, last, command.digest)
        added = sum(
            command.event_bytes(index, Position(first + index)) + CREATE_BYTES
            for index in range(min(count, self._limits.batch_operations_max))
        )
        # One event is never split: where the store took less than was expected, it is tried alone, past the limit.
        if count == 1 or self._fits(entry, count, added, alone=True):
            if self._documents and not self._fits(entry, count, added):
                self._close()
            self._documents.extend(command.event_document(index, Position(first + index)) for index in range(count))
            self._event_bytes += added
            self._commands += 1
            self._record(entry)
        else:
            self._append_large(command, entry)
        return Accepted(first, last)

    def _append_large(self, command: PreparedCommand, entry: RecentCommand) -> None:
        if self._documents:
            self._close()
        # Conflicts that no batch has recorded yet are recorded when the large append begins.
        before = self._head()
        self._record(entry)
        self._steps.append(LargeAppend(before=before, command=command, head=self._head()))
        self._open()

    def _record(self, entry: RecentCommand) -> None:
        self._position = entry.last
        if self._recent.add(entry):
            self._drop_old_conflicts()

    def _fits(self, entry: RecentCommand, events: int, added: int, *, alone: bool = False) -> bool:
        """Whether a command fits into the batch being filled or, `alone`, into a new one."""
        operations = 1 + events + (0 if alone else len(self._documents))
        size = self._request_bytes(command=entry) + added - (self._event_bytes if alone else 0)
        return operations <= self._limits.batch_operations_max and size <= self._limits.batch_bytes_max

    def _request_bytes(self, *, command: RecentCommand | None = None, conflict: RecentConflict | None = None) -> int:
        """The size of the request so far, with `command` or `conflict` in the head if given."""
        position = command.last if command is not None else self._position
        recent = self._recent.encoded_bytes + (self._recent.growth(command) if command is not None else 0)
        conflicts = self._conflicts.encoded_bytes + (self._conflicts.growth(conflict) if conflict is not None else 0)
        if conflicts:
            conflicts += _CONFLICTS_FIELD_BYTES
        head = self._bare_head_bytes + len(str(position)) - 1 + recent + conflicts
        return REQUEST_BYTES + REPLACE_HEAD_BYTES + head + self._event_bytes

    def _drop_old_conflicts(self) -> None:
        """Forget the conflicts that are older than every command in the window: they have lasted as long."""
        oldest = self._recent.oldest()
        while oldest and (conflict := self._conflicts.oldest()) and conflict.actual < oldest.first - 1:
            self._conflicts.drop_oldest()

    def _open(self) -> None:
        """Begin a new batch on the head as it would now be."""
        self._before = self._position
        self._documents: list[Document] = []
        self._event_bytes = 0
        self._commands = 0
        self._unrecorded = False

    def _close(self) -> None:
        """Turn what was collected into a step."""
        step = AppendBatch(
            before=self._before,
            head=self._head(),
            events=tuple(self._documents),
            commands=self._commands,
            request_bytes=self._request_bytes(),
        )
        assert step.head.position == step.before + len(step.events), "each event moves the head by one"
        self._steps.append(step)
        self._open()

    def _head(self) -> Head:
        """The head as it would now be."""
        return Head(
            position=self._position,
            pending=self._pending,
            recent=self._recent.entries(),
            conflicts=self._conflicts.entries(),
        )


def is_expected(expected: Expected, position: Position) -> bool:
    """Tell whether a head at `position` is what the producer believes in."""
    match expected:
        case "any":
            return True
        case "empty":
            return position == EMPTY
        case "exists":
            return position > EMPTY
        case int():
            return position == expected
        case _:
            assert_never(expected)


def command_id_reused(command_id: CommandId) -> Refused:
    """The verdict on a command whose id belongs to another command."""
    problem = Problem(
        "commandId",
        f"{command_id!r} was already used for a command with another content",
        "give each command an id of its own; send a command again only unchanged",
    )
    return Refused(RejectionCode.COMMAND_ID_REUSED, problem)
