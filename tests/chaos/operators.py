"""Operators at work while commands come in: commands are put aside, and sent again by `brook-worker dead-letter`."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from schemas.commands import AppendCommand
from schemas.keys import BrookKey, partition_key, session_id_for
from schemas.replies import Appended
from tests.support.brooks import command
from tests.support.operators import brook_worker, running_command
from tests.support.places import Replies
from tests.support.waiting import wait_until
from worker.configuration import variable

if TYPE_CHECKING:
    from tests.chaos.trial import Trial

PUT_ASIDE: Final = 8
LETTERS_S: Final = 60.0


async def dead_letters_and_back(trial: Trial, rounds: int) -> None:
    """Commands of a brook whose documents contradict each other are put aside, and resubmitted once that is mended.

    The first `resubmit` of each round is killed, and so is a worker.
    """
    buckets = trial.setup.buckets
    for number in range(rounds):
        key = BrookKey("put-aside", str(number))
        async with trial.place.client(session_buckets=buckets) as (client, replies):
            first = command(command_id=f"first-{number}", key=key)
            await client.send(first)
            await replies.to_each([first])
            stray = {"id": "1", "type": "event", "position": 1, "brookPartitionKey": partition_key(key)}
            await trial.place.container.create_item(stray)
            commands = [command(command_id=f"aside-{number}-{index}", key=key) for index in range(PUT_ASIDE)]
            await client.send_many(commands)
            await replies.to_each(commands)
            await wait_until(partial(_are_aside, trial, commands), "the commands are put aside", LETTERS_S)
            await trial.place.container.delete_item("1", partition_key(key))
            await _resubmit(trial, session_id_for(key, buckets), commands)
            await _all_took_effect(trial, key, [first, *commands], replies)


async def _are_aside(trial: Trial, commands: list[AppendCommand]) -> bool:
    return {one.command_id for one in commands} <= (await trial.place.dead_letters()).keys()


async def _resubmit(trial: Trial, session_id: str, commands: list[AppendCommand]) -> None:
    """Until none is left: once killed, then with a worker killed meanwhile."""
    settings = trial.place.settings()
    variables = {variable(name): value for name, value in settings.items()}
    words = ("dead-letter", "resubmit", "--session", session_id, "--duplicate-window", "0", "--json")
    async with running_command(*words, variables=variables) as process:
        with anyio.move_on_after(trial.chance.uniform(0.8, 3.0)):
            await process.ended()
        process.send_signal(signal.SIGKILL)
    await trial.kill(trial.chance.choice(trial.hands))
    await trial.break_leases()
    await trial.hire()
    reports: list[str] = []

    async def none_is_left() -> bool:
        done = await brook_worker(*words, variables=variables)
        reports.append(f"{done.code} {done.out[-300:]} {done.err[-300:]}")
        letters = await trial.place.dead_letters()
        return not letters.keys() & {str(one.command_id) for one in commands}

    # What the killed run had under lock comes free when its lock ends.
    await wait_until(none_is_left, f"no letter is left, the last reports: {reports[-2:]}", LETTERS_S)


async def _all_took_effect(trial: Trial, key: BrookKey, commands: list[AppendCommand], replies: Replies) -> None:
    """In order, once each; the last reply to each says where."""

    def all_appended() -> bool:
        return all(isinstance(replies.by_command[one.command_id][-1].reply, Appended) for one in commands)

    await wait_until(all_appended, f"the resubmitted commands of {key} are answered", LETTERS_S)
    found = [event.command_id for event in await trial.place.events(key)]
    if found != [one.command_id for one in commands]:
        trial.record.findings.append(f"brook {key}: has the events of {found}")
