"""The client for programs without an event loop: the asynchronous one on a thread of its own."""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Final, Self, TypedDict, TypeVar, Unpack
from weakref import WeakSet

from anyio.from_thread import BlockingPortal, start_blocking_portal

from brook_client import client as asynchronous
from brook_client.claims import ClaimUploads
from brook_client.connect import ConnectServiceBus
from brook_client.errors import BrookClientError
from brook_client.messages import ReceivedReply
from schemas.commands import Command, Expected, NewEvent
from schemas.events import RecordedEvent
from schemas.keys import BrookKey
from schemas.replies import Reply
from schemas.types import CommandId
from worker.storage.base import BrookReader

_T = TypeVar("_T")

_READ_TOGETHER: Final = 200
"""Events handed from one thread to the other at once."""

_NOT_OPEN: Final = "the client is not open; use it inside its `with` block"

_OF_ANOTHER_PROCESS: Final = "the client was opened in another process; open one in each, after forking"

OpenReader = Callable[[], AbstractAsyncContextManager[BrookReader]]
"""Opens a reader in the client's event loop, where it lives."""

OpenClaims = Callable[[], AbstractAsyncContextManager[ClaimUploads]]
"""Opens what uploads large commands in the client's event loop, where it lives."""


class Options(TypedDict, total=False):
    """The options of the asynchronous client, of the same names and defaults."""

    command_queue: str
    reply_queue: str | None
    reply_topic: str | None
    subscription: str | None
    subscription_sessions: bool
    reply_session_id: str | None
    content_type: str
    session_buckets: int | None
    send_time_max_s: float


class BrookClient:
    """Sends append commands, awaits their replies and reads brooks, in blocking calls.

    Guarantees: those of the asynchronous client. May be used by many threads at once; commands that they send at the
    same time travel together. Each call takes a bounded time; one that is interrupted, say by Ctrl-C, is cancelled.
    Leaving the `with` ends calls that are under way in other threads with an error, within seconds.

    To be entered with `with`, in the process that uses it: threads do not survive a fork.
    """

    def __init__(
        self,
        connect: ConnectServiceBus,
        *,
        open_reader: OpenReader | None = None,
        open_claims: OpenClaims | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._connect = connect
        self._open_reader = open_reader
        self._open_claims = open_claims
        self._options = options
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._is_of_another_process = False

    def __enter__(self) -> Self:
        """Start the thread. Nothing is sent yet, but what there is to open is opened."""
        if self._portal is not None:
            raise BrookClientError("the client is open already; share it between threads, or make another one")
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            stack.callback(_end, portal)
            reader = None
            if self._open_reader is not None:
                reader = stack.enter_context(portal.wrap_async_context_manager(self._open_reader()))
            claims = None
            if self._open_claims is not None:
                claims = stack.enter_context(portal.wrap_async_context_manager(self._open_claims()))
            make = partial(asynchronous.BrookClient, self._connect, reader=reader, claims=claims, **self._options)
            client = portal.call(make)
            self._client = stack.enter_context(portal.wrap_async_context_manager(client))
            self._portal = portal
            self._is_of_another_process = False
            self._stack = stack.pop_all()
        _OPEN.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, within a bound. Calls of other threads that are under way end in an error."""
        self._portal = None
        _OPEN.discard(self)
        self._stack.close()

    def append(
        self,
        brook: BrookKey | str,
        events: Iterable[NewEvent],
        *,
        expected: Expected = "any",
        command_id: CommandId | str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        timeout_s: float = 30.0,
    ) -> Reply:
        """Send one append command and wait for its reply. Raises as the asynchronous client's `append` does."""
        taken = tuple(events)
        return self._call(
            lambda: self._client.append(
                brook,
                taken,
                expected=expected,
                command_id=command_id,
                correlation_id=correlation_id,
                causation_id=causation_id,
                timeout_s=timeout_s,
            )
        )

    def request(self, command: Command, *, timeout_s: float = 30.0) -> ReceivedReply:
        """Send a command and wait for its reply, with the facts that came along. Raises as `append` does."""
        return self._call(lambda: self._client.request(command, timeout_s=timeout_s))

    def request_many(self, commands: Iterable[Command], *, timeout_s: float = 30.0) -> list[ReceivedReply]:
        """Send commands together and wait for the reply to each; the replies in the same order."""
        taken = tuple(commands)
        return self._call(lambda: self._client.request_many(taken, timeout_s=timeout_s))

    def send(self, command: Command) -> None:
        """Send a command without waiting for its reply. Returns once the queue has it."""
        self._call(lambda: self._client.send(command))

    def send_many(self, commands: Iterable[Command]) -> int:
        """Send commands in as few batches as fit, in order; returns how many."""
        # Taken here: an iterable that blocks must not block the event loop.
        taken = tuple(commands)
        return self._call(lambda: self._client.send_many(taken))

    def read(
        self, brook: BrookKey | str, *, from_position: int | None = None, backward: bool = False
    ) -> Iterator[RecordedEvent]:
        """Read committed events, as the asynchronous client does. Needs `open_reader`."""
        self._open_portal()
        return self._chunks(self._client.read(brook, from_position=from_position, backward=backward))

    def _chunks(self, events: AsyncIterator[RecordedEvent]) -> Iterator[RecordedEvent]:
        try:
            while chunk := self._call(partial(_next_of, events)):
                yield from chunk
        finally:
            if isinstance(events, AsyncGenerator):
                with suppress(BrookClientError):  # the client was closed meanwhile, and the generator with it
                    self._call(events.aclose)

    def _open_portal(self) -> BlockingPortal:
        portal = self._portal  # another thread may close the client at any moment
        if portal is None:
            raise BrookClientError(_OF_ANOTHER_PROCESS if self._is_of_another_process else _NOT_OPEN)
        return portal

    def forget(self) -> None:
        """Let go of what another process has open, whose thread is not here: closing it would wait for ever."""
        if self._portal is not None:
            self._portal._event_loop_thread_id = None  # noqa: SLF001 - so it knows that it does not run
        self._portal = None
        self._is_of_another_process = True
        self._stack.pop_all()

    def _call(self, act: Callable[[], Awaitable[_T]]) -> _T:
        """Do something on the event loop's thread and wait for it."""
        portal = self._open_portal()
        try:
            future = portal.start_task_soon(act)
        except RuntimeError as error:
            raise BrookClientError(_NOT_OPEN) from error
        try:
            return future.result()
        except CancelledError as error:
            raise BrookClientError("the client was closed meanwhile; what was sent may still take effect") from error
        except BaseException:
            future.cancel()  # this thread was interrupted: nobody waits any more
            raise


async def _next_of(events: AsyncIterator[RecordedEvent]) -> list[RecordedEvent]:
    chunk: list[RecordedEvent] = []
    async for event in events:
        chunk.append(event)
        if len(chunk) == _READ_TOGETHER:
            break
    return chunk


def _end(portal: BlockingPortal) -> None:
    """Cancel the calls that are still under way: closing has ended those that end by themselves."""
    portal.call(portal.stop, True)


_OPEN: Final[WeakSet[BrookClient]] = WeakSet()


def _forget_all() -> None:
    for client in tuple(_OPEN):
        client.forget()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
