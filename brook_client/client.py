"""The producer's side of the worker: send append commands, await their replies, read brooks."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Final, Self

import anyio
from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError, ServiceBusError

from brook_client.connect import ConnectServiceBus
from brook_client.dispatch import Listener, ReplyDispatcher
from brook_client.errors import CommandTooLargeError, ReplyUnavailableError, SendError
from brook_client.messages import ReceivedReply, command_message
from brook_client.reading import read
from brook_client.replies import ReplyReceiver
from schemas import codec
from schemas.commands import AppendCommand, Expected, NewEvent
from schemas.events import RecordedEvent
from schemas.keys import BrookKey
from schemas.replies import Reply
from schemas.types import CommandId
from worker.storage.base import BrookReader

_SEND_TIMEOUT_S: Final = 30.0
_OPEN_TIMEOUT_S: Final = 30.0
_SEND_RETRIES: Final = 3
_CLOSE_TIMEOUT_S: Final = 5.0
_RECEIVER_SOCKET_TIMEOUT_S: Final = 0.05

OnSent = Callable[[int], None]


class BrookClient:
    """Sends append commands, awaits their replies and reads brooks.

    Guarantees: commands of one `send_many` reach their brooks in the order given, and a command id takes effect at
    most once however often it is sent. Not guaranteed: that a command whose send failed or whose reply is late had
    no effect; send it again under its id to find out.

    To be entered with `async with`, in one event loop; its methods may be called from many tasks. Each client has
    a session of its own in the reply queue, which it opens when it first awaits a reply. `connect` comes from
    `with_connection_string` or `with_credential`; `content_type` is that of commands and of their replies. The
    command queue must not be partitioned: one batch holds commands of several sessions. Without a `reply_queue`
    (where replies go to a topic, say) commands can be sent, but their replies not be awaited. `session_buckets` must
    be the workers' setting of that name.
    """

    def __init__(
        self,
        connect: ConnectServiceBus,
        *,
        command_queue: str = "brook-commands",
        reply_queue: str | None = "brook-replies",
        content_type: str = codec.JSON,
        reader: BrookReader | None = None,
        session_buckets: int | None = None,
    ) -> None:
        self._connect = connect
        self._command_queue = command_queue
        self._reply_queue = reply_queue
        self._content_type = content_type
        self._reader = reader
        self._session_buckets = session_buckets
        self._reply_session_id = f"client-{uuid.uuid4()}"
        self._dispatcher = ReplyDispatcher()
        self._replies: ReplyReceiver | None = None
        # An azure-servicebus sender is not safe for concurrent use while it opens, which it may do again at any
        # send once its link was lost: one send at a time.
        self._send_lock = anyio.Lock()

    async def __aenter__(self) -> Self:
        """Nothing is connected yet: the first send and the first awaited reply do that."""
        self._sending = self._connect(_SEND_RETRIES)
        # The receiver's retries are ours: the library's would insist on a session lock that is gone for good.
        self._receiving = self._connect(0)
        self._sender: ServiceBusSender = self._sending.get_queue_sender(self._command_queue)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading replies and close, within a bound, also when cancelled. Waits still going on end in error."""
        self._dispatcher.fail_all(ReplyUnavailableError("the client was closed; commands sent may still take effect"))
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._close_sender)
                if self._replies is not None:
                    await self._replies.stop()
                await _close(self._receiving)

    async def _close_sender(self) -> None:
        """Let a send that is under way end first: one that opens its link meanwhile would leave its socket open."""
        with anyio.move_on_after(_CLOSE_TIMEOUT_S):
            async with self._send_lock:
                await self._sending.close()
            return
        await _close(self._sending)

    async def append(
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
        """Send one append command and await its reply.

        Give a `command_id` to be able to repeat the call safely; without one a new UUID is used.

        Raises:
            ReplyTimeoutError: no reply within `timeout_s`; the command may still take effect.
            SendError: the queue did not confirm; the command may still take effect.
            CommandTooLargeError: nothing was sent.
            ReplyUnavailableError: the reply queue cannot be read.
            InvalidBrookKeyError: `brook` is text and no brook key.
        """
        command = AppendCommand(
            command_id=CommandId(command_id or str(uuid.uuid4())),
            brook=BrookKey.parse(brook) if isinstance(brook, str) else brook,
            expected=expected,
            events=tuple(events),
            correlation_id=correlation_id,
            causation_id=causation_id,
        )
        return (await self.request(command, timeout_s=timeout_s)).reply

    async def request(self, command: AppendCommand, *, timeout_s: float = 30.0) -> ReceivedReply:
        """Send a command and await its reply, with the facts that came along. Raises as `append` does.

        A command that this client has a reply to is answered from memory (the last thousand are kept).
        """
        if (known := self._dispatcher.recall(command)) is not None:
            return known
        self._read_replies()
        with self._dispatcher.expect(command) as waiter:
            await self.send(command)
            return await self._dispatcher.reply(waiter, timeout_s=timeout_s)

    async def send(self, command: AppendCommand) -> None:
        """Send a command without awaiting its reply. Returns once the queue has it."""
        await self.send_many((command,))

    async def send_many(self, commands: Iterable[AppendCommand], *, on_sent: OnSent | None = None) -> int:
        """Send commands in as few batches as fit, in order; returns how many.

        `on_sent` is called with the number of commands in each batch that the queue has confirmed. A failure in
        the middle leaves the confirmed batches sent.

        Raises:
            SendError: a batch was not confirmed; what of it took effect is not known.
            CommandTooLargeError: one command does not fit a message; those before it were sent.
        """
        sent = 0
        async with self._send_lock:
            batch = await self._new_batch()
            for command in commands:
                message = self._message(command)
                if _fits(batch, message):
                    continue
                sent += await self._send_batch(batch, on_sent)
                batch = await self._new_batch()
                if not _fits(batch, message):
                    sent += await self._send_alone(command.command_id, message, on_sent)
            return sent + await self._send_batch(batch, on_sent)

    def listen(self, listener: Listener) -> AbstractContextManager[None]:
        """Have `listener` called with every reply of this client while the context lasts.

        For those who send many commands and count: each delivery's reply comes, also the second one of a command
        that was sent twice. Enter it before the commands are sent.
        """
        self._read_replies()
        return self._dispatcher.listen(listener)

    def read(
        self, brook: BrookKey | str, *, from_position: int | None = None, backward: bool = False
    ) -> AsyncIterator[RecordedEvent]:
        """Read committed events: forward from `from_position` (default 0), or backward from it (default: the head).

        Events past the head are never shown. Raises RuntimeError where the client was made without a reader.
        """
        if self._reader is None:
            raise RuntimeError("this client cannot read: give it a reader when you make it")
        return read(self._reader, brook, from_position=from_position, backward=backward)

    def _read_replies(self) -> None:
        """Start the reply task when it is first needed; those who only send need no session."""
        if self._replies is None:
            if self._reply_queue is None:
                raise ReplyUnavailableError("this client has no reply queue; give it one, or send without awaiting")
            open_receiver = partial(
                self._receiving.get_queue_receiver,
                self._reply_queue,
                session_id=self._reply_session_id,
                prefetch_count=0,
                socket_timeout=_RECEIVER_SOCKET_TIMEOUT_S,
            )
            self._replies = ReplyReceiver(open_receiver, self._dispatcher)
            self._replies.start()

    def _message(self, command: AppendCommand) -> ServiceBusMessage:
        return command_message(
            command,
            content_type=self._content_type,
            reply_queue=self._reply_queue,
            reply_session_id=self._reply_session_id if self._reply_queue else None,
            session_buckets=self._session_buckets,
        )

    async def _new_batch(self) -> ServiceBusMessageBatch:
        """Make a batch of the size that the queue allows, which the sender learns by opening its link."""
        # Shielded, for a cancelled open leaves the sender unusable; and bounded here, for the library does not.
        with anyio.move_on_after(_OPEN_TIMEOUT_S, shield=True):
            try:
                return await self._sender.create_message_batch()
            except (ServiceBusError, OSError) as error:
                raise SendError(f"cannot send to {self._command_queue!r}: {error}") from error
        self._sender = self._sending.get_queue_sender(self._command_queue)
        raise SendError(f"cannot send to {self._command_queue!r}: its link did not open within {_OPEN_TIMEOUT_S:g} s")

    async def _send_batch(self, batch: ServiceBusMessageBatch, on_sent: OnSent | None) -> int:
        count = len(batch)
        if count:
            await self._confirmed(batch, count, on_sent)
        return count

    async def _send_alone(self, command_id: CommandId, message: ServiceBusMessage, on_sent: OnSent | None) -> int:
        """Send one message that no batch holds; a premium queue takes larger messages than batches.

        Its size is checked here: the queue would detach the link, which the library reports as an unknown error.
        """
        message_bytes_max = self._sender._max_message_size_on_link  # noqa: SLF001 - known to the library, but not told
        if not _fits(ServiceBusMessageBatch(max_size_in_bytes=message_bytes_max), message):
            raise CommandTooLargeError(command_id, message_bytes_max=message_bytes_max)
        await self._confirmed(message, 1, on_sent)
        return 1

    async def _confirmed(
        self, sending: ServiceBusMessage | ServiceBusMessageBatch, count: int, on_sent: OnSent | None
    ) -> None:
        with anyio.CancelScope(shield=True):  # a cancelled send leaves the link in doubt; it is bounded by itself
            try:
                await self._sender.send_messages(sending, timeout=_SEND_TIMEOUT_S)
            except (ServiceBusError, OSError) as error:
                raise SendError(
                    f"{self._command_queue!r} did not confirm {count} commands, which may still take effect; sending"
                    f" them again under the same command ids is safe: {error}"
                ) from error
        if on_sent is not None:
            on_sent(count)


async def _close(client: ServiceBusClient) -> None:
    with anyio.move_on_after(_CLOSE_TIMEOUT_S):
        await client.close()


def _fits(batch: ServiceBusMessageBatch, message: ServiceBusMessage) -> bool:
    try:
        batch.add_message(message)
    except MessageSizeExceededError:
        return False
    return True
