"""The producer's side of the worker: send append commands, await their replies, read brooks."""

import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import chain
from types import TracebackType
from typing import Final, Self

import anyio
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

from brook_client.claims import ClaimUploads
from brook_client.connect import ConnectServiceBus
from brook_client.dispatch import Listener, ReplyDispatcher
from brook_client.errors import BrookClientError, ReplyUnavailableError
from brook_client.messages import ReceivedReply
from brook_client.packing import Packing
from brook_client.reading import read
from brook_client.replies import ReplyReceiver
from brook_client.sending import CommandSender, OnSent, Outgoing
from brook_client.tracing import append_span, note_outcome
from schemas import codec
from schemas.commands import AppendCommand, Command, Expected, NewEvent
from schemas.events import RecordedEvent
from schemas.keys import BrookKey
from schemas.replies import Reply
from schemas.types import CommandId
from worker.storage.base import BrookReader

_SEND_TIME_MAX_S: Final = 30.0
_CLOSE_TIMEOUT_S: Final = 5.0
_RECEIVER_SOCKET_TIMEOUT_S: Final = 0.05


class BrookClient:
    """Sends append commands, awaits their replies and reads brooks.

    Guarantees: commands of one `send_many` reach their brooks in the order given, and a command id takes effect at
    most once however often it is sent. A send that was not confirmed is repeated under the same ids for
    `send_time_max_s`. Not guaranteed: that a command whose send failed or whose reply is late had no effect; send it
    again under its id to find out.

    To be entered with `async with`, in one event loop; its methods may be called from many tasks. Commands that many
    tasks send at once travel together. `connect` comes from `with_connection_string` or `with_credential`;
    `content_type` is that of commands and of their replies. The command queue must not be partitioned: one batch holds
    commands of several sessions. `session_buckets` must be the workers' setting of that name.

    Replies come to a session of its own in `reply_queue`, opened when a reply is first awaited. With `reply_topic` they
    come to `subscription` of that topic instead: to the client's session there, or, with `subscription_sessions` off,
    to all of the subscription, which then must be for this client alone, say by a correlation filter on the session id;
    give `reply_session_id` what the filter looks for. With neither queue nor topic, commands can be sent, but their
    replies not be awaited.

    With `claims`, the events of a command that is too large for a message go into a blob first.
    """

    def __init__(
        self,
        connect: ConnectServiceBus,
        *,
        command_queue: str = "brook-commands",
        reply_queue: str | None = "brook-replies",
        reply_topic: str | None = None,
        subscription: str | None = None,
        subscription_sessions: bool = True,
        reply_session_id: str | None = None,
        content_type: str = codec.JSON,
        reader: BrookReader | None = None,
        session_buckets: int | None = None,
        send_time_max_s: float = _SEND_TIME_MAX_S,
        claims: ClaimUploads | None = None,
    ) -> None:
        way_there: object = connect
        if isinstance(way_there, str):
            raise TypeError("connect: is text; give with_connection_string(…) or with_credential(…)")
        if (reply_topic is None) != (subscription is None):
            raise ValueError("replies of a topic come by a subscription: give both reply_topic and subscription")
        self._connect = connect
        self._command_queue = command_queue
        self._reply_to = reply_topic if reply_topic is not None else reply_queue
        self._subscription = subscription
        self._has_reply_session = subscription is None or subscription_sessions
        self._reader = reader
        self._send_time_max_s = send_time_max_s
        self._reply_session_id = reply_session_id or f"client-{uuid.uuid4()}"
        self._packing = Packing(
            content_type=content_type,
            reply_to=self._reply_to,
            reply_session_id=self._reply_session_id if self._reply_to else None,
            session_buckets=session_buckets,
            claims=claims,
        )
        self._dispatcher = ReplyDispatcher()
        self._replies: ReplyReceiver | None = None
        self._was_entered = False
        self._is_open = False

    async def __aenter__(self) -> Self:
        """Nothing is connected yet: the first send and the first awaited reply do that. Once for each client."""
        if self._was_entered:
            raise BrookClientError("a client can be entered once; make another one")
        self._was_entered = self._is_open = True
        # All retries are ours: the library's would insist on a session lock that is gone for good, and repeat what a
        # task was cancelled for.
        self._sending = self._connect(0)
        self._receiving = self._connect(0)
        self._sender = CommandSender(self._sending, self._command_queue, time_max_s=self._send_time_max_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading replies and close, within a bound, also when cancelled. Waits still going on end in error."""
        self._is_open = False
        self._dispatcher.fail_all(ReplyUnavailableError("the client was closed; commands sent may still take effect"))
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._close_sender)
                if self._replies is not None:
                    await self._replies.stop()
                await _close(self._receiving)

    async def _close_sender(self) -> None:
        """Let a send that is under way end first: one that opens its link meanwhile would leave its socket open."""
        await self._sender.close()
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
            CommandTooLargeError, ClaimUploadError: nothing was sent.
            ReplyUnavailableError: the reply queue cannot be read.
            InvalidBrookKeyError: `brook` is text and no brook key.
            ValueError: an id that no message can have, or a number in metadata that is not finite; nothing was sent.
            TypeError: data that is not bytes, or metadata that JSON cannot hold; nothing was sent.
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

    async def request(self, command: Command, *, timeout_s: float = 30.0) -> ReceivedReply:
        """Send a command and await its reply, with the facts that came along. Raises as `append` does.

        A command that this client has a reply to is answered from memory (the last thousand are kept, or as many as it
        ever waited for at once).
        """
        if (known := self._dispatcher.recall(command)) is not None:
            return known
        self._read_replies()
        with self._dispatcher.expect(command) as waiter, append_span(command, self._command_queue) as span:
            await self.send(command)
            received = await self._dispatcher.reply(waiter, timeout_s=timeout_s)
            note_outcome(span, received.reply)
            return received

    async def request_many(self, commands: Iterable[Command], *, timeout_s: float = 30.0) -> list[ReceivedReply]:
        """Send commands in as few batches as fit and await the reply to each; the replies in the same order.

        `timeout_s` is for all of them, from when they are sent. Raises as `append` does, for the first command without
        a reply; call it again with the same commands to go on.
        """
        wanted = tuple(commands)
        known = {each.command_id: reply for each in wanted if (reply := self._dispatcher.recall(each)) is not None}
        unknown = [each for each in wanted if each.command_id not in known]
        if unknown:
            self._read_replies()
        with ExitStack() as stack:
            waiters = [stack.enter_context(self._dispatcher.expect(each)) for each in unknown]
            await self.send_many(unknown)
            ends_s = anyio.current_time() + timeout_s
            for waiter in waiters:
                left_s = max(ends_s - anyio.current_time(), 0.0)
                known[waiter.command_id] = await self._dispatcher.reply(waiter, timeout_s=left_s)
        return [known[each.command_id] for each in wanted]

    async def send(self, command: Command) -> None:
        """Send a command without awaiting its reply. Returns once the queue has it.

        Raises SendError, CommandTooLargeError or ClaimUploadError, as `append` does, and ValueError for an id that no
        message can have or a number in metadata that is not finite.
        """
        self._check_open()
        await self._sender.send(command.command_id, await self._packing.message(command))

    async def send_many(self, commands: Iterable[Command], *, on_sent: OnSent | None = None) -> int:
        """Send commands in as few batches as fit, in order; returns how many.

        `on_sent` is called with the number of commands in each batch that the queue has confirmed. A failure in
        the middle leaves the confirmed batches sent.

        Raises:
            SendError: a batch was not confirmed; what of it took effect is not known.
            CommandTooLargeError, ClaimUploadError: of one command; those before it were sent.
            ValueError: of one command, as `send` raises it; of those before it the confirmed batches were sent.
        """
        self._check_open()
        remaining = iter(commands)
        claimed: list[Command] = []
        large: list[Command] = []

        def outgoing() -> Iterator[Outgoing]:
            for each in chain(claimed, remaining):
                if (message := self._packing.message_if_small(each)) is None:
                    large.append(each)
                    return
                yield each.command_id, message

        sent = await self._sender.send_many(outgoing(), on_sent)
        while large:
            claimed[:] = [await self._packing.uploaded(large.pop())]
            sent += await self._sender.send_many(outgoing(), on_sent)
        return sent

    def listen(self, listener: Listener) -> AbstractContextManager[None]:
        """Have `listener` called with every reply of this client while the context lasts.

        For those who send many commands and count: each delivery's reply comes, also the second one of a command
        that was sent twice. Enter it before the commands are sent. What it raises is logged and keeps no reply from
        anybody else.
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
            raise RuntimeError("this client cannot read: make it with `reader`, a blocking one with `open_reader`")
        return read(self._reader, brook, from_position=from_position, backward=backward)

    def _check_open(self) -> None:
        if not self._is_open:
            raise BrookClientError("the client is not open; use it inside its `async with` block")

    def _read_replies(self) -> None:
        """Start the reply task when it is first needed; those who only send need no session."""
        self._check_open()
        if self._replies is None:
            if self._reply_to is None:
                raise ReplyUnavailableError(
                    "this client has no reply queue; give it one or a reply topic, or send without awaiting"
                )
            self._replies = ReplyReceiver(self._open_replies, self._dispatcher, has_session=self._has_reply_session)
            self._replies.start()

    def _open_replies(self) -> ServiceBusReceiver:
        assert self._reply_to is not None, "there is a reply task only where replies go somewhere"
        if self._subscription is None:
            return self._receiving.get_queue_receiver(
                self._reply_to,
                session_id=self._reply_session_id,
                prefetch_count=0,
                socket_timeout=_RECEIVER_SOCKET_TIMEOUT_S,
            )
        return self._receiving.get_subscription_receiver(
            self._reply_to,
            self._subscription,
            session_id=self._reply_session_id if self._has_reply_session else None,
            prefetch_count=0,
            socket_timeout=_RECEIVER_SOCKET_TIMEOUT_S,
        )


async def _close(client: ServiceBusClient) -> None:
    with anyio.move_on_after(_CLOSE_TIMEOUT_S):
        await client.close()
