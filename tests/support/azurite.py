"""Azurite, an implementation of Blob Storage that nobody here wrote, as a witness for the same test suites."""

import contextlib
import re
import selectors
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import NodeUnavailableError, installed, node

VERSION = "3.35.0"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
START_S = 30
STOP_S = 5
_LISTENS = re.compile(r"successfully listens on (http://[\d.]+:\d+)")


@contextlib.contextmanager
def azurite() -> Iterator[str]:
    """A connection string of an empty Azurite on a free port, for as long as the context lasts.

    Skips the test, with the reason, where node or npm is absent or the package cannot be installed.
    """
    try:
        script = installed(f"azurite-{VERSION}", f"azurite@{VERSION}") / "node_modules/azurite/dist/src/blob/main.js"
        executable = node()
    except NodeUnavailableError as error:
        pytest.skip(f"Azurite: {error}")
    process = _start(executable, script)
    try:
        endpoint = _await_endpoint(process)
        yield (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint}/{ACCOUNT};"
        )
    finally:
        _stop(process)


def _start(executable: str, script: Path) -> subprocess.Popen[bytes]:
    options = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--skipApiVersionCheck", "--disableTelemetry"]
    return subprocess.Popen(
        [executable, str(script), *options, "--silent", "--inMemoryPersistence"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _await_endpoint(process: subprocess.Popen[bytes]) -> str:
    """Read what Azurite prints until it says where it listens."""
    assert process.stdout is not None
    deadline_s = time.monotonic() + START_S
    printed = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline_s:
            if not selector.select(timeout=deadline_s - time.monotonic()):
                break
            piece = process.stdout.read1(65536)  # type: ignore[attr-defined]  # a pipe's reader is buffered
            printed += piece
            if found := _LISTENS.search(printed.decode(errors="replace")):
                return found[1]
            if not piece:
                break
    raise RuntimeError(f"Azurite did not listen within {START_S} s; it printed: {printed.decode(errors='replace')}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_S)
    if process.stdout is not None:
        process.stdout.close()
