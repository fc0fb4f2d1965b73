"""Stopping on a signal, for the workers that ours is compared with."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import anyio
import anyio.abc


class Stopping:
    """Set by SIGTERM or SIGINT. What is in hand is finished; what only waits is cancelled."""

    def __init__(self) -> None:
        self._waiting: set[anyio.CancelScope] = set()
        self.is_set = False

    async def watch(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Wait for a signal, then stop."""
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            await anext(aiter(signals))
        self.is_set = True
        for scope in self._waiting:
            scope.cancel()

    @contextmanager
    def scope(self) -> Iterator[anyio.CancelScope]:
        """Run a wait that is cancelled when it is time to stop."""
        with anyio.CancelScope() as scope:
            if self.is_set:
                scope.cancel()
            self._waiting.add(scope)
            try:
                yield scope
            finally:
                self._waiting.discard(scope)


def end_at_once() -> NoReturn:
    """End the process: everything is settled, and closing a hundred connections in good order takes many seconds."""
    os._exit(0)
