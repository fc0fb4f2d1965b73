"""Who waits for which reply. Pure bookkeeping: no sockets, no tasks."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from brook_client.errors import BrookClientError, ReplyTimeoutError
from brook_client.log import log
from brook_client.messages import ReceivedReply
from schemas.codec import encode_command
from schemas.commands import Command
from schemas.types import CommandId

_REMEMBERED_MAX: Final = 1_000

Listener = Callable[[ReceivedReply], None]


class Waiter:
    """A place for one reply, or for the error that ended the wait."""

    def __init__(self, command_id: CommandId) -> None:
        self.command_id = command_id
        self._arrived = anyio.Event()
        self._outcome: ReceivedReply | BrookClientError | None = None

    def settle(self, outcome: ReceivedReply | BrookClientError) -> None:
        """Give the outcome; only the first one counts."""
        if self._outcome is None:
            self._outcome = outcome
            self._arrived.set()

    async def outcome(self) -> ReceivedReply:
        """Wait for the reply, without a bound. Raises the error that ended the wait."""
        await self._arrived.wait()
        match self._outcome:
            case ReceivedReply() as reply:
                return reply
            case BrookClientError() as error:
                raise error
            case None:
                raise AssertionError("a waiter arrived without an outcome")


class _Asked:
    """A command that somebody waited for, and its reply once it came, be it late."""

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.reply: ReceivedReply | None = None


class ReplyDispatcher:
    """Hands each reply to everyone who waits for its command.

    Guarantee: a reply ends all waits for its command id, since every reply to a command has the same content. The
    replies to the last thousand commands waited for are remembered, or to as many as were ever waited for at once, also
    those that came too late: a reply queue with duplicate detection would drop the reply to the command sent again.
    """

    def __init__(self) -> None:
        self._waiters: dict[CommandId, list[Waiter]] = {}
        self._listeners: list[Listener] = []
        self._asked: OrderedDict[CommandId, _Asked] = OrderedDict()
        self._remembered_max = _REMEMBERED_MAX
        self.trouble: str | None = None
        """Why replies cannot be read at present, for the error of those who wait in vain."""

    @property
    def wanted(self) -> int:
        """How many commands somebody waits for."""
        return len(self._waiters)

    @property
    def has_listeners(self) -> bool:
        """Whether somebody wants all replies."""
        return bool(self._listeners)

    def recall(self, command: Command) -> ReceivedReply | None:
        """The reply to this very command, content included, if it came and is remembered."""
        asked = self._asked.get(command.command_id)
        return asked.reply if asked is not None and asked.digest == _digest(command) else None

    @contextmanager
    def expect(self, command: Command) -> Iterator[Waiter]:
        """Wait for a command's reply while the context lasts. Enter it before the command is sent."""
        command_id, digest = command.command_id, _digest(command)
        waiter = Waiter(command_id)
        self._waiters.setdefault(command_id, []).append(waiter)
        self._remembered_max = max(self._remembered_max, len(self._waiters))
        self._remember(command_id, digest)
        try:
            yield waiter
        finally:
            waiters = self._waiters[command_id]
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[command_id]

    @contextmanager
    def listen(self, listener: Listener) -> Iterator[None]:
        """Have `listener` called with every reply while the context lasts."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def dispatch(self, reply: ReceivedReply) -> bool:
        """Give `reply` to its waiters and to all listeners; False when nobody waited for it."""
        if (asked := self._asked.get(reply.command_id)) is not None:
            asked.reply = reply
        waiters = self._waiters.get(reply.command_id, [])
        for waiter in waiters:
            waiter.settle(reply)
        for listener in tuple(self._listeners):
            try:
                listener(reply)
            except Exception as error:  # noqa: BLE001 - raised here, it would bring the same reply again without end
                log.error("client.listener-failed", command_id=reply.command_id, exc_info=error)
        return bool(waiters)

    def fail(self, command_id: CommandId, error: BrookClientError) -> None:
        """End the waits for one command with `error`."""
        for waiter in self._waiters.get(command_id, []):
            waiter.settle(error)

    def fail_all(self, error: BrookClientError) -> None:
        """End every wait with `error`."""
        for command_id in tuple(self._waiters):
            self.fail(command_id, error)

    async def reply(self, waiter: Waiter, *, timeout_s: float) -> ReceivedReply:
        """Wait at most `timeout_s`. Raises ReplyTimeoutError, or the error that ended the wait."""
        with anyio.move_on_after(timeout_s):
            return await waiter.outcome()
        raise ReplyTimeoutError(waiter.command_id, waited_s=timeout_s, reason=self.trouble)

    def _remember(self, command_id: CommandId, digest: bytes) -> None:
        """Note what is asked for. The same id with another content is another question."""
        asked = self._asked.get(command_id)
        if asked is None or asked.digest != digest:
            self._asked[command_id] = _Asked(digest)
        self._asked.move_to_end(command_id)
        while len(self._asked) > self._remembered_max:
            self._asked.popitem(last=False)


def _digest(command: Command) -> bytes:
    return hashlib.blake2b(encode_command(command)).digest()
