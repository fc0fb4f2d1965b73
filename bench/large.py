"""What a large append costs beside the bare SDK that writes the same batches, and what its recovery costs.

python -m bench.large [--events N] [--event-bytes N] [--rounds N]

All figures are ratios within one run, against the embedded Cosmos DB in a process of its own. An append through the
handler and the very same batches through the bare SDK take turns. Compared is the CPU time of both processes together,
which is what either takes on a machine that has nothing else to do, for one waits while the other works; the time that
passed is printed beside it. Recovery is counted in requests. Exits with 1 when a target is missed. Linux only.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from azure.cosmos.aio import ContainerProxy

from emulator.handle import EmulatorHandle, start_emulator_process
from schemas.commands import AppendCommand, NewEvent
from schemas.keys import BrookKey, partition_key
from schemas.types import CommandId
from worker.clients import brooks_container, cosmos_client
from worker.handlers.append import AppendHandler
from worker.handlers.brook import BrookState
from worker.logs import configure_logs
from worker.protocol.model import Limits
from worker.protocol.prepare import PreparedCommand, prepare
from worker.protocol.writes import Create, Delete, Operation, Replace
from worker.provisioning.cosmos import provision_cosmos
from worker.redaction import Secret
from worker.settings import Settings
from worker.storage.base import BrookStore, StoreUnavailableError, WriteResult
from worker.storage.cosmos import CosmosBrookStore
from worker.storage.retries import RetryOptions

RATIO_MAX: Final = 1.25
TIME: Final = "2026-01-31T12:00:00.000Z"


class Recorder:
    """Keeps what is written, and can end its writer after so many batches."""

    def __init__(self, store: BrookStore) -> None:
        self._store = store
        self.batches: list[tuple[Operation, ...]] = []
        self.batches_max: int | None = None

    def __getattr__(self, name: str) -> Any:
        """Everything else is the store's."""
        return getattr(self._store, name)

    async def write(self, key: BrookKey, operations: Sequence[Operation]) -> WriteResult:
        """Pass a batch on, unless the writer is to be gone by now."""
        if len(self.batches) == self.batches_max:
            raise StoreUnavailableError("the writer is gone")
        self.batches.append(tuple(operations))
        return await self._store.write(key, operations)


@dataclass(frozen=True)
class Lab:
    """What all measurements work on."""

    container: ContainerProxy
    store: CosmosBrookStore
    control: EmulatorHandle
    server_pid: int
    events: int
    event_bytes: int

    def command(self, name: str) -> AppendCommand:
        """One command with all the events."""
        data = bytes(range(256)) * (self.event_bytes // 256 + 1)
        events = tuple(
            NewEvent(event_id=f"event-{index}", event_type="measured", data=data[: self.event_bytes])
            for index in range(self.events)
        )
        return AppendCommand(command_id=CommandId(name), brook=BrookKey("bench", name), expected="any", events=events)

    async def requests(self) -> int:
        """What Cosmos DB was asked, since the last time."""
        counts = await self.control.requests()
        await self.control.reset_requests()
        return sum(count for (service, _), count in counts.items() if service == "cosmos")


class Stopwatch:
    """CPU time of this process and the server's, and the time that passed, over all rounds."""

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self.cpu_s = 0.0
        self.times_s: list[float] = []

    @contextlib.contextmanager
    def round(self) -> Iterator[None]:
        """Measure one round, garbage of earlier ones collected before."""
        gc.collect()
        started_s, cpu_s = time.perf_counter(), self._cpu_s()
        yield
        self.times_s.append(time.perf_counter() - started_s)
        self.cpu_s += self._cpu_s() - cpu_s

    def _cpu_s(self) -> float:
        """Source of the fields: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html."""
        fields = Path(f"/proc/{self._server_pid}/stat").read_text().rpartition(")")[2].split()
        return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def append(store: BrookStore, command: AppendCommand) -> None:
    """Through the handler, measuring the command included."""
    prepared = prepare(command, TIME)
    await _handler(store).append(BrookState(command.brook), [prepared])


async def bare(container: ContainerProxy, key: BrookKey, batches: Sequence[Sequence[Operation]]) -> None:
    """The very same batches by the SDK alone, their documents ready."""
    pk = partition_key(key)
    etags: dict[str, str] = {}
    for operations in batches:
        results = await container.execute_item_batch(
            [_as_tuple(operation, etags) for operation in operations],
            partition_key=pk,
            retry_connect=0,
            retry_read=0,
            retry_status=0,
            no_response=True,
        )
        for operation, result in zip(operations, results, strict=True):
            if not isinstance(operation, Delete):
                etags[operation.document["id"]] = result["eTag"]


def moved(batches: Sequence[Sequence[Operation]], key: BrookKey) -> list[list[Operation]]:
    """The same batches for another brook."""

    def to_key(operation: Operation) -> Operation:
        if isinstance(operation, Delete):
            return operation
        document = {**operation.document, "brookPartitionKey": partition_key(key)}
        return msgspec.structs.replace(operation, document=document)

    return [[to_key(operation) for operation in operations] for operations in batches]


def _as_tuple(operation: Operation, etags: dict[str, str]) -> tuple[Any, ...]:
    match operation:
        case Create(document):
            return ("create", (document,))
        case Replace(document):
            return ("replace", (document["id"], document), {"if_match_etag": etags[document["id"]]})
        case Delete(document_id, None):
            return ("delete", (document_id,))
        case Delete(document_id):
            return ("delete", (document_id,), {"if_match_etag": etags[document_id]})


def _handler(store: BrookStore) -> AppendHandler:
    return AppendHandler(store, Limits(), replans_max=3)


async def measure_append(lab: Lab, rounds: int) -> tuple[float, int]:
    """Print how the handler compares with the bare SDK; the ratio, and the number of batches."""
    recorder = Recorder(lab.store)
    await append(recorder, lab.command("warm"))
    batches = recorder.batches
    by_handler, by_sdk = Stopwatch(lab.server_pid), Stopwatch(lab.server_pid)
    for number in range(rounds):
        command = lab.command(f"round-{number}")
        with by_handler.round():
            await append(lab.store, command)
        key = BrookKey("bench", f"bare-{number}")
        ready = moved(batches, key)
        with by_sdk.round():
            await bare(lab.container, key, ready)
    ratio = by_handler.cpu_s / by_sdk.cpu_s
    print(f"{lab.events:,} events of {lab.event_bytes:,} bytes in {len(batches)} batches, {rounds} rounds in turn")
    for what, watch in (("handler", by_handler), ("bare SDK", by_sdk)):
        passed_s = statistics.median(watch.times_s)
        print(f"  {what:10} {watch.cpu_s / rounds:.3f} s of CPU, client and server; {passed_s:.3f} s passed (median)")
    print(f"  ratio      {ratio:.2f} (at most {RATIO_MAX})")
    return ratio, len(batches)


async def orphan(lab: Lab, name: str, batches: int) -> PreparedCommand:
    """Leave an append whose writer is gone after so many batches."""
    recorder = Recorder(lab.store)
    recorder.batches_max = batches
    prepared = prepare(lab.command(name), TIME)
    try:
        await _handler(recorder).append(BrookState(prepared.command.brook), [prepared])
    except StoreUnavailableError:
        await lab.requests()
        return prepared
    raise AssertionError("the writer outlived its end")


async def measure_recovery(lab: Lab, batches: int) -> float:
    """Print what it takes to complete or to roll back an orphan; the larger ratio of requests to batches."""
    small = AppendCommand(
        command_id=CommandId("next"),
        brook=BrookKey("bench", "roll back"),
        expected="any",
        events=(NewEvent(event_id="next", event_type="measured", data=b""),),
    )

    async def resume(prepared: PreparedCommand) -> None:
        await _handler(lab.store).append(BrookState(prepared.command.brook), [prepared])

    async def roll_back(_: PreparedCommand) -> None:
        await _handler(lab.store).append(BrookState(small.brook), [prepare(small, TIME)])

    cases: tuple[tuple[str, int, Callable[[PreparedCommand], Awaitable[None]]], ...] = (
        ("resume", 1, resume),  # begun, nothing written yet
        ("roll back", batches - 2, roll_back),  # all written but the last chunk
    )
    ratios = []
    print(f"recovery of an orphan of {lab.events:,} events, which are {batches} batches")
    for name, written, recover in cases:
        prepared = await orphan(lab, name, written)
        started_s = time.perf_counter()
        await recover(prepared)
        took_s = time.perf_counter() - started_s
        requests = await lab.requests()
        ratios.append(requests / batches)
        print(f"  {name:10} {requests} requests, {ratios[-1]:.2f} of a batch (at most {RATIO_MAX}), {took_s:.3f} s")
    return max(ratios)


async def run(events: int, event_bytes: int, rounds: int) -> int:
    """All measurements; the exit code."""
    async with start_emulator_process() as emulator:
        ready = emulator.ready
        settings = Settings(
            servicebus_connection_string=Secret(ready.servicebus_connection_string),
            cosmos_endpoint=ready.cosmos_endpoint,
            cosmos_key=Secret(ready.cosmos_key),
            blob_connection_string=Secret(ready.blob_connection_string),
            log_level="warning",
        )
        configure_logs(settings)
        await provision_cosmos(settings, make=True)
        async with cosmos_client(settings) as client:
            container = brooks_container(client, settings)
            store = CosmosBrookStore(container, RetryOptions())
            lab = Lab(container, store, emulator.control, emulator.pid, events, event_bytes)
            ratio, batches = await measure_append(lab, rounds)
            recovery = await measure_recovery(lab, batches)
    return 1 if max(ratio, recovery) > RATIO_MAX else 0


def main() -> int:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--event-bytes", type=int, default=1_024)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    return asyncio.run(run(given.events, given.event_bytes, given.rounds))


if __name__ == "__main__":
    sys.exit(main())
