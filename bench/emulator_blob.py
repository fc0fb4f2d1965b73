"""What a request to the embedded Blob Storage costs the server and the SDK client, in CPU time.

python bench/emulator_blob.py [--requests N] [--concurrency N] [--data DIR]

The emulator is a process of its own; the client is azure.storage.blob.aio. The server's time is read from /proc, so
that column needs Linux.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from azure.storage.blob.aio import BlobClient, BlobServiceClient

from emulator.handle import EmulatorProcess, start_emulator_process

SMALL: Final = bytes(1024)
LARGE_MB: Final = 100
Case = Callable[[BlobClient, int], Awaitable[object]]


def server_cpu_s(pid: int) -> float:
    """CPU seconds of a process so far; 0 where there is no /proc."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(process: EmulatorProcess, blobs: list[BlobClient], requests: int, case: Case) -> str:
    """Run `requests` of a case, spread over the blobs, and say what they cost."""
    share = requests // len(blobs)

    async def one(blob: BlobClient) -> None:
        for number in range(share):
            await case(blob, number)

    server_s, client_s, started_s = server_cpu_s(process.pid), time.process_time(), time.perf_counter()
    await asyncio.gather(*(one(blob) for blob in blobs))
    took_s = time.perf_counter() - started_s
    done = share * len(blobs)
    server_ms = (server_cpu_s(process.pid) - server_s) / done * 1000
    client_ms = (time.process_time() - client_s) / done * 1000
    return f"{done / took_s:8.0f} /s   server {server_ms:6.2f} ms   client {client_ms:6.2f} ms"


async def bench(requests: int, concurrency: int, data: Path) -> None:
    """Print one line for each case."""
    async with (
        start_emulator_process(data_dir=data) as process,
        BlobServiceClient.from_connection_string(process.ready.blob_connection_string) as service,
    ):
        container = await service.create_container("bench")
        blobs = [await container.upload_blob(f"b{number}", SMALL) for number in range(concurrency)]
        leases = {blob.blob_name: await blob.acquire_lease(60) for blob in blobs}
        cases: dict[str, Case] = {
            "renew a lease": lambda blob, _: leases[blob.blob_name].renew(),
            "properties": lambda blob, _: blob.get_blob_properties(),
            "put 1 KB": lambda blob, number: container.get_blob_client(f"{blob.blob_name}-{number}").upload_blob(SMALL),
        }
        for name, case in cases.items():
            print(f"{name:16}{await measure(process, blobs, requests, case)}")
        server_s, started_s = server_cpu_s(process.pid), time.perf_counter()
        await container.upload_blob("large", bytes(LARGE_MB * 1024 * 1024), max_concurrency=4)
        took_s, cpu_s = time.perf_counter() - started_s, server_cpu_s(process.pid) - server_s
        print(f"{f'put {LARGE_MB} MB':16}{LARGE_MB / took_s:8.0f} MB/s   server {cpu_s:.2f} s")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000, help="of each case")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--data", type=Path, help="where the emulator keeps its files; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(bench(given.requests, given.concurrency, given.data or Path(folder)))


if __name__ == "__main__":
    main()
