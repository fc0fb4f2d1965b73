"""How many transactional batches a second the embedded Cosmos DB takes from a bare HTTP client.

python bench/emulator_cosmos.py [--batches N] [--connections N] [--data FILE] [--least BATCHES_PER_S]

The server is a process of its own, on one core where the system lets us choose; the client is raw HTTP on another.
Each batch is what a worker sends: the head replaced under If-Match, and nine events created, about 5 KB in all. Exits
with 1 when fewer than `--least` batches a second were answered.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import hmac
import multiprocessing
import os
import sys
import time
from email.utils import formatdate
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from emulator.clock import SystemClock
from emulator.cosmos import CosmosServer
from emulator.cosmos.auth import WELL_KNOWN_KEY
from emulator.cosmos.throughput import Throughput
from emulator.faults import Faults
from emulator.journal import Journal, MemoryJournal, SqliteJournal

EVENTS: Final = 9
DATA: Final = "x" * 300
POLICY: Final = {"includedPaths": [{"path": "/position/?"}], "excludedPaths": [{"path": "/*"}]}


def pin(core: int) -> None:
    """Stay on one core, where there is more than one and the system can do that."""
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > core:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {core})


def serve(pipe: Connection, data: str | None) -> None:
    """The server's process: sends its port, waits for a word, sends the CPU seconds that it took."""
    pin(0)
    asyncio.run(_serve(pipe, data))


async def _serve(pipe: Connection, data: str | None) -> None:
    journal: Journal = SqliteJournal(Path(data)) if data else MemoryJournal()
    server = CosmosServer(clock=SystemClock(), journal=journal, faults=Faults())
    port = await server.start()
    account = server.engine.account
    if "bench" not in account.databases:
        account.create_database({"id": "bench"}, Throughput())
    key = {"paths": ["/brookPartitionKey"], "kind": "Hash", "version": 2}
    name = f"events-{time.time_ns()}"
    account.create_container("bench", {"id": name, "partitionKey": key, "indexingPolicy": POLICY}, Throughput())
    begun_s = time.process_time()
    pipe.send((port, name))
    await asyncio.to_thread(pipe.recv)
    pipe.send(time.process_time() - begun_s)
    await server.stop()
    journal.close()


def batch(brook: str, number: int, etag: str | None) -> bytes:
    """The body of one append."""
    first = number * EVENTS
    head = {"id": "head", "type": "head", "brookPartitionKey": brook, "position": first + EVENTS - 1}
    operations: list[dict[str, Any]] = [{"operationType": "Create", "resourceBody": head}]
    if etag is not None:
        operations = [{"operationType": "Replace", "id": "head", "ifMatch": etag, "resourceBody": head}]
    for position in range(first, first + EVENTS):
        event = {
            "id": str(position), "type": "event", "brookPartitionKey": brook, "position": position,
            "eventId": f"event-{position}", "source": "bench", "eventType": "Happened",
            "dataContentType": "application/json", "data": DATA, "dataSizeBytes": len(DATA),
            "time": "2024-01-01T00:00:00Z", "commandId": f"command-{number}",
        }  # fmt: skip
        operations.append({"operationType": "Create", "resourceBody": event})
    return msgspec.json.encode(operations)


def signed_head(container: str, brook: str) -> bytes:
    """The head of the requests of one brook, but for the length."""
    date = formatdate(usegmt=True)
    text = f"post\ndocs\ndbs/bench/colls/{container}\n{date.lower()}\n\n"
    digest = hmac.new(base64.b64decode(WELL_KNOWN_KEY), text.encode(), hashlib.sha256).digest()
    token = quote(f"type=master&ver=1.0&sig={base64.b64encode(digest).decode()}", safe="")
    return (
        f"POST /dbs/bench/colls/{container}/docs HTTP/1.1\r\nHost: bench\r\nx-ms-date: {date}\r\n"
        f"authorization: {token}\r\nx-ms-cosmos-is-batch-request: True\r\nx-ms-cosmos-batch-atomic: True\r\n"
        f'x-ms-documentdb-partitionkey: ["{brook}"]\r\nContent-Type: application/json\r\n'
    ).encode()


async def drive(port: int, container: str, connection: int, batches: int, latencies_s: list[float]) -> None:
    """One connection that appends to one brook, batch after batch."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    brook = f"bench|{connection}"
    head = signed_head(container, brook)
    etag: str | None = None
    for number in range(batches):
        body = batch(brook, number, etag)
        begun_s = time.perf_counter()
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        answer = await reader.readexactly(length)
        latencies_s.append(time.perf_counter() - begun_s)
        if b" 200 " not in lines[0]:
            raise RuntimeError(f"the server answered {lines[0]!r}: {answer[:300]!r}")
        etag = msgspec.json.decode(answer)[0]["eTag"]
    writer.close()


async def load(port: int, container: str, connections: int, batches: int) -> tuple[float, list[float]]:
    """All connections at once: the seconds it took, and the latency of every batch."""
    latencies_s: list[float] = []
    begun_s = time.perf_counter()
    each = batches // connections
    await asyncio.gather(*[drive(port, container, number, each, latencies_s) for number in range(connections)])
    return time.perf_counter() - begun_s, sorted(latencies_s)


def main() -> int:
    """Run and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=8000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--data", help="keep everything in this SQLite file")
    parser.add_argument("--least", type=int, default=0)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, options.data))
    process.start()
    port, container = ours.recv()
    pin(1)
    took_s, latencies_s = asyncio.run(load(port, container, options.connections, options.batches))
    ours.send("done")
    cpu_s = ours.recv()
    process.join()
    count = len(latencies_s)
    print(f"batches of {EVENTS + 1} operations   {count}, {options.connections} connections")
    print(f"journal                    {'SQLite' if options.data else 'memory'}")
    print(f"batches/s                  {count / took_s:,.0f}")
    p50_ms, p99_ms = latencies_s[count // 2] * 1e3, latencies_s[count * 99 // 100] * 1e3
    print(f"latency p50 / p99          {p50_ms:.1f} / {p99_ms:.1f} ms")
    print(
        f"server CPU a batch         {cpu_s / count * 1e6:.0f} µs, which allows {count / cpu_s:,.0f} batches/s a core"
    )
    reached = count / took_s >= options.least
    if options.least:
        for what, rate in (("answered", count / took_s), ("by the server's CPU time", count / cpu_s)):
            word = "reached" if rate >= options.least else "MISSED"
            print(f"{word:8} at least {options.least:,} batches/s, {what}: {rate:,.0f}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
