"""Kills under load, and the proof that nothing came of them."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio

from schemas.keys import BrookKey
from schemas.replies import Appended
from tests.chaos.checks import findings
from tests.chaos.crew import Crew, Toll, faults
from tests.chaos.load import NAME, Producer, as_command
from tests.support.brooks import command
from tests.support.site import Place, Replies, running_site
from tests.support.waiting import wait_until

BROOKS: Final = 40
DRAIN_S: Final = 120.0


@dataclass
class Outcome:
    """What was found, and the figures."""

    toll: Toll = field(default_factory=Toll)
    findings: list[str] = field(default_factory=list)
    commands: int = 0
    large: int = 0
    replies: int = 0
    events: int = 0
    duration_s: float = 0.0


async def chaos(kills: int, seed: int, tell: Callable[[str], None], *, brooks: int = BROOKS) -> Outcome:
    """Send, kill, drain, compare. Everything that it starts is gone afterwards."""
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        async with running_site(Path(folder), seed=seed) as site:
            place = site.place()
            async with place.client() as (client, replies):
                producer = Producer(client, replies, seed=seed, brooks=brooks)
                keys = [BrookKey(NAME, str(number)) for number in range(brooks)]
                crew = Crew(place, producer, keys, seed)
                outcome = Outcome(toll=crew.toll)
                try:
                    await _storm(place, crew, producer, kills, tell)
                    await _calm(place, producer, replies, outcome)
                    outcome.findings += await findings(place, keys, producer.sent, replies)
                    outcome.findings += await _none_is_blocked(place, crew, keys)
                except* AssertionError as group:
                    outcome.findings += map(str, leaves(group))
                    outcome.findings.append(f"the queues then: {await place.control.entities()}")
                finally:
                    with anyio.CancelScope(shield=True):
                        await crew.release()
    outcome.commands = len(producer.sent)
    outcome.large = sum(len(one["events"]) > 99 for one in producer.sent)
    outcome.replies = replies.count
    outcome.events = sum(map(_appended_events, (found[0].reply for found in replies.by_command.values())))
    outcome.duration_s = time.monotonic() - started_s
    return outcome


async def _storm(place: Place, crew: Crew, producer: Producer, kills: int, tell: Callable[[str], None]) -> None:
    """Load, faults and kills at once; over when every brook that a killed worker had in hand has gone on.

    Raises an exception group with AssertionErrors when one of them has not within two minutes.
    """
    await crew.muster()
    for rule in faults(place.command_queue, place.reply_queue):
        await place.control.add_rule(rule)

    def on_kill(number: int) -> None:
        if number % 10 == 0 or number == kills:
            tell(f"{number} of {kills} kills, {len(producer.sent):,} commands sent")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(producer.run)
        disturbances = anyio.CancelScope()

        async def disturb() -> None:
            with disturbances:
                await crew.disturb()

        tasks.start_soon(disturb)
        await crew.kill(kills, tasks, on_kill)
        disturbances.cancel()
        producer.stop()
        await place.control.clear_rules()


async def _calm(place: Place, producer: Producer, replies: Replies, outcome: Outcome) -> None:
    """Without faults, everything comes to its end."""
    try:
        await replies.to_each([as_command(one) for one in producer.sent], DRAIN_S)
        await wait_until(place.is_drained, "the command queue is empty", DRAIN_S)
    except AssertionError as error:
        outcome.findings.append(str(error))


async def _none_is_blocked(place: Place, crew: Crew, keys: list[BrookKey]) -> list[str]:
    """One more command to each brook goes through; then the workers end in order and hold nothing."""
    found = []
    heads = {key: await place.store.head_position(key) for key in keys}
    last = [command(command_id=f"last-{key}", key=key, expected=heads[key]) for key in keys]
    async with place.client() as (client, replies):
        await client.send_many(last)
        await replies.to_each(last, DRAIN_S)
        for one in last:
            reply = replies.by_command[one.command_id][0].reply
            if not (isinstance(reply, Appended) and reply.first_position == heads[one.brook] + 1):
                found.append(f"brook {one.brook}: the last command got {reply}")
        await wait_until(place.is_drained, "the command queue is empty", DRAIN_S)
    if any(codes := await crew.dismiss()):
        found.append(f"the workers ended with {codes}")
    if held := await place.held_leases():
        found.append(f"leases are still held: {held}")
    return found


def leaves(group: BaseExceptionGroup[AssertionError]) -> Iterator[BaseException]:
    """The errors themselves."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def _appended_events(reply: object) -> int:
    return reply.last_position - reply.first_position + 1 if isinstance(reply, Appended) else 0
