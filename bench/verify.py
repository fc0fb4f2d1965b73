"""Whether a run did what it had to: every reply right, every brook as the replies say."""

import base64
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from bench.lab import Lab
from bench.workloads import BrookOutcome, outcomes, shares
from brook_client.messages import ReceivedReply
from schemas.commands import AppendCommand
from schemas.keys import BrookKey, partition_key
from schemas.types import CommandId
from worker.clients import brooks_container, cosmos_client

Documents = Mapping[str, list[dict[str, Any]]]

_SHOWN_MAX: Final = 5


class WrongOutcomeError(Exception):
    """A run did not do what it had to. Its figures mean nothing."""


async def read_brooks(lab: Lab) -> Documents:
    """All documents of the container by partition."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    settings = lab.worker_settings()
    async with cosmos_client(settings) as client:
        container = brooks_container(client, settings)
        async for document in container.query_items("SELECT * FROM c", max_item_count=1_000):
            found[document["brookPartitionKey"]].append(document)
    return found


def check(
    commands: Sequence[AppendCommand], replies: Sequence[ReceivedReply], stored: Documents, *, settled: int
) -> int:
    """Compare replies and stored brooks with what must come of `commands`, of which at least `settled` were settled.

    Where only part of the commands was worked on, the first ones of each brook must have been, and those alone.
    Returns how many replies came a second time, with the same content: a command that was not settled before the
    worker stopped is delivered again. Raises WrongOutcomeError.
    """
    by_brook: dict[BrookKey, list[ReceivedReply]] = defaultdict(list)
    brook_of = {command.command_id: command.brook for command in commands}
    for reply in replies:
        by_brook[brook_of[reply.command_id]].append(reply)
    findings: list[str] = []
    done = 0
    for key, outcome in outcomes(commands).items():
        deliveries = _answered(outcome, by_brook[key])
        done += deliveries
        findings += _replies_of(key, outcome, deliveries, by_brook[key])
        findings += _events_of(key, outcome, deliveries, stored.get(partition_key(key), []))
    if done < settled:
        findings.append(f"{settled} commands were settled, but {done} are answered")
    _raise(findings)
    return len(replies) - done


def check_null(commands: Sequence[AppendCommand], replies: Sequence[ReceivedReply], *, settled: int) -> int:
    """One reply to each command, and those of a brook in order; the same as `check` but for the store."""
    wanted: dict[BrookKey, list[CommandId]] = defaultdict(list)
    for command in commands:
        wanted[command.brook].append(command.command_id)
    brook_of = {command.command_id: command.brook for command in commands}
    given: dict[BrookKey, dict[CommandId, None]] = defaultdict(dict)
    for reply in replies:
        given[brook_of[reply.command_id]][reply.command_id] = None
    findings = [
        f"brook {key}: the replies are not those of its commands, in order"
        for key in wanted
        if wanted[key][: len(given[key])] != list(given[key])
    ]
    done = sum(map(len, given.values()))
    if done < settled:
        findings.append(f"{settled} commands were settled, but {done} are answered")
    _raise(findings)
    return len(replies) - done


def _answered(outcome: BrookOutcome, given: Sequence[ReceivedReply]) -> int:
    """How many of a brook's deliveries, from the first on, are answered."""
    left = Counter(reply.command_id for reply in given)
    for index, (command_id, _) in enumerate(outcome.replies):
        if not left[command_id]:
            return index
        left[command_id] -= 1
    return len(outcome.replies)


def _replies_of(key: BrookKey, outcome: BrookOutcome, deliveries: int, given: Sequence[ReceivedReply]) -> Iterator[str]:
    contents = dict(outcome.replies[:deliveries])
    for reply in given:
        if (content := contents.get(reply.command_id)) is None:
            yield f"brook {key}: a reply to {reply.command_id!r}, but none to a command before it"
        elif reply.reply != content:
            yield f"brook {key}: {reply.reply}, not {content}"


def _events_of(key: BrookKey, outcome: BrookOutcome, deliveries: int, stored: list[dict[str, Any]]) -> Iterator[str]:
    wanted = list(shares(outcome, deliveries))
    by_id = {document["id"]: document for document in stored}
    if "head-pending" in by_id:
        yield f"brook {key}: a head-pending is left"
    events = len(by_id) - len({"head", "head-pending"} & set(by_id))
    head = by_id.get("head", {}).get("position", -1)
    if events != len(wanted) or head != len(wanted) - 1:
        yield f"brook {key}: {events} events and a head at {head}, not {len(wanted)} events"
    for position, (command_id, event) in enumerate(wanted):
        document = by_id.get(str(position), {})
        as_sent = {
            "position": position,
            "commandId": command_id,
            "eventId": event.event_id,
            "eventType": event.event_type,
            "data": base64.b64encode(event.data).decode("ascii"),
        }
        if any(document.get(name) != value for name, value in as_sent.items()):
            yield f"brook {key}: position {position} is not event {event.event_id!r} as it was sent"


def _raise(findings: Sequence[str]) -> None:
    if findings:
        more = [f"... and {len(findings) - _SHOWN_MAX:,} more"] if len(findings) > _SHOWN_MAX else []
        raise WrongOutcomeError("\n".join([*findings[:_SHOWN_MAX], *more]))


def charge_ru(replies: Sequence[ReceivedReply]) -> float | None:
    """The request units per command that the replies tell of; None where they tell of none."""
    told = [
        _number(reply.facts["groupRequestCharge"]) for reply in replies if "groupRequestCharge" in reply.facts
    ]  # the first reply of each group tells of all of it
    return sum(told) / len(replies) if told else None


def _number(fact: object) -> float:
    return msgspec.convert(fact, float, strict=False)
