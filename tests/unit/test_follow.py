"""Following a brook: each event once, in order, whole commands only, through outages."""

import io
from collections.abc import AsyncIterator, Sequence

import anyio
import pytest
from rich.console import Console
from typer.testing import CliRunner

from schemas.events import RecordedEvent
from schemas.keys import BrookKey
from schemas.types import START, Position
from tests.support.brooks import KEY, prepared
from tests.support.waiting import wait_until
from worker.cli import app
from worker.commands.follow import Polling, Start, follow
from worker.commands.read import write_lines
from worker.handlers.append import AppendHandler
from worker.handlers.brook import BrookState
from worker.protocol.model import Limits
from worker.protocol.writes import Operation
from worker.storage.base import (
    PAGE_EVENTS_DEFAULT,
    StoreMisconfiguredError,
    StoreUnavailableError,
    WriteResult,
)
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio

QUICK = Polling(first_s=0.001, max_s=0.01)


class GatedStore(MemoryBrookStore):
    """Reads fail while `error` is set, or after so many events; writes wait for `gate` from the second on."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.events_until_error: int | None = None
        self.looks = 0
        self.gate: anyio.Event | None = None
        self.gated_writes = 0

    async def read_forward(
        self, key: BrookKey, from_position: Position = START, *, page_events: int = PAGE_EVENTS_DEFAULT
    ) -> AsyncIterator[RecordedEvent]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        async for event in super().read_forward(key, from_position, page_events=page_events):
            if self.events_until_error == 0:
                self.events_until_error = None
                raise StoreUnavailableError("gone in the middle")
            if self.events_until_error is not None:
                self.events_until_error -= 1
            yield event

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        result = await super().write(key, operations)
        if self.gate is not None:
            self.gated_writes += 1
            await self.gate.wait()
        return result


class Follower:
    """What a follower has seen and was told."""

    def __init__(self, store: GatedStore) -> None:
        self._store = store
        self.positions: list[int] = []
        self.notes: list[str] = []

    async def run(self, start: Start = 0) -> None:
        async for event in follow(self._store, KEY, start, polling=QUICK, on_trouble=self.notes.append):
            self.positions.append(event.position)

    async def has(self, count: int) -> None:
        await wait_until(lambda: len(self.positions) >= count, f"{count} events followed")


async def append(store: GatedStore, events: int = 1) -> None:
    handler = AppendHandler(store, Limits(batch_operations_max=10, recent_commands_max=5), replans_max=3)
    await handler.append(BrookState(KEY), [prepared(events=events)])


async def test_what_is_there_and_then_what_comes() -> None:
    store, follower = GatedStore(), None
    await append(store, 3)
    follower = Follower(store)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follower.run)
        await follower.has(3)
        await append(store, 2)
        await follower.has(5)
        tasks.cancel_scope.cancel()
    assert follower.positions == [0, 1, 2, 3, 4]
    assert follower.notes == []


async def test_from_the_end_only_what_is_new() -> None:
    store = GatedStore()
    await append(store, 3)
    follower = Follower(store)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follower.run, "end")
        await wait_until(lambda: store.looks > 0, "the end was found")
        await append(store, 2)
        await follower.has(2)
        tasks.cancel_scope.cancel()
    assert follower.positions == [3, 4]


async def test_a_large_append_is_seen_whole_or_not_at_all() -> None:
    store = GatedStore()
    follower = Follower(store)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follower.run)
        store.gate = anyio.Event()
        tasks.start_soon(append, store, 35)
        for writes in range(1, 5):
            await wait_until(lambda at=writes: store.gated_writes >= at, f"{writes} writes")
            looks = store.looks
            await wait_until(lambda seen=looks: store.looks > seen + 1, "the follower looked")
            assert follower.positions == [], f"after {writes} of its writes"
            store.gate, opened = anyio.Event(), store.gate
            opened.set()
        store.gate.set()
        store.gate = None
        await follower.has(35)
        tasks.cancel_scope.cancel()
    assert follower.positions == list(range(35))


async def test_an_outage_is_told_once_and_nothing_is_missed_or_shown_twice() -> None:
    store = GatedStore()
    await append(store, 5)
    follower = Follower(store)
    store.events_until_error = 2
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follower.run)
        await follower.has(5)
        store.error = StoreUnavailableError("503")
        looks = store.looks
        await wait_until(lambda: store.looks >= looks + 4, "it tries on")
        await append(store, 2)
        store.error = None
        await follower.has(7)
        tasks.cancel_scope.cancel()
    assert follower.positions == list(range(7))
    assert follower.notes == [
        "the store does not answer, trying on: gone in the middle",
        "the store answers again",
        "the store does not answer, trying on: 503",
        "the store answers again",
    ]


async def test_what_only_an_operator_can_mend_ends_it() -> None:
    store = GatedStore()
    store.error = StoreMisconfiguredError("403")
    with pytest.raises(StoreMisconfiguredError):
        await Follower(store).run()


def test_pauses_grow_to_their_bound() -> None:
    polling = Polling(first_s=0.2, max_s=2.0)
    pauses = [0.2]
    for _ in range(10):
        pauses.append(polling.after(pauses[-1]))
    assert pauses == sorted(pauses)
    assert pauses[1] == pytest.approx(0.3)
    assert pauses[-1] == 2.0


async def test_lines_are_printed_as_they_come_and_cut_to_the_terminal() -> None:
    store = GatedStore()
    await append(store, 2)
    out = io.StringIO()
    events = store.read_forward(KEY)
    assert await write_lines(events, Console(file=out, width=40)) == 2
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1"]
    assert all(len(line) <= 40 for line in lines)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "-1"], "is no position"),
        (["--from", "new", "--follow"], "is no position"),
        (["--from", "end"], "--from end: there is nothing after the end"),
        (["--follow", "--backward"], "--follow goes forward"),
        (["--follow", "--interval", "0"], "--interval"),
    ],
)
def test_options_that_make_no_sense_together_are_wrong_usage(words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["read", "order|1", *words], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert said in done.stderr
