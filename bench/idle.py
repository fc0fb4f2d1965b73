"""One command at a time on a session that is open and idle: how long from sent to reply, and where the time goes."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio
import msgspec

from bench.lab import Lab, Latency, open_lab
from bench.measure import Load, Watch, watched, worker_at
from bench.verify import charge_ru, check, check_null, read_brooks
from bench.workloads import hot
from brook_client.client import BrookClient
from brook_client.connect import with_connection_string
from brook_client.messages import ReceivedReply
from schemas.commands import AppendCommand

_WARM_UP: Final = 10
_THINK_S: Final = 0.03
"""Between a reply and the next command: the session is idle, and the reply before is settled."""

_FIRST_REPLY_S: Final = 30.0


class IdleRun(msgspec.Struct, frozen=True, kw_only=True):
    """Round trips of single commands, in milliseconds, in the order in which they were made."""

    worker: str
    round_trips_ms: list[float]
    charge_ru: float | None
    cpu_ms: float
    """CPU of the worker for each command, the idle time between them included."""

    @property
    def p50_ms(self) -> float:
        """The median round trip."""
        return statistics.median(self.round_trips_ms)


async def measure_idle(
    worker: str, samples: int, latency: Latency, *, tree: Path | None = None, watch: Watch | None = None
) -> IdleRun:
    """Send `samples` commands, each after the reply to the one before. Raises as `measure` does."""
    commands = hot(_WARM_UP + samples, f"idle-{worker}")
    load = Load(commands=commands, latency=latency, window_s=0)
    async with open_lab() as lab:
        await lab.inject(latency)
        async with worker_at(lab, worker, load, tree) as running:
            connect = with_connection_string(lab.settings["servicebus_connection_string"])
            async with BrookClient(connect) as client:
                replies, _ = await _exchange(client, commands[:_WARM_UP])
                before = running.usage()
                async with watched(watch, running):
                    more, round_trips_ms = await _exchange(client, commands[_WARM_UP:])
                after = running.usage()
        await _check(lab, worker, commands, replies + more)
    cpu_ms = 1000 * (after.cpu_s - before.cpu_s) / samples
    return IdleRun(worker=worker, round_trips_ms=round_trips_ms, charge_ru=charge_ru(more), cpu_ms=cpu_ms)


async def _exchange(client: BrookClient, commands: Sequence[AppendCommand]) -> tuple[list[ReceivedReply], list[float]]:
    replies, round_trips_ms = [], []
    for command in commands:
        began_s = time.perf_counter()
        replies.append(await client.request(command, timeout_s=_FIRST_REPLY_S))
        round_trips_ms.append(1000 * (time.perf_counter() - began_s))
        await anyio.sleep(_THINK_S)
    return replies, round_trips_ms


async def _check(lab: Lab, worker: str, commands: Sequence[AppendCommand], replies: Sequence[ReceivedReply]) -> None:
    await lab.control.clear_rules()
    if worker == "null":
        check_null(commands, replies, settled=len(commands))
    else:
        check(commands, replies, await read_brooks(lab), settled=len(commands))
