"""Processes that do not outlive their test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc


async def end(process: anyio.abc.Process) -> None:
    """`kill -9` it, if it has not ended, and see it gone."""
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def gone_at_end(process: anyio.abc.Process) -> AsyncIterator[anyio.abc.Process]:
    """At the end of the context the process has ended, if need be by `kill -9`, and its pipes are closed."""
    try:
        yield process
    finally:
        await end(process)
        with anyio.CancelScope(shield=True):
            await process.aclose()
