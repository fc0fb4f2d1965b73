"""Keep a read model of all brooks in a SQLite file, from the change feed of their container.

    python examples/python/projection.py follow FILE [--once]
    python examples/python/projection.py show FILE

Needs BROOK_WORKER_COSMOS_ENDPOINT and BROOK_WORKER_COSMOS_KEY; database and container are those of the settings.

How it is safe:

- **Nothing past the head.** A large append writes its events before the head moves, and may be rolled back: an event in
  the feed says nothing. What counts is the *head* in the feed. It tells which brook has grown, and how far; the events
  up to there are read from the brook itself, where they never change.
- **Each event once.** The read model and the next position of each brook change in one transaction. What comes again,
  after a crash or because the feed repeats itself, is passed over.
- **Nothing missed.** The feed's continuation is stored after all that came before it was taken over. If the brook, read
  from a replica that is behind, does not reach the head that the feed told of yet, it is read again first.

Kill it at any moment and start it again: it goes on where it was. A read model is for one such process; to share the
work among several, give each its own feed ranges.
"""

import argparse
import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from azure.core.exceptions import AzureError
from azure.cosmos.aio import ContainerProxy, CosmosClient

from schemas.events import RecordedEvent
from schemas.keys import BrookKey, InvalidBrookKeyError
from schemas.types import Position
from worker.storage.base import BrookReader, StoreError
from worker.storage.cosmos import CosmosBrookStore
from worker.storage.retries import RetryOptions

PAGE_ITEMS = 500
SLICE_EVENTS = 500
POLL_S = 0.5
PAUSE_MAX_S = 30.0
BEHIND_ATTEMPTS = 20
BEHIND_PAUSE_S = 0.1

TABLES = """
CREATE TABLE IF NOT EXISTS feeds (feed_range TEXT PRIMARY KEY, continuation TEXT);
CREATE TABLE IF NOT EXISTS brooks (
    brook TEXT PRIMARY KEY, next_position INTEGER NOT NULL, last_event_type TEXT NOT NULL, last_time TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS event_types (event_type TEXT PRIMARY KEY, events INTEGER NOT NULL);
"""


class BehindError(Exception):
    """A brook could not be read up to the head that the feed told of."""


class ReadModel:
    """How many events of each type there are, and where each brook stands; with how far the feeds were read."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.executescript(TABLES)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def feeds(self) -> dict[str, str | None]:
        """Each feed range, as JSON, with its continuation; None where nothing was read yet."""
        return dict(self._database.execute("SELECT feed_range, continuation FROM feeds"))

    def add_feeds(self, feed_ranges: Sequence[str]) -> None:
        """Begin with these feed ranges. They are kept: when one is split, its continuation knows."""
        with self._transaction():
            self._database.executemany("INSERT INTO feeds VALUES (?, NULL)", [(each,) for each in feed_ranges])

    def next_position(self, brook: str) -> Position:
        """The first position of a brook that is not in the model yet."""
        row = self._database.execute("SELECT next_position FROM brooks WHERE brook = ?", (brook,)).fetchone()
        return Position(row[0] if row else 0)

    def apply(self, brook: str, events: Sequence[RecordedEvent]) -> None:
        """Take over events of a brook, in order, without gaps. Those that were taken over before are passed over."""
        with self._transaction():
            next_position = self.next_position(brook)
            new = [event for event in events if event.position >= next_position]
            if not new:
                return
            assert [event.position for event in new] == list(range(next_position, next_position + len(new))), brook
            self._database.executemany(
                "INSERT INTO event_types VALUES (?, 1) ON CONFLICT DO UPDATE SET events = events + 1",
                [(event.event_type,) for event in new],
            )
            last = new[-1]
            self._database.execute(
                "INSERT OR REPLACE INTO brooks VALUES (?, ?, ?, ?)",
                (brook, last.position + 1, last.event_type, last.time),
            )

    def advance(self, feed_range: str, continuation: str) -> None:
        """Note that everything before `continuation` was taken over."""
        with self._transaction():
            self._database.execute("UPDATE feeds SET continuation = ? WHERE feed_range = ?", (continuation, feed_range))

    def shown(self) -> dict[str, Any]:
        """The whole model."""
        brooks = self._database.execute("SELECT * FROM brooks ORDER BY brook")
        types = self._database.execute("SELECT * FROM event_types ORDER BY event_type")
        return {
            "brooks": {
                brook: {"events": next_position, "lastEventType": event_type, "lastTime": time}
                for brook, next_position, event_type, time in brooks
            },
            "eventTypes": dict(types),
        }

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


class Projection:
    """Brings a read model up to the change feed."""

    def __init__(self, container: ContainerProxy, reader: BrookReader, model: ReadModel) -> None:
        self._container = container
        self._reader = reader
        self._model = model

    async def catch_up(self) -> int:
        """Take over all there is now; returns how many heads had moved."""
        if not self._model.feeds():
            self._model.add_feeds([json.dumps(each) async for each in self._container.read_feed_ranges()])
        moved = 0
        for feed_range, continuation in self._model.feeds().items():
            async for documents, reached in self._pages(feed_range, continuation):
                for brook, head in heads(documents).items():
                    await self._take_over(brook, head)
                    moved += 1
                self._model.advance(feed_range, reached)
        return moved

    async def _pages(
        self, feed_range: str, continuation: str | None
    ) -> AsyncIterator[tuple[list[dict[str, Any]], str]]:
        """The pages of one feed that there are now, each with the continuation behind it."""
        start: dict[str, Any] = {"continuation": continuation}
        if continuation is None:
            start = {"start_time": "Beginning", "feed_range": json.loads(feed_range)}
        pages = self._container.query_items_change_feed(max_item_count=PAGE_ITEMS, **start).by_page()
        async for page in pages:
            documents = [document async for document in page]
            reached = getattr(pages, "continuation_token", None)
            assert isinstance(reached, str), "azure-cosmos has changed: a page of the feed has no continuation"
            yield documents, reached

    async def _take_over(self, brook: str, head: int) -> None:
        """Bring one brook up to `head` at least."""
        key = BrookKey.parse(brook)
        for _ in range(BEHIND_ATTEMPTS):
            events: list[RecordedEvent] = []
            async for event in self._reader.read_forward(key, self._model.next_position(brook)):
                events.append(event)
                if len(events) == SLICE_EVENTS:
                    self._model.apply(brook, events)
                    events.clear()
            self._model.apply(brook, events)
            if self._model.next_position(brook) > head:
                return
            await asyncio.sleep(BEHIND_PAUSE_S)
        raise BehindError(f"brook {brook}: its head is at {head}, but its events are not to be read yet")


def heads(documents: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The brooks whose heads are among the documents of a page, with their positions."""
    found: dict[str, int] = {}
    for document in documents:
        if document.get("type") != "head":
            continue
        brook, position = document.get("brookPartitionKey"), document.get("position")
        try:
            BrookKey.parse(str(brook))
        except InvalidBrookKeyError as error:
            sys.stderr.write(f"passed over, for it is no brook: {error}\n")
            continue
        if not isinstance(position, int):
            sys.stderr.write(f"passed over: the head of {brook} has the position {position!r}\n")
            continue
        if position >= 0:
            found[str(brook)] = position
    return found


def setting(name: str, default: str | None = None) -> str:
    """A setting of the workers, by its variable; without a default it is needed."""
    value = os.environ.get(name, default)
    if value is None:
        raise SystemExit(f"error: set {name}, as README.md says under 'Programs in other languages'")
    return value


async def follow(path: Path, *, once: bool) -> None:
    """Catch up, again and again, until SIGINT or SIGTERM; or `once`."""
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    endpoint, key = setting("BROOK_WORKER_COSMOS_ENDPOINT"), setting("BROOK_WORKER_COSMOS_KEY")
    pause_s = POLL_S
    with closing(ReadModel(path)) as model:
        async with CosmosClient(endpoint, key) as client:
            database = client.get_database_client(setting("BROOK_WORKER_COSMOS_DATABASE", "brooks"))
            container = database.get_container_client(setting("BROOK_WORKER_COSMOS_CONTAINER", "events"))
            projection = Projection(container, CosmosBrookStore(container, RetryOptions()), model)
            while not stopping.is_set():
                try:
                    moved = await projection.catch_up()
                    pause_s = POLL_S
                    if moved:
                        sys.stdout.write(json.dumps({"headsMoved": moved}) + "\n")
                        sys.stdout.flush()
                except (AzureError, StoreError, BehindError) as error:
                    if once:
                        raise SystemExit(f"error: {error}") from error
                    pause_s = min(2 * pause_s, PAUSE_MAX_S)
                    sys.stderr.write(f"trying again in {pause_s:g} s: {type(error).__name__}: {error}\n")
                if once:
                    return
                try:
                    await asyncio.wait_for(stopping.wait(), pause_s)
                except TimeoutError:
                    continue


def main() -> None:
    """Carry out the command."""
    parser = argparse.ArgumentParser(description="A read model of all brooks, kept from the change feed.")
    parser.add_argument("command", choices=["follow", "show"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--once", action="store_true", help="take over what there is, and end")
    options = parser.parse_args()
    if options.command == "follow":
        asyncio.run(follow(options.file, once=options.once))
        return
    if not options.file.exists():
        raise SystemExit(f"error: {options.file} is not there; make it with `follow`")
    with closing(ReadModel(options.file)) as model:
        sys.stdout.write(json.dumps(model.shown(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
