"""Several calls at once, their results in the order of the calls."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import anyio

_T = TypeVar("_T")


async def concurrently(calls: Iterable[Callable[[], Awaitable[_T]]]) -> list[_T]:
    """Run all in a task group: when one fails the others are cancelled."""
    results: dict[int, _T] = {}

    async def run(index: int, call: Callable[[], Awaitable[_T]]) -> None:
        results[index] = await call()

    async with anyio.create_task_group() as tasks:
        for index, call in enumerate(calls):
            tasks.start_soon(run, index, call)
    return [results[index] for index in sorted(results)]
