"""Puts messages into the command queue: in order, in few batches, with retries that are bounded in time."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

import anyio
from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender
from azure.servicebus.exceptions import (
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
)
from tenacity import AsyncRetrying, retry_if_exception, stop_before_delay, wait_random_exponential

from brook_client.errors import CommandTooLargeError, SendError
from brook_client.log import log
from schemas.types import CommandId
from worker.closing import close_without_pause

OnSent = Callable[[int], None]
"""Called with the number of commands in each batch that the queue has confirmed."""

Outgoing = tuple[CommandId, ServiceBusMessage]

_T = TypeVar("_T")

_ATTEMPT_TIMEOUT_S: Final = 10.0
_GRACE_S: Final = 2.0
"""For the library to end an attempt by itself."""
_CLOSE_TIMEOUT_S: Final = 5.0
_PAUSE_FIRST_S: Final = 0.1
_PAUSE_MAX_S: Final = 3.0

_ENVELOPE_BYTES_MAX: Final = 1_000
"""A batch has the message id and the session id of its first message: up to 128 UTF-16 units each, so up to 384 bytes.
azure-servicebus 7.15 leaves them out when it adds up the size of a batch."""

_NO_TURN: Final = (
    "{queue!r} confirmed nothing within {time_max_s:g} s, and commands sent before this one are still under way;"
    " sending it again under the same command id is safe"
)

# Trying again does not cure these: somebody has to change something.
_REFUSED: Final = (
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
)


class _Waiting:
    """One message of one task, until the queue has it or its time is over."""

    def __init__(self, command_id: CommandId, message: ServiceBusMessage, deadline_s: float) -> None:
        self.command_id = command_id
        self.message = message
        self.deadline_s = deadline_s
        self.is_settled = False
        self.failure: SendError | None = None

    def settle(self, failure: SendError | None = None) -> None:
        """Tell its task that the queue has the message, or why that is not known."""
        self.is_settled = True
        self.failure = failure


class CommandSender:
    """The sender of one queue, opened when it is first needed and anew after each failure.

    Guarantee: messages go out in the order in which they were given. What was not confirmed is sent again, unchanged
    and before anything behind it, for at most `time_max_s`: the same command ids make that safe. The client must have
    `retry_total=0`, so that there is one layer of retries.
    """

    def __init__(self, client: ServiceBusClient, queue: str, *, time_max_s: float) -> None:
        self._client = client
        self._queue = queue
        self._time_max_s = time_max_s
        self._sender: ServiceBusSender | None = None
        self._is_closed = False
        # The order of the tasks at the lock: the one that gets it finds its own message first.
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        # An azure-servicebus sender is for one task at a time: it goes through its unsent messages without a lock.
        self._lock = anyio.Lock()

    async def send(self, command_id: CommandId, message: ServiceBusMessage) -> None:
        """Send one message, in one batch with those of other tasks that wait for their turn meanwhile.

        Raises:
            SendError: it was not confirmed in time; whether it takes effect is not known.
            CommandTooLargeError: it does not fit a message; nothing was sent.
        """
        waiting = _Waiting(command_id, message, anyio.current_time() + self._time_max_s)
        self._waiting[id(waiting)] = waiting
        try:
            async with self._lock:
                if not waiting.is_settled:
                    await self._send_with_others(waiting)
        finally:
            self._waiting.pop(id(waiting), None)  # still there if this task was cancelled: then it is not sent again
        if waiting.failure is not None:
            # One error may have ended several sends; an exception that is raised twice would mix their tracebacks.
            raise SendError(str(waiting.failure), is_refusal=waiting.failure.is_refusal) from waiting.failure

    async def send_many(self, messages: Iterable[Outgoing], on_sent: OnSent | None = None) -> int:
        """Send messages in as few batches as their sizes allow; returns how many.

        Raises:
            SendError: a batch was not confirmed in time. Those before it were; what of it took effect is not known.
            CommandTooLargeError: one command does not fit a message; those before it were sent.
        """
        sent = 0
        async with self._lock:
            batch = await self._new_batch(self._time_max_s)
            for command_id, message in messages:
                if _fits(batch, message):
                    continue
                sent += await self._send_batch(batch, self._time_max_s, on_sent)
                batch = await self._new_batch(self._time_max_s)
                if not _fits(batch, message):
                    await self._send_alone(command_id, message, self._time_max_s, on_sent)
                    sent += 1
            return sent + await self._send_batch(batch, self._time_max_s, on_sent)

    async def close(self) -> None:
        """Send nothing more and close the link, after a send that is under way; bounded, never raises."""
        self._is_closed = True
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_CLOSE_TIMEOUT_S):
                async with self._lock:
                    pass
            await self._drop()

    async def _send_with_others(self, own: _Waiting) -> None:
        """Send a batch that begins with the message of this task and holds those behind it that fit."""
        taken: list[_Waiting] = []
        if anyio.current_time() >= own.deadline_s:
            own.settle(SendError(_NO_TURN.format(queue=self._queue, time_max_s=self._time_max_s)))
            return
        try:
            left_s = own.deadline_s - anyio.current_time()
            batch = await self._new_batch(left_s)
            while self._waiting and _fits(batch, next(iter(self._waiting.values())).message):
                taken.append(self._waiting.popitem(last=False)[1])
            if taken:
                await self._send_batch(batch, own.deadline_s - anyio.current_time(), None)
            else:
                await self._send_alone(own.command_id, own.message, left_s, None)
        except SendError as error:
            own.settle(error)
            self._give_back([each for each in taken if not self._is_over(each, error)])
        except BaseException:
            # This task was cancelled, or its message is too large: the others are the next one's to send.
            self._give_back(taken)
            raise
        else:
            for each in (own, *taken):
                each.settle()

    @staticmethod
    def _is_over(waiting: _Waiting, error: SendError) -> bool:
        """Settle a message whose time is over too, or whose next try would end the same way."""
        if not waiting.is_settled and (error.is_refusal or anyio.current_time() >= waiting.deadline_s):
            waiting.settle(error)
        return waiting.is_settled

    def _give_back(self, taken: list[_Waiting]) -> None:
        for each in reversed(taken):
            self._waiting[id(each)] = each
            self._waiting.move_to_end(id(each), last=False)

    async def _new_batch(self, time_max_s: float) -> ServiceBusMessageBatch:
        """Make a batch of the size that the queue allows, which the sender learns by opening its link."""
        return await self._attempts(_new_batch, time_max_s, f"cannot send to {self._queue!r}")

    async def _send_batch(self, batch: ServiceBusMessageBatch, time_max_s: float, on_sent: OnSent | None) -> int:
        count = len(batch)
        if count:
            await self._confirmed(batch, count, time_max_s, on_sent)
        return count

    async def _send_alone(
        self, command_id: CommandId, message: ServiceBusMessage, time_max_s: float, on_sent: OnSent | None
    ) -> None:
        """Send one message that no batch holds; a premium queue takes larger messages than batches.

        Its size is checked here: the queue would detach the link, which the library reports as an unknown error.
        """
        assert self._sender is not None, "a batch was made before"
        message_bytes_max = self._sender._max_message_size_on_link  # noqa: SLF001 - known to the library, but not told
        if not _fits(ServiceBusMessageBatch(max_size_in_bytes=message_bytes_max), message):
            raise CommandTooLargeError(command_id, message_bytes_max=message_bytes_max)
        await self._confirmed(message, 1, time_max_s, on_sent)

    async def _confirmed(
        self,
        sending: ServiceBusMessage | ServiceBusMessageBatch,
        count: int,
        time_max_s: float,
        on_sent: OnSent | None,
    ) -> None:
        what = (
            f"{self._queue!r} did not confirm {count} commands, which may still take effect; sending them again under"
            " the same command ids is safe"
        )
        await self._attempts(lambda sender: sender.send_messages(sending, timeout=_ATTEMPT_TIMEOUT_S), time_max_s, what)
        if on_sent is not None:
            on_sent(count)

    async def _attempts(self, act: Callable[[ServiceBusSender], Awaitable[_T]], time_max_s: float, what: str) -> _T:
        """Do something with the sender, again and again while that may help. Raises SendError that begins with `what`.

        Between two tries the task can be cancelled. At least one is made.
        """
        try:
            async for attempt in AsyncRetrying(
                sleep=anyio.sleep,
                retry=retry_if_exception(_may_pass),
                wait=wait_random_exponential(multiplier=_PAUSE_FIRST_S, max=_PAUSE_MAX_S),
                stop=stop_before_delay(max(time_max_s, 0.0)),
                reraise=True,
            ):
                with attempt:
                    return await self._attempt(act)
        except _REFUSED as error:
            remedy = "check the queue's name and state, and that the credentials give the right to send"
            raise SendError(f"{what}: {_first_line(error)}; {remedy}", is_refusal=True) from error
        except (ServiceBusError, OSError) as error:
            raise SendError(f"{what}: {_first_line(error)}") from error
        raise AssertionError("retrying returns or raises")

    async def _attempt(self, act: Callable[[ServiceBusSender], Awaitable[_T]]) -> _T:
        """One try, bounded, and shielded: a cancelled one leaves the link in doubt. After a failure the link is new."""
        if self._is_closed:
            raise SendError("the client was closed; commands sent before may still take effect", is_refusal=True)
        if self._sender is None:
            self._sender = self._client.get_queue_sender(self._queue)
        try:
            with anyio.fail_after(_ATTEMPT_TIMEOUT_S + _GRACE_S, shield=True):
                return await act(self._sender)
        except Exception as error:
            log.warning("client.send-failed", queue=self._queue, error=type(error).__name__)
            await self._drop()
            raise

    async def _drop(self) -> None:
        sender, self._sender = self._sender, None
        if sender is None:
            return
        with anyio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
            try:
                await close_without_pause(sender)
            except (ServiceBusError, OSError, ValueError):
                log.debug("client.sender-close-failed", queue=self._queue)


async def _new_batch(sender: ServiceBusSender) -> ServiceBusMessageBatch:
    """A batch that the queue takes when it is full: with room left for its envelope."""
    allowed = await sender.create_message_batch()
    return await sender.create_message_batch(max_size_in_bytes=allowed.max_size_in_bytes - _ENVELOPE_BYTES_MAX)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, (ServiceBusError, OSError)) and not isinstance(error, _REFUSED)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _fits(batch: ServiceBusMessageBatch, message: ServiceBusMessage) -> bool:
    try:
        batch.add_message(message)
    except MessageSizeExceededError:
        return False
    return True
