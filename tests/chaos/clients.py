"""Programs that wait for replies, and are killed like the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import msgspec

from schemas.keys import BrookKey
from tests.chaos.asker import Asking, Journal, commands_of, replies_in
from tests.chaos.checks import findings
from tests.chaos.crew import faults
from tests.chaos.load import NAME
from tests.support.places import Replies
from tests.support.processes import gone_at_end
from tests.support.waiting import wait_until
from tests.support.worker_process import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.chaos.trial import Trial

BROOKS: Final = range(100, 108)
"""Others than those of the producer that goes on meanwhile: each brook has one program that knows its order."""
ANSWERS: Final = 12
GROWS_S: Final = 120.0
END_S: Final = 60.0


async def asking_clients(trial: Trial, rounds: int) -> None:
    """A program that asks until it is answered is killed, frozen or cut off in silence, and a worker is killed too.

    Whatever it was told stands, and what it did not hear it is told when it asks again.
    """
    asking = Asking(
        connection_string=trial.client_connection_string,
        command_queue=trial.place.command_queue,
        reply_queue=trial.place.reply_queue,
        brooks=list(BROOKS),
        seed=trial.chance.randrange(1_000_000),
        journal=str(trial.folder / f"journal-{trial.place.command_queue}.ndjson"),
    )
    journal = Journal(Path(asking.journal))
    for rule in faults(trial.place.command_queue, trial.place.reply_queue):
        await trial.place.control.add_rule(rule)
    for number in range(rounds):
        async with _asker(trial.folder, asking) as asker:
            await _grows(journal)
            if number % 3 == 1:
                asker.send_signal(signal.SIGSTOP)
                await anyio.sleep(trial.setup.lock_s + 2)
                asker.send_signal(signal.SIGCONT)
                await _grows(journal)
            elif number % 3 == 2:
                trial.wires.client.forsake()
                await _grows(journal)
            worker = trial.chance.choice(trial.hands)
            asker.kill()
            await trial.kill(worker)
        if number % 2:
            await trial.break_leases()
        await trial.hire()
    async with _asker(trial.folder, asking) as asker:
        await _grows(journal)
        await trial.place.control.clear_rules()
        asker.send_signal(signal.SIGTERM)
        with anyio.fail_after(END_S):
            code = await asker.wait()
    if code:
        trial.record.findings.append(f"the asking program ended with {code}")
    await _compare(trial, asking)


async def _compare(trial: Trial, asking: Asking) -> None:
    replies = Replies()
    for one in replies_in(asking):
        replies.take(one)
    keys = [BrookKey(NAME, str(brook)) for brook in asking.brooks]
    trial.record.findings += await findings(trial.place, keys, list(commands_of(asking)), replies)
    journal = Journal(Path(asking.journal))
    for what, count in journal.failures().items():
        found = trial.record.findings if what.startswith(("NOT", "LATE")) else trial.record.facts
        found.append(f"the asking program was told {count} times: {what}")
    answered = journal.answered()
    trial.record.facts.append(
        f"{len(answered)} answers, {sum(one.asked > 1 for one in answered)} of them after another try,"
        f" the longest after {max(one.took_s for one in answered):.1f} s"
    )


async def _grows(journal: Journal) -> None:
    least = len(journal.answered()) + ANSWERS
    await wait_until(lambda: len(journal.answered()) >= least, f"{ANSWERS} more answers", GROWS_S)


@asynccontextmanager
async def _asker(folder: Path, asking: Asking) -> AsyncIterator[anyio.abc.Process]:
    """The program as a process; at the end of the context it is gone."""
    told = folder / "asking.json"
    told.write_bytes(msgspec.json.encode(asking))
    with (folder / "asker.log").open("ab") as log:
        process = await anyio.open_process(
            [sys.executable, "-m", "tests.chaos.asker", str(told)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    async with gone_at_end(process):
        yield process
