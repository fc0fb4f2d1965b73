"""Where the time of one command on an idle session goes: `python -m bench.split`.

The worker's connections are led through taps that note when bytes pass. So the parts are told apart without touching
the worker, its client or the services; each tap adds about 0.2 ms to what passes it.
"""

import argparse
import asyncio
import contextlib
import itertools
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import msgspec
from rich.console import Console
from rich.table import Table

from bench.lab import NO_LATENCY, Lab, Latency, open_lab
from bench.measure import Load, worker_at
from bench.running import log_warnings, run_to_end
from bench.workloads import hot
from brook_client.client import BrookClient
from brook_client.connect import with_connection_string

_WARM_UP: Final = 10
_THINK_S: Final = 0.05
_REPLY_S: Final = 30.0
_CHUNK_BYTES: Final = 65_536

_DELIVERY_BYTES_MIN: Final = 500
"""A command of 1 KB comes in no fewer; flows, dispositions and keep-alives are far smaller."""

_TRANSFER_BYTES_MIN: Final = 200
"""So is a reply; what else the worker sends while it works on a command is smaller."""


class Passed(msgspec.Struct, frozen=True):
    """Some bytes at one moment. `inward` is towards the worker."""

    at_s: float
    service: str
    inward: bool
    size_bytes: int


class Tap:
    """Forwards connections to a local port and notes what passes."""

    def __init__(self, service: str, port: int, passed: list[Passed]) -> None:
        self._service = service
        self._upstream_port = port
        self._passed = passed
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Tap"]:
        """Listen on a free port while the context lasts."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        outward = self._pump(reader, up_writer, inward=False)
        inward = self._pump(up_reader, writer, inward=True)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(outward, inward)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, inward: bool) -> None:
        try:
            while data := await reader.read(_CHUNK_BYTES):
                self._passed.append(Passed(time.perf_counter(), self._service, inward, len(data)))
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


class Parts(msgspec.Struct, frozen=True):
    """One command's way, in milliseconds."""

    to_worker_ms: float
    before_store_ms: float
    store_ms: float
    before_reply_ms: float
    to_client_ms: float


LABELS: Final = (
    ("the client sends, Service Bus delivers to the worker", "1 Service Bus"),
    ("the worker: takes it in, decodes, decides, encodes the batch", ""),
    ("Cosmos DB: from the batch to its answer", "1 Cosmos DB"),
    ("the worker: takes the answer in, builds and encodes the reply", ""),
    ("Service Bus takes the reply and delivers it, the client reads it", "1 Service Bus"),
)


async def split(samples: int, latency: Latency, tree: Path | None) -> list[Parts]:
    """Send single commands through a tapped worker and part each round trip."""
    passed: list[Passed] = []
    found: list[Parts] = []
    async with open_lab() as lab, contextlib.AsyncExitStack() as taps:
        tapped = await _tapped(lab, taps, passed)
        await lab.inject(latency)
        connect = with_connection_string(lab.settings["servicebus_connection_string"])
        load = Load(commands=(), latency=latency, window_s=0)
        async with worker_at(tapped, "ours", load, tree), BrookClient(connect) as client:
            for number, command in enumerate(hot(_WARM_UP + samples, "split")):
                passed.clear()
                began_s = time.perf_counter()
                await client.request(command, timeout_s=_REPLY_S)
                ended_s = time.perf_counter()
                if number >= _WARM_UP and (parts := parts_of(began_s, ended_s, passed)) is not None:
                    found.append(parts)
                await anyio.sleep(_THINK_S)
    return found


async def _tapped(lab: Lab, taps: contextlib.AsyncExitStack, passed: list[Passed]) -> Lab:
    """The lab as the worker sees it: with taps in front of Service Bus and Cosmos DB."""
    settings = dict(lab.settings)
    for service, name in (("servicebus", "servicebus_connection_string"), ("cosmos", "cosmos_endpoint")):
        match = re.search(r"127\.0\.0\.1:(\d+)", settings[name])
        assert match is not None, "the embedded services listen on 127.0.0.1"
        tap = await taps.enter_async_context(Tap(service, int(match[1]), passed).running())
        settings[name] = settings[name].replace(match[0], f"127.0.0.1:{tap.port}")
    return msgspec.structs.replace(lab, settings=settings)


def parts_of(began_s: float, ended_s: float, passed: Sequence[Passed]) -> Parts | None:
    """Tell the moments apart by who sent how much; None where one of them cannot be found."""

    def first(after_s: float, service: str, *, inward: bool, size_min: int = 1) -> float | None:
        fitting = (
            each.at_s
            for each in passed
            if each.at_s >= after_s
            and each.service == service
            and each.inward == inward
            and each.size_bytes >= size_min
        )
        return next(fitting, None)

    delivered_s = first(began_s, "servicebus", inward=True, size_min=_DELIVERY_BYTES_MIN)
    asked_s = first(delivered_s, "cosmos", inward=False) if delivered_s else None
    answered_s = first(asked_s, "cosmos", inward=True) if asked_s else None
    replied_s = first(answered_s, "servicebus", inward=False, size_min=_TRANSFER_BYTES_MIN) if answered_s else None
    if not (delivered_s and asked_s and answered_s and replied_s):
        return None
    moments = (began_s, delivered_s, asked_s, answered_s, replied_s, ended_s)
    return Parts(*(1000 * (after - before) for before, after in itertools.pairwise(moments)))


def table(latency: Latency, found: Sequence[Parts]) -> Table:
    """The medians of the parts."""
    made = Table(title=f"One command, {latency.name}: medians of {len(found)}", title_justify="left")
    made.add_column("part")
    made.add_column("injected")
    made.add_column("ms", justify="right")
    columns = list(zip(*(msgspec.structs.astuple(parts) for parts in found), strict=True))
    for (label, injected), values in zip(LABELS, columns, strict=True):
        made.add_row(label, injected, f"{statistics.median(values):.1f}")
    made.add_section()
    made.add_row("sent to reply", "", f"{statistics.median(map(sum, zip(*columns, strict=True))):.1f}")
    return made


def main() -> int:
    """Print the split with and without injected latency."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=80)
    parser.add_argument("--tree", type=Path, help="folder whose worker package is run")
    given = parser.parse_args()
    log_warnings()
    for latency in (Latency(), NO_LATENCY):
        found = run_to_end(split, given.samples, latency, given.tree)
        Console().print(table(latency, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
