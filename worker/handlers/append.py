"""Applies a group of commands to one brook: load, recover, plan, write, and plan anew whenever it turns out moved."""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, assert_never

import anyio
import msgspec

from schemas.types import CommandId
from worker.guess import Guess
from worker.handlers.brook import BatchFacts, BrookState, BrookWriter, settled_at
from worker.handlers.large import append_large
from worker.handlers.lookup import Lookup
from worker.handlers.recovery import recover
from worker.protocol.model import Limits, StoredHead
from worker.protocol.pending import StoredBrook
from worker.protocol.plan import AppendBatch, LargeAppend, Plan, plan
from worker.protocol.prepare import PreparedCommand
from worker.protocol.verdicts import Accepted, Verdict
from worker.protocol.writes import append_events
from worker.storage.base import BrookStore, ContradictionError, StoreUnavailableError
from worker.telemetry.tracing import tracing

_REPLAN_PAUSE_S: Final = 0.01


class BrookContendedError(StoreUnavailableError):
    """Other writers moved the brook each time that it was planned on. Nothing is lost; try again later."""


class GroupResult(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict for each command, in order, all of them durable.

    `batches` has the facts of the batches that carried a command out, by command id; a command that took effect
    before has none. `charge_ru` is the cost of the whole group, reads and refused writes included.
    """

    verdicts: tuple[Verdict, ...]
    batches: Mapping[CommandId, BatchFacts]
    plans: int
    charge_ru: float


class AppendHandler:
    """Appends groups of commands. Holds no state between groups but what is in the given BrookState.

    `pause` waits a number of seconds between two plans of one group.
    """

    def __init__(
        self,
        store: BrookStore,
        limits: Limits,
        *,
        replans_max: int,
        lookup: Lookup = Lookup.ALWAYS,
        pause: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._store = store
        self._limits = limits
        self._replans_max = replans_max
        self._lookup = lookup
        self._pause = pause
        self._new_brooks = Guess()

    @property
    def remembered_max(self) -> int:
        """How many commands, and how many conflicts, the head of a brook tells of."""
        return self._limits.recent_commands_max

    async def append(
        self, brook: BrookState, commands: Sequence[PreparedCommand], redelivered: frozenset[CommandId] = frozenset()
    ) -> GroupResult:
        """Decide on `commands` in order and make the accepted ones durable.

        Guarantee: when it returns, each verdict is true of the stored brook. When it raises, any prefix of the
        group's batches may have taken effect; the same commands given again get the verdicts they would have got.
        A large append that somebody left is completed or rolled back on the way. `redelivered` are the commands
        that may have been decided before.

        Raises StoreUnavailableError, StoreRefusedError or ContradictionError.
        """
        run = _Run(self._store, brook, commands, self._limits, lookup=self._lookup, new_brooks=self._new_brooks)
        doubtful = run.ids if self._lookup is Lookup.ALWAYS else redelivered | run.withheld
        fruitless = 0
        try:
            while fruitless <= self._replans_max:
                decided = await run.once(doubtful)
                if decided is not None:
                    return GroupResult(
                        verdicts=decided.verdicts, batches=run.batches, plans=run.plans, charge_ru=run.charge_ru
                    )
                # From here on any command may be in the brook by a write whose answer was lost.
                doubtful = run.ids
                if run.presumed_wrongly:
                    continue
                fruitless = 0 if run.learned else fruitless + 1
                await self._pause(random.random() * _REPLAN_PAUSE_S * fruitless)
        except BaseException:
            brook.forget()
            raise
        brook.forget()
        raise BrookContendedError(f"brook {brook.key}: moved by other writers {fruitless} times in a row")


class _Run:
    """One group on its way through loads, plans and writes."""

    def __init__(
        self,
        store: BrookStore,
        brook: BrookState,
        commands: Sequence[PreparedCommand],
        limits: Limits,
        *,
        lookup: Lookup,
        new_brooks: Guess,
    ) -> None:
        self._store = store
        self._brook = brook
        self._new_brooks = new_brooks
        self._presumed = False
        self._commands = commands
        self._writer = BrookWriter(store, brook, limits)
        self._lookup = lookup
        self.ids = frozenset(command.command_id for command in commands)
        # Refused unless they took effect before: that has to be known, however seldom a command is sent again.
        self.withheld = frozenset(command.command_id for command in commands if command.withheld is not None)
        self.batches: dict[CommandId, BatchFacts] = {}
        self.plans = 0

    @property
    def charge_ru(self) -> float:
        """What the group has cost so far."""
        return self._writer.charge_ru

    @property
    def learned(self) -> bool:
        """Whether the last plan came to something: a write took effect, or the limits are narrower now."""
        return self._writer.progressed or self._writer.narrowed

    @property
    def presumed_wrongly(self) -> bool:
        """Whether the last plan was on a brook taken for a new one, and came to nothing."""
        return self._presumed and not self._writer.progressed

    async def once(self, doubtful: frozenset[CommandId]) -> Plan | None:
        """Recover, plan and carry out; None when the brook was not as planned on and has to be planned anew.

        A brook never looked at is taken for a new one where that is likely: its head is created unread. If it exists
        after all, that is refused.
        """
        self.plans += 1
        self._writer.progressed = self._writer.narrowed = False
        untouched = not self._brook.was_looked_at
        self._presumed = untouched and self._is_probably_new()
        if self._presumed:
            self._brook.presume_new()
        stored = self._writer.stored or await self._load()
        try:
            return await self._once(stored, doubtful)
        finally:
            if self.presumed_wrongly:  # also where the store looked at no more than the size
                self._writer.forget()
            if untouched:
                self._new_brooks.note(was_so=stored.head.etag is None and not self.presumed_wrongly)

    async def _once(self, stored: StoredBrook, doubtful: frozenset[CommandId]) -> Plan | None:
        if not stored.is_settled:
            await recover(self._store, self._writer, self._commands)
            return None
        known = await self._lookup.decided_before(self._store, stored.head, self._commands, doubtful)
        with tracing.part("plan"):
            decided = plan(stored.head, self._commands, self._writer.limits, known)
        if self._presumed and not decided.steps:  # nothing would show whether the brook is as presumed
            self._brook.was_looked_at = True
            return None
        carried = iter(
            [
                command
                for command, verdict in zip(self._commands, decided.verdicts, strict=True)
                if isinstance(verdict, Accepted)
            ]
        )
        for step in decided.steps:
            match step:
                case AppendBatch():
                    facts = await self._write(step)
                    in_step = step.commands
                case LargeAppend():
                    facts = await append_large(self._writer, step)
                    in_step = 1
                case _:
                    assert_never(step)
            if facts is None:
                return None
            for _ in range(in_step):
                self.batches[next(carried).command_id] = facts
        return decided

    def _is_probably_new(self) -> bool:
        """What the first command expects, or that brooks not looked at before were new of late."""
        match self._commands[0].expected if self._commands else None:
            case "empty":
                return True
            case "any":
                return bool(self._new_brooks)
            case _:
                return False

    async def _load(self) -> StoredBrook:
        blocked_on = self._writer.blocked_on
        stored = await self._writer.load()
        if blocked_on is not None and stored == blocked_on and stored.is_settled:
            position = stored.head.head.position
            raise ContradictionError(
                self._writer.key,
                f"an event stands past the head, which is at {position}, and no head-pending tells of it",
                "find out which writer made it; delete the events past the head if none of them is wanted",
            )
        return stored

    async def _write(self, step: AppendBatch) -> BatchFacts | None:
        """Carry out one step on the head as it now stands; None when that was not the head any more."""
        stored = self._writer.stored
        if stored is None:  # the step before took effect, but the store did not say what the head's state is now
            return None
        assert stored.head.head.position == step.before, "a step builds on the head that it was planned on"
        operations = append_events(stored.head, step.head, step.events)
        result = await self._writer.write(operations, step.request_bytes)
        if result is None:
            return None
        etag = result.etags[0]
        head = StoredHead(key=stored.key, head=step.head, etag=etag)
        self._writer.took_effect(settled_at(head) if etag is not None else None)
        return BatchFacts(
            commands=step.commands,
            events=len(step.events),
            request_bytes=step.request_bytes,
            charge_ru=result.charge_ru,
            attempts=result.attempts,
        )
