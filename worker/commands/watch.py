"""`brook-worker watch`: looks again and again, and shows what it sees."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final

import anyio
import msgspec
from rich.console import Console
from rich.live import Live

from worker.commands.board import Board, QueueShown, queue_shown, rates, rendered, worker_shown
from worker.commands.console import print_json
from worker.errors import WorkerError
from worker.operations.queues import oldest_age_s, queue_facts
from worker.operations.workers import Sample, Workers, reachable_workers
from worker.sessions.base import BrokerError
from worker.settings import Settings

_QUEUE_EVERY_S: Final = 5.0
"""Looking at the queue opens connections: not at each tick."""

_FIRST_LOOK_S: Final = 10.0
"""How long the first tick waits to know something of the queue."""


class QueueWatch:
    """Looks at the command queue in the background, so that a slow or absent broker holds nothing up."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen: QueueShown | None = None
        self._seen_at_s = 0.0
        self.looked = anyio.Event()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._seen = await look_at_queue(self._settings)
            self._seen_at_s = time.monotonic()
            self.looked.set()
            await anyio.sleep(_QUEUE_EVERY_S)

    def shown(self) -> QueueShown:
        """What was seen last, and how long ago."""
        if self._seen is None:
            return QueueShown(name=self._settings.command_queue, problem="not looked at yet")
        return msgspec.structs.replace(self._seen, age_s=round(time.monotonic() - self._seen_at_s, 1))


async def look_at_queue(settings: Settings) -> QueueShown:
    """Counts and age of the command queue, as far as they can be had."""
    name = settings.command_queue
    problems: list[str] = []
    facts = oldest_s = None
    try:
        (facts,) = await queue_facts(settings, [name])
    except WorkerError as error:
        problems.append(f"counts: {error}")
    try:
        oldest_s = await oldest_age_s(settings, name)
    except (BrokerError, WorkerError) as error:
        problems.append(f"oldest command: {error}")
    return queue_shown(name, facts, oldest_s, 0.0, problems)


async def watch(
    settings: Settings, urls: list[str], *, interval_s: float, count: int | None, as_json: bool, console: Console
) -> None:
    """Show a board every `interval_s`, `count` times or until cancelled. Raises UrlError.

    A worker or a queue that does not answer is shown as such.
    """
    async with reachable_workers(urls) as workers, anyio.create_task_group() as background:
        queue = QueueWatch(settings)
        background.start_soon(queue.run)
        with anyio.move_on_after(_FIRST_LOOK_S):
            await queue.looked.wait()
        with _shown(console, as_json=as_json) as show:
            await _tick(workers, queue, show, interval_s=interval_s, count=count)
        background.cancel_scope.cancel()


async def _tick(
    workers: Workers, queue: QueueWatch, show: Callable[[Board], None], *, interval_s: float, count: int | None
) -> None:
    before: dict[str, Sample] = {}
    ticks = 0
    next_at_s = anyio.current_time()
    while True:
        looks = await workers.look()
        pairs = [(before.get(look.url), look.sample) for look in looks if look.sample is not None]
        show(
            Board(
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                queue=queue.shown(),
                workers=[worker_shown(look, before.get(look.url)) for look in looks],
                total=rates(pairs),
            )
        )
        before |= {look.url: look.sample for look in looks if look.sample is not None}
        ticks += 1
        if ticks == count:
            return
        # Evenly, but never to make up for looks that took longer than the interval.
        next_at_s = max(next_at_s + interval_s, anyio.current_time())
        await anyio.sleep_until(next_at_s)


@contextmanager
def _shown(console: Console, *, as_json: bool) -> Iterator[Callable[[Board], None]]:
    """A way to show boards: lines of JSON, one board that changes on a terminal, or one after the other elsewhere."""
    if as_json:
        yield partial(print_json, console)
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda board: live.update(rendered(board), refresh=True)
    else:
        yield lambda board: console.print(rendered(board))
