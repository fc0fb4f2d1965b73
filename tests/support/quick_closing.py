"""Closing a Service Bus client without the second that its keep-alive task takes to notice.

The asynchronous client of azure-servicebus 7.15 closes its connection first and then waits for that task, which looks
once a second whether it is to end. Hundreds of tests would wait for it. Nothing that is sent or received changes.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest
from azure.servicebus._pyamqp.aio._client_async import AMQPClientAsync

_LOOK_S: Final = 0.02
_OWN: Final[Callable[[Any], Coroutine[Any, Any, None]]] = AMQPClientAsync._keep_alive_async


def close_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the keep-alive task of every client end as soon as the client is being closed."""

    async def ending_soon(client: Any) -> None:
        task = asyncio.ensure_future(_OWN(client))
        try:
            while not task.done() and not client._shutdown:
                await asyncio.wait([task], timeout=_LOOK_S)
        finally:
            task.cancel()
            await asyncio.wait([task])

    monkeypatch.setattr(AMQPClientAsync, "_keep_alive_async", ending_soon)


def close_at_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the client as it is, for a test of how the product closes it."""
    monkeypatch.setattr(AMQPClientAsync, "_keep_alive_async", _OWN)
