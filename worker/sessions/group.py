"""One group of deliveries from intake to settlement: commit, reply, complete, in this order."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import anyio
import msgspec
import structlog

from schemas.guards import Guards
from schemas.keys import BrookKey
from schemas.problems import Problem
from schemas.replies import ConcurrencyConflict, Rejected, RejectionCode, Reply, rejected
from worker.claims.resolve import Claims, ReadBlob
from worker.handlers.append import AppendHandler, GroupResult
from worker.handlers.brook import BatchFacts, BrookState
from worker.protocol.verdicts import AlreadyAppended, reply_to
from worker.protocol.withheld import WITHHELD
from worker.sessions.answers import Properties, dead_letter, outgoing, reply_session
from worker.sessions.base import (
    Abandon,
    CommandSession,
    Complete,
    DeadLetter,
    Delivery,
    OutgoingReply,
    Replies,
    Settlement,
)
from worker.sessions.brooks import Brooks
from worker.sessions.causes import cause_of
from worker.sessions.intake import Claimed, Intake, Taken, TurnedAway
from worker.sessions.outcomes import Finishing, Told, abandoned, deciding, tell_group, told, traced
from worker.storage.base import ContradictionError, StoreUnavailableError

log = structlog.get_logger()

TOGETHER_BYTES_MAX: Final = 16_000_000
"""Once the commands that are decided together take so much in memory, the rest of the group waits its turn."""


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one delivery, durably. Without a reply, none is sent.

    `is_conflict` says that nothing but the head's window tells of it when its command comes again. `blob` is where its
    events were read from.
    """

    delivery: Delivery
    settlement: Settlement
    reply: OutgoingReply | None = None
    is_conflict: bool = False
    told: Told = Told()
    blob: ReadBlob | None = None


class GroupProcessor:
    """Works through groups. Holds no state between them but what is in the given brooks."""

    def __init__(
        self,
        intake: Intake,
        handler: AppendHandler,
        replies: Replies,
        *,
        claims: Claims | None = None,
        brooks_concurrency_max: int = 16,
    ) -> None:
        self._intake = intake
        self._handler = handler
        self._replies = replies
        self._claims = claims or Claims(None, Guards())
        self._brooks_concurrency_max = brooks_concurrency_max

    @property
    def remembered_max(self) -> int:
        """How many conflicts the head of a brook tells of."""
        return self._handler.remembered_max

    async def decide(self, brooks: Brooks, deliveries: Sequence[Delivery], *, doubtful: bool) -> list[Decided]:
        """Decide on `deliveries` from the first on, and make it durable: in order, at least one, perhaps not all.

        A command with a claim is decided on alone: a large append takes its time, for which what comes before it is
        not to wait. `doubtful` says that any of them may have been decided before. A delivery that meets a bug is
        abandoned alone. Raises StoreError.
        """
        found = self._take_together(deliveries)
        if isinstance(found, Claimed):
            with deciding(deliveries[:1]):
                return [await self._append_claimed(brooks.state_of(found.key), found, doubtful=doubtful)]
        together = deliveries[: len(found)]
        with deciding(together):
            return await self._decide(brooks, together, found, doubtful=doubtful)

    def _take_together(self, deliveries: Sequence[Delivery]) -> Claimed | list[Taken | TurnedAway | None]:
        """Intake of those that are decided on at once: a command with a claim, or all before the next such one.

        Fewer where their events take much memory: a sender can make them take seventy times what the messages do.
        """
        found: list[Taken | TurnedAway | None] = []
        memory_bytes = 0
        for delivery in deliveries:
            one = self._take(delivery)
            if isinstance(one, Claimed):
                return found or one
            found.append(one)
            memory_bytes += one.memory_bytes if isinstance(one, Taken) else 0
            if memory_bytes > TOGETHER_BYTES_MAX:
                break
        return found

    async def _decide(
        self,
        brooks: Brooks,
        deliveries: Sequence[Delivery],
        found: Sequence[Taken | TurnedAway | None],
        *,
        doubtful: bool,
    ) -> list[Decided]:
        decided: dict[int, Decided] = {}
        taken: dict[BrookKey, list[tuple[int, Taken]]] = {}
        for index, (delivery, one) in enumerate(zip(deliveries, found, strict=True)):
            match one:
                case Taken():
                    taken.setdefault(one.key, []).append((index, one))
                case TurnedAway(reply=reply, settlement=settlement):
                    _log_turned_away(delivery, reply.code, settlement)
                    decided[index] = self._replied(delivery, settlement, reply, {})
                case None:
                    decided[index] = _abandoned(delivery)

        async def append(key: BrookKey, group: list[tuple[int, Taken]]) -> None:
            outcomes = await self._append(brooks.state_of(key), [one for _, one in group], doubtful=doubtful)
            decided.update(zip((index for index, _ in group), outcomes, strict=True))

        await _bounded([partial(append, key, group) for key, group in taken.items()], self._brooks_concurrency_max)
        return [decided[index] for index in sorted(decided)]

    async def finish(self, session: CommandSession, decided: Sequence[Decided]) -> None:
        """Reply to and settle what was decided.

        Guarantee: nothing is settled before its reply is with the broker. When it raises, what is unsettled comes
        again and gets the same replies. Raises BrokerUnavailableError or SessionLostError.
        """
        replies = [one.reply for one in decided if one.reply is not None]
        finishing = Finishing([one.delivery for one in decided], [one.told for one in decided])
        with finishing.under_way():
            if replies:
                await self._replies.send(replies)
            finishing.replied()
            await session.settle([(one.delivery, one.settlement) for one in decided])
        blobs = [one.blob for one in decided if one.blob is not None and isinstance(one.settlement, Complete)]
        await self._claims.clean_up(blobs)

    def _take(self, delivery: Delivery) -> Taken | Claimed | TurnedAway | None:
        """Intake; None when it met a bug."""
        try:
            return self._intake.take(delivery)
        except Exception:
            log.exception("command.failed", session=delivery.session_id, message_id=delivery.message_id)
            return None

    async def _append_claimed(self, brook: BrookState, one: Claimed, *, doubtful: bool) -> Decided:
        try:
            async with self._claims.resolved(one.command, one.default_time) as found:
                if isinstance(found.command, Rejected):
                    _log_turned_away(one.delivery, found.command.code, Complete())
                    return self._replied(one.delivery, Complete(), found.command, {})
                taken = Taken(delivery=one.delivery, key=one.key, command=found.command)
                (decided,) = await self._append(brook, [taken], doubtful=doubtful)
                # Rejected for what it asks for, which is not on record, it is told so again while the blob is there.
                is_done = decided.told.code is None or decided.told.code in WITHHELD
                return msgspec.structs.replace(decided, blob=found.blob if is_done else None)
        except StoreUnavailableError:
            raise
        except Exception:
            log.exception("command.failed", brook=str(brook.key), command=one.command.command_id)
            return _abandoned(one.delivery)

    async def _append(self, brook: BrookState, group: Sequence[Taken], *, doubtful: bool) -> list[Decided]:
        """Append the commands of one brook. Where they fail together, find out which do: others may be durable."""
        redelivered = frozenset(one.command.command_id for one in group if doubtful or one.delivery.may_be_decided)
        try:
            result = await self._handler.append(brook, [one.command for one in group], redelivered)
            return self._appended(brook.key, group, result)
        except StoreUnavailableError:
            raise
        except Exception as error:
            if len(group) > 1:
                log.warning("group.isolating", brook=str(brook.key), commands=len(group))
                return [found for one in group for found in await self._append(brook, [one], doubtful=True)]
            if isinstance(error, ContradictionError):
                # For an operator: the reason and the remedy are the story, a traceback would hide them.
                log.error("brook.contradiction", brook=str(brook.key), reason=error.reason, remedy=error.remedy)  # noqa: TRY400
                return [self._contradiction(group[0], error)]
            log.exception("command.failed", brook=str(brook.key), command=group[0].command.command_id)
            return [_abandoned(group[0].delivery)]

    def _appended(self, key: BrookKey, group: Sequence[Taken], result: GroupResult) -> list[Decided]:
        batches = list({id(facts): facts for facts in result.batches.values()}.values())
        _log_committed(key, result, batches)
        tell_group(len(group), batches, result.plans)
        # The group's facts go with its first reply only: each property takes the client three microseconds a reply.
        properties: Properties = {
            "plans": result.plans,
            "groupCommands": len(group),
            "groupRequestCharge": result.charge_ru,
        }
        decided = []
        for one, verdict in zip(group, result.verdicts, strict=True):
            if (facts := result.batches.get(one.command.command_id)) is not None:
                properties |= {
                    "requestCharge": facts.charge_ru,
                    "attempts": facts.attempts,
                    "batchCommands": facts.commands,
                    "batchEvents": facts.events,
                }
            reply = reply_to(one.command.command_id, verdict)
            before = isinstance(verdict, AlreadyAppended)
            decided.append(self._replied(one.delivery, Complete(), reply, properties, before=before))
            properties = {}
        return decided

    def _contradiction(self, one: Taken, error: ContradictionError) -> Decided:
        problem = Problem("brook", error.reason, error.remedy)
        reply = rejected(one.command.command_id, RejectionCode.CONTRADICTION, problem)
        return self._replied(one.delivery, dead_letter(RejectionCode.CONTRADICTION, problem), reply, {})

    def _replied(
        self,
        delivery: Delivery,
        settlement: Settlement,
        reply: Reply,
        properties: Properties,
        *,
        before: bool = False,
    ) -> Decided:
        """The decision with its reply, if it can be routed anywhere. `before`: the command took effect before."""
        trace, context = traced(delivery)
        if context:
            properties = {**properties, **context}
        message = None
        if reply_session(delivery):
            message = outgoing(delivery, reply, self._intake.reply_address(delivery), properties)
        is_conflict = isinstance(reply, ConcurrencyConflict) or (isinstance(reply, Rejected) and reply.code in WITHHELD)
        about = told(delivery, reply, settlement, trace, before=before)
        return Decided(delivery=delivery, settlement=settlement, reply=message, is_conflict=is_conflict, told=about)


async def _bounded(tasks: Sequence[Callable[[], Awaitable[None]]], concurrency_max: int) -> None:
    """Run all tasks, at most `concurrency_max` at once; without a task group's cost where there is only one."""
    if len(tasks) == 1:
        await tasks[0]()
        return
    remaining = iter(tasks)

    async def work() -> None:
        for task in remaining:
            await task()

    try:
        async with anyio.create_task_group() as group:
            for _ in range(min(concurrency_max, len(tasks))):
                group.start_soon(work)
    except BaseExceptionGroup as raised:
        raise cause_of(raised) from raised


def _abandoned(delivery: Delivery) -> Decided:
    return Decided(delivery=delivery, settlement=Abandon(), told=abandoned(delivery))


def _log_committed(key: BrookKey, result: GroupResult, batches: Sequence[BatchFacts]) -> None:
    if batches:
        log.info(
            "append.committed",
            brook=str(key),
            commands=sum(facts.commands for facts in batches),
            event_count=sum(facts.events for facts in batches),
            batches=sum(facts.batches for facts in batches),
            plans=result.plans,
            charge_ru=round(result.charge_ru, 2),
        )


def _log_turned_away(delivery: Delivery, code: str, settlement: Settlement) -> None:
    event = "command.dead-lettered" if isinstance(settlement, DeadLetter) else "command.rejected"
    log.warning(event, session=delivery.session_id, message_id=delivery.message_id, code=code)
