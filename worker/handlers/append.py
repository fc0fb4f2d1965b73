"""Applies a group of commands to one brook: load, plan, write, and plan anew whenever the brook turns out moved."""

import random
from collections.abc import Mapping, Sequence
from typing import Final

import anyio
import msgspec

from schemas.keys import BrookKey
from schemas.types import CommandId
from worker.protocol.model import Limits, StoredHead
from worker.protocol.plan import AppendBatch, Plan, plan
from worker.protocol.prepare import PreparedCommand
from worker.protocol.verdicts import Accepted, AlreadyAppended, Verdict
from worker.protocol.writes import append_events
from worker.storage.base import (
    BrookStore,
    ContradictionError,
    Diverged,
    LoadedHead,
    StoreRefusedError,
    StoreUnavailableError,
    TooLarge,
    Written,
)

_REPLAN_PAUSE_S: Final = 0.01


class BrookContendedError(StoreUnavailableError):
    """Other writers moved the brook each time that it was planned on. Nothing is lost; try again later."""


class PendingAppendError(StoreUnavailableError):
    """A large append is under way in the brook, by a writer that this worker cannot go on from."""


class BrookState:
    """What a session knows of a brook between its groups: the head as it last stood, or nothing."""

    def __init__(self, key: BrookKey) -> None:
        self.key = key
        self.stored: StoredHead | None = None

    def forget(self) -> None:
        """The head may have moved: load it before the next decision."""
        self.stored = None


class BatchFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What one batch held and cost."""

    commands: int
    events: int
    request_bytes: int
    charge_ru: float
    attempts: int


class GroupResult(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict for each command, in order, all of them durable.

    `batches` has the facts of the batch that carried a command out, by command id; a command that took effect
    before has none. `charge_ru` is the cost of the whole group, reads and refused writes included.
    """

    verdicts: tuple[Verdict, ...]
    batches: Mapping[CommandId, BatchFacts]
    plans: int
    charge_ru: float


class AppendHandler:
    """Appends groups of commands. Holds no state between groups but what is in the given BrookState."""

    def __init__(self, store: BrookStore, limits: Limits, *, replans_max: int) -> None:
        self._store = store
        self._limits = limits
        self._replans_max = replans_max

    async def append(
        self, brook: BrookState, commands: Sequence[PreparedCommand], redelivered: frozenset[CommandId] = frozenset()
    ) -> GroupResult:
        """Decide on `commands` in order and make the accepted ones durable.

        Guarantee: when it returns, each verdict is true of the stored brook. When it raises, any prefix of the
        group's batches may have taken effect; the same commands given again get the verdicts they would have got.
        `redelivered` are those that may have been decided before.

        Raises StoreUnavailableError, StoreRefusedError or ContradictionError.
        """
        run = _Run(self._store, brook, commands, self._limits, redelivered)
        try:
            for number in range(1, self._replans_max + 2):
                decided = await run.once(first=number == 1)
                if decided is not None:
                    return GroupResult(
                        verdicts=decided.verdicts, batches=run.batches, plans=number, charge_ru=run.charge_ru
                    )
                await anyio.sleep(random.random() * _REPLAN_PAUSE_S * number)
        except BaseException:
            brook.forget()
            raise
        brook.forget()
        raise BrookContendedError(f"brook {brook.key}: moved by other writers {self._replans_max + 1} times in a row")


class _Run:
    """One group on its way through loads, plans and writes."""

    def __init__(
        self,
        store: BrookStore,
        brook: BrookState,
        commands: Sequence[PreparedCommand],
        limits: Limits,
        redelivered: frozenset[CommandId],
    ) -> None:
        self._store = store
        self._brook = brook
        self._commands = commands
        self._limits = limits
        self._redelivered = redelivered
        self._refused_on: StoredHead | None = None
        self.batches: dict[CommandId, BatchFacts] = {}
        self.charge_ru = 0.0

    async def once(self, *, first: bool) -> Plan | None:
        """Plan and carry out; None when the brook was not as planned on and has to be planned anew."""
        stored = self._brook.stored or await self._load()
        doubtful = self._redelivered if first else frozenset(command.command_id for command in self._commands)
        decided = plan(stored, self._commands, self._limits, await self._decided_before(stored, doubtful))
        carried = iter(
            command
            for command, verdict in zip(self._commands, decided.verdicts, strict=True)
            if isinstance(verdict, Accepted)
        )
        for step in decided.steps:
            facts = await self._write(step)
            if facts is None:
                return None
            for _ in range(step.commands):
                self.batches[next(carried).command_id] = facts
        return decided

    async def _load(self) -> StoredHead:
        loaded: LoadedHead = await self._store.load(self._brook.key)
        self.charge_ru += loaded.charge_ru
        stored = loaded.stored
        if loaded.pending_exists or stored.head.pending is not None:
            raise PendingAppendError(f"brook {self._brook.key}: a large append is pending at {stored.head.position}")
        if self._refused_on is not None and stored.etag == self._refused_on.etag:
            raise ContradictionError(
                self._brook.key,
                f"a document stands past the head, which is at {stored.head.position}",
                "find out which writer made it; delete the documents past the head if none of them is wanted",
            )
        self._refused_on = None
        self._brook.stored = stored
        return stored

    async def _decided_before(
        self, stored: StoredHead, doubtful: frozenset[CommandId]
    ) -> dict[CommandId, AlreadyAppended]:
        """Look up the doubtful commands that the head's window may have outlived."""
        recent = stored.head.recent
        complete = stored.head.position < 0 or (recent and recent[0].first == 0)
        if complete or not doubtful:
            return {}
        in_window = {entry.command_id for entry in recent} | {entry.command_id for entry in stored.head.conflicts}
        found = {}
        for command_id in doubtful - in_window:
            if (positions := await self._store.find_command(self._brook.key, command_id)) is not None:
                found[command_id] = AlreadyAppended(*positions)
        return found

    async def _write(self, step: AppendBatch) -> BatchFacts | None:
        """Carry out one step on the head as it now stands; None when that was not the head any more."""
        stored = self._brook.stored
        if stored is None:  # the step before took effect, but the store did not say what the head's state is now
            return None
        assert stored.head.position == step.before, "a step builds on the head that it was planned on"
        result = await self._store.write(self._brook.key, append_events(stored, step.head, step.events))
        if isinstance(result, TooLarge):
            self._limits = self._halved(step)
            return None
        self.charge_ru += result.charge_ru
        if isinstance(result, Diverged):
            self._brook.forget()
            # The head stood as expected, and yet an event could not be created: see what a new load says.
            self._refused_on = stored if result.operation > 0 else None
            return None
        self._took_effect(stored.key, step, result)
        return BatchFacts(
            commands=step.commands,
            events=len(step.events),
            request_bytes=step.request_bytes,
            charge_ru=result.charge_ru,
            attempts=result.attempts,
        )

    def _took_effect(self, key: BrookKey, step: AppendBatch, result: Written) -> None:
        etag = result.etags[0]
        self._brook.stored = StoredHead(key=key, head=step.head, etag=etag) if etag is not None else None

    def _halved(self, step: AppendBatch) -> Limits:
        """Limits that split the step that was too large for the service."""
        try:
            return msgspec.structs.replace(self._limits, batch_bytes_max=step.request_bytes // 2)
        except ValueError as error:
            reason = f"the store takes no batch of {step.request_bytes:,} bytes; raise the limit of the service"
            raise StoreRefusedError(reason) from error
