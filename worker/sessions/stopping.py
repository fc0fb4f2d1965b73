"""Stopping by flag: what is in hand is finished, what only waits is cancelled."""

from types import TracebackType

import anyio


class Stopping:
    """Set once. Waits that nothing depends on run inside `unless_stopping`."""

    def __init__(self) -> None:
        self._waiting: set[anyio.CancelScope] = set()
        self._is_set = False

    @property
    def is_set(self) -> bool:
        """Whether the worker is to stop."""
        return self._is_set

    def set(self) -> None:
        """Stop: cancel what only waits. Idempotent."""
        self._is_set = True
        for scope in self._waiting:
            scope.cancel()

    def unless_stopping(self) -> "_Wait":
        """Run a wait that is cancelled, and left without an error, when it is time to stop."""
        return _Wait(self._waiting, cancelled=self._is_set)

    async def sleep(self, seconds: float) -> None:
        """Sleep, or wake up to stop."""
        with self.unless_stopping():
            await anyio.sleep(seconds)


class _Wait:
    """A cancel scope that is known to the flag while it is open."""

    def __init__(self, waiting: set[anyio.CancelScope], *, cancelled: bool) -> None:
        self._waiting = waiting
        self._scope = anyio.CancelScope()
        if cancelled:
            self._scope.cancel()

    def __enter__(self) -> None:
        self._scope.__enter__()
        self._waiting.add(self._scope)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._waiting.discard(self._scope)
        return bool(self._scope.__exit__(kind, error, traceback))
