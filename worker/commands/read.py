"""`brook-worker read`: a brook's events as newline-delimited JSON or as a table."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.events import RecordedEvent
from worker.clients import brooks_container, cosmos_client, store_retries
from worker.commands.console import print_json
from worker.settings import Settings
from worker.storage.base import BrookStore
from worker.storage.cosmos import CosmosBrookStore

_DATA_SHOWN_MAX: Final = 60


@asynccontextmanager
async def brook_store(settings: Settings) -> AsyncIterator[BrookStore]:
    """Open the store. Raises StartError when Cosmos DB does not answer."""
    async with cosmos_client(settings) as client:
        yield CosmosBrookStore(brooks_container(client, settings), store_retries(settings))


async def at_most(events: AsyncIterator[RecordedEvent], limit: int | None) -> AsyncIterator[RecordedEvent]:
    """Yield the first `limit` events; all of them without a limit."""
    if limit == 0:
        return
    count = 0
    async for event in events:
        yield event
        count += 1
        if count == limit:
            return


async def write_ndjson(events: AsyncIterator[RecordedEvent], console: Console) -> int:
    """Write one JSON object a line; returns how many."""
    count = 0
    async for event in events:
        print_json(console, event)
        count += 1
    return count


async def write_table(events: AsyncIterator[RecordedEvent], title: str, console: Console) -> int:
    """Write a table with the beginning of each event's data; returns how many rows."""
    table = Table(title=Text(title), title_justify="left")
    table.add_column("position", justify="right", no_wrap=True)
    for name in ("type", "event id", "time", "command", "data"):
        table.add_column(name, overflow="fold", no_wrap=name == "time")
    async for event in events:
        cells = (
            str(event.position),
            event.event_type,
            event.event_id,
            event.time,
            event.command_id or "",
            _data(event),
        )
        table.add_row(*map(Text, cells))
    console.print(table if table.row_count else Text(f"{title}: no events there"))
    return table.row_count


async def write_lines(events: AsyncIterator[RecordedEvent], console: Console) -> int:
    """Write one line for an event as soon as it comes; returns how many."""
    count = 0
    async for event in events:
        line = Text(f"{event.position:>8}  {event.time}  {event.event_type}  {event.event_id}  {_data(event)}")
        console.print(line, no_wrap=True, overflow="ellipsis")
        count += 1
    return count


def _data(event: RecordedEvent) -> str:
    """The data as text if it is some, else its size."""
    try:
        text = event.data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if not text.isprintable():
        return f"{len(event.data):,} bytes"
    return text if len(text) <= _DATA_SHOWN_MAX else f"{text[:_DATA_SHOWN_MAX]}…"
