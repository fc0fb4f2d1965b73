"""One group of deliveries from intake to settlement: commit, reply, complete, in this order."""

import hashlib
from collections.abc import Sequence

import msgspec
import structlog

from schemas.codec import encode_reply
from schemas.keys import BrookKey, reply_message_id
from schemas.problems import Problem
from schemas.replies import RejectionCode, Reply, rejected
from schemas.types import CommandId
from worker.handlers.append import AppendHandler, GroupResult
from worker.handlers.brook import BrookState
from worker.protocol.verdicts import reply_to
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
from worker.sessions.intake import Intake, Taken, TurnedAway, reply_content_type
from worker.storage.base import ContradictionError, StoreUnavailableError

log = structlog.get_logger()

Properties = dict[str, str | int | float]


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one delivery. Without a reply, none is sent."""

    reply: Reply | None
    settlement: Settlement
    properties: Properties = {}


class GroupProcessor:
    """Works through groups. Holds no state between them but what is in the given brooks."""

    def __init__(self, intake: Intake, handler: AppendHandler, replies: Replies) -> None:
        self._intake = intake
        self._handler = handler
        self._replies = replies

    async def process(
        self, session: CommandSession, brooks: dict[BrookKey, BrookState], deliveries: Sequence[Delivery]
    ) -> None:
        """Apply, reply to and settle `deliveries`.

        Guarantee: nothing is settled before its reply is with the broker, no reply is sent before what it says is
        durable. When it raises, what is unsettled comes again and gets the same replies. A delivery that meets a
        bug is abandoned alone.

        Raises StoreError, BrokerUnavailableError or SessionLostError.
        """
        outcomes = await self._outcomes(brooks, deliveries)
        replies = [
            self._outgoing(delivery, outcome.reply, outcome.properties)
            for delivery, outcome in zip(deliveries, outcomes, strict=True)
            if outcome.reply is not None and _reply_session(delivery)
        ]
        if replies:
            await self._replies.send(replies)
        await session.settle(
            [(delivery, outcome.settlement) for delivery, outcome in zip(deliveries, outcomes, strict=True)]
        )

    async def _outcomes(self, brooks: dict[BrookKey, BrookState], deliveries: Sequence[Delivery]) -> list[_Outcome]:
        """One outcome for each delivery, in order."""
        outcomes: list[_Outcome | None] = [None] * len(deliveries)
        taken: dict[BrookKey, list[tuple[int, Taken]]] = {}
        for index, delivery in enumerate(deliveries):
            match self._take(delivery):
                case Taken() as one:
                    taken.setdefault(one.key, []).append((index, one))
                case TurnedAway(reply=reply, settlement=settlement):
                    _log_turned_away(delivery, reply.code, settlement)
                    outcomes[index] = _Outcome(reply=reply, settlement=settlement)
                case None:
                    outcomes[index] = _Outcome(reply=None, settlement=Abandon())
        for key, group in taken.items():
            brook = brooks.setdefault(key, BrookState(key))
            decided = await self._append(brook, [one for _, one in group])
            for (index, _), outcome in zip(group, decided, strict=True):
                outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _take(self, delivery: Delivery) -> Taken | TurnedAway | None:
        """Intake; None when it met a bug."""
        try:
            return self._intake.take(delivery)
        except Exception:
            log.exception("command.failed", session=delivery.session_id, message_id=delivery.message_id)
            return None

    async def _append(self, brook: BrookState, group: Sequence[Taken]) -> list[_Outcome]:
        """Append the commands of one brook. Where they meet a bug together, find the one that it is in."""
        redelivered = frozenset(one.command.command_id for one in group if one.delivery.delivery_count > 0)
        try:
            result = await self._handler.append(brook, [one.command for one in group], redelivered)
            return _decided(brook.key, group, result)
        except ContradictionError as error:
            # For an operator: the reason and the remedy are the story, a traceback would hide them.
            log.error("brook.contradiction", brook=str(brook.key), reason=error.reason, remedy=error.remedy)  # noqa: TRY400
            return [_contradiction(one, error) for one in group]
        except StoreUnavailableError:
            raise
        except Exception:
            if len(group) > 1:
                log.warning("group.isolating", brook=str(brook.key), commands=len(group))
                return [outcome for one in group for outcome in await self._append(brook, [one])]
            log.exception("command.failed", brook=str(brook.key), command=group[0].command.command_id)
            return [_Outcome(reply=None, settlement=Abandon())]

    def _outgoing(self, delivery: Delivery, reply: Reply, properties: Properties) -> OutgoingReply:
        """The reply as a message. Its id is fixed by the command's, so that the broker can drop a repetition."""
        content_type = reply_content_type(delivery)
        known = reply.command_id or delivery.message_id or hashlib.sha256(delivery.body or b"").hexdigest()
        return OutgoingReply(
            address=self._intake.reply_address(delivery),
            body=encode_reply(reply, content_type),
            content_type=content_type,
            message_id=reply_message_id(CommandId(known)),
            correlation_id=delivery.message_id or known,
            session_id=_reply_session(delivery),
            properties={"deliveryCount": delivery.delivery_count, **properties},
        )


def _reply_session(delivery: Delivery) -> str:
    """The sender's reply session, else the brook's; empty where neither is known and no reply can be routed."""
    return delivery.reply_to_session_id or delivery.session_id or ""


def _decided(key: BrookKey, group: Sequence[Taken], result: GroupResult) -> list[_Outcome]:
    _log_committed(key, result)
    shared: Properties = {"plans": result.plans, "groupCommands": len(group), "groupRequestCharge": result.charge_ru}
    outcomes = []
    for one, verdict in zip(group, result.verdicts, strict=True):
        properties = dict(shared)
        if (facts := result.batches.get(one.command.command_id)) is not None:
            properties |= {
                "requestCharge": facts.charge_ru,
                "attempts": facts.attempts,
                "batchCommands": facts.commands,
                "batchEvents": facts.events,
                "batchBytes": facts.request_bytes,
            }
        reply = reply_to(one.command.command_id, verdict)
        outcomes.append(_Outcome(reply=reply, settlement=Complete(), properties=properties))
    return outcomes


def _contradiction(one: Taken, error: ContradictionError) -> _Outcome:
    problem = Problem("brook", error.reason, error.remedy)
    return _Outcome(
        reply=rejected(one.command.command_id, RejectionCode.CONTRADICTION, problem),
        settlement=DeadLetter(RejectionCode.CONTRADICTION, str(problem)[:1024]),
    )


def _log_committed(key: BrookKey, result: GroupResult) -> None:
    batches = {id(facts): facts for facts in result.batches.values()}.values()
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
