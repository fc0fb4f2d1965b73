"""Waiting for a condition instead of for a time."""

from collections.abc import Awaitable, Callable

import anyio

POLL_S = 0.01


async def wait_until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], message: str, timeout_s: float = 10.0
) -> None:
    """Return once `condition` holds; after `timeout_s` fail with `message`, which says what was waited for."""
    deadline_s = anyio.current_time() + timeout_s
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        if anyio.current_time() >= deadline_s:
            raise AssertionError(f"after {timeout_s} s still not: {message}")
        await anyio.sleep(POLL_S)
