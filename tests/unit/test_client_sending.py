"""Sending: order, batches, retries and their bounds, with a queue that fails as it is told."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import anyio
import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
from azure.servicebus._pyamqp._encode import encode_payload
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import (
    MessagingEntityNotFoundError,
    OperationTimeoutError,
    ServiceBusConnectionError,
    ServiceBusError,
)

from brook_client import sending
from brook_client.errors import CommandTooLargeError, SendError
from brook_client.sending import CommandSender
from schemas.types import CommandId
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

BATCH_BYTES_MAX = 2_900
MESSAGE_BYTES_MAX = 5_000


class Queue:
    """What the service keeps, and the failures that the next sends meet."""

    def __init__(self) -> None:
        self.accepted: list[list[str]] = []
        self.opened = 0
        self.open_now = 0
        self.tries = 0
        self.busy = False
        self.failing: Callable[[], Awaitable[None]] | None = None
        self.failures: list[tuple[ServiceBusError, bool]] = []
        """Each: the error, and whether the queue has the messages all the same."""

    @property
    def ids(self) -> list[str]:
        return [name for batch in self.accepted for name in batch]

    def client(self) -> ServiceBusClient:
        return cast("ServiceBusClient", self)

    def get_queue_sender(self, name: str) -> "Sender":
        assert name == "commands"
        return Sender(self)


class Sender:
    """As the library's: learns the sizes by opening, and must not be used by two tasks at once."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._max_message_size_on_link = 0
        self._handler = None  # no connection, and so no task that keeps one alive
        self._closed = False

    async def create_message_batch(self, max_size_in_bytes: int | None = None) -> ServiceBusMessageBatch:
        await self._open()
        assert (max_size_in_bytes or 1) <= BATCH_BYTES_MAX
        return ServiceBusMessageBatch(max_size_in_bytes=max_size_in_bytes or BATCH_BYTES_MAX)

    async def _open(self) -> None:
        assert not self._closed
        if not self._max_message_size_on_link:
            await anyio.lowlevel.checkpoint()
            self._queue.opened += 1
            self._queue.open_now += 1
            self._max_message_size_on_link = MESSAGE_BYTES_MAX

    async def send_messages(self, what: Any, *, timeout: float) -> None:  # noqa: ASYNC109 - as the library has it
        assert timeout > 0
        await self._open()
        assert not self._queue.busy, "two sends at once"
        self._queue.busy = True
        self._queue.tries += 1
        try:
            if self._queue.failing is not None:
                await self._queue.failing()
            await anyio.lowlevel.checkpoint()
            messages = what._messages if isinstance(what, ServiceBusMessageBatch) else [what]
            if isinstance(what, ServiceBusMessageBatch):
                size_bytes = len(encode_payload(bytearray(), what._message))
                assert size_bytes <= BATCH_BYTES_MAX, "the queue refuses a batch over its size"
            names = [str(message.message_id) for message in messages]
            error, applied = self._queue.failures.pop(0) if self._queue.failures else (None, True)
            if applied:
                self._queue.accepted.append(names)
            if error is not None:
                raise error
        finally:
            self._queue.busy = False

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        if not self._closed and self._max_message_size_on_link:
            self._queue.open_now -= 1
        self._closed = True


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_PAUSE_FIRST_S", 0.001)
    monkeypatch.setattr(sending, "_PAUSE_MAX_S", 0.01)


@pytest.fixture
def queue() -> Queue:
    return Queue()


def sender_of(queue: Queue, time_max_s: float = 10.0) -> CommandSender:
    return CommandSender(queue.client(), "commands", time_max_s=time_max_s)


def message(name: str, size: int = 100) -> ServiceBusMessage:
    return ServiceBusMessage(b"x" * size, message_id=name, session_id="s")


def many(count: int, size: int = 100) -> Iterator[tuple[CommandId, ServiceBusMessage]]:
    return ((CommandId(f"c{number}"), message(f"c{number}", size)) for number in range(count))


async def refuse_for_ever() -> None:
    raise ServiceBusConnectionError(message="cut")


async def test_many_go_out_in_order_in_as_few_batches_as_their_sizes_allow(queue: Queue) -> None:
    told: list[int] = []
    assert await sender_of(queue).send_many(many(40), told.append) == 40
    assert queue.ids == [f"c{number}" for number in range(40)]
    assert told == [len(batch) for batch in queue.accepted]
    assert len(set(told[:-1])) == 1, "every batch but the last is full"
    assert told[0] > 5


async def test_no_batch_takes_more_than_the_queue_allows_whatever_its_messages_take(queue: Queue) -> None:
    """The library leaves out of its sum what it copies from the first message onto the batch."""
    identifier = "\N{CJK UNIFIED IDEOGRAPH-6C34}" * 128
    for size in range(300, 1_800, 7):
        first = ServiceBusMessage(b"x", message_id=identifier, session_id=identifier)
        second = ServiceBusMessage(b"x" * size, message_id="second", session_id="s")
        sent = [(CommandId(identifier), first), (CommandId("second"), second)]
        assert await sender_of(queue).send_many(sent) == 2
    assert any(len(batch) == 2 for batch in queue.accepted)


async def test_what_tasks_send_at_the_same_time_travels_together_in_their_order(queue: Queue) -> None:
    sender = sender_of(queue)
    async with anyio.create_task_group() as tasks:
        for number in range(40):
            tasks.start_soon(sender.send, CommandId(f"c{number}"), message(f"c{number}"))
    assert queue.ids == [f"c{number}" for number in range(40)]
    assert queue.tries <= 7, "not one by one"
    assert not sender._waiting


@pytest.mark.parametrize("applied", [True, False])
async def test_an_unconfirmed_batch_is_sent_again_before_what_is_behind_it(queue: Queue, applied: bool) -> None:
    queue.failures = [(OperationTimeoutError(message="no answer"), applied)] * 3
    assert await sender_of(queue).send_many(many(20)) == 20
    first = queue.accepted[0]
    assert queue.accepted[: 4 if applied else 1] == [first] * (4 if applied else 1)
    assert list(dict.fromkeys(queue.ids)) == [f"c{number}" for number in range(20)]
    assert queue.opened == 4, "a link that failed is not used again"
    assert queue.open_now == 1


async def test_an_outage_ends_in_an_error_within_the_time_that_says_what_to_do(queue: Queue) -> None:
    queue.failing = refuse_for_ever
    began_s = anyio.current_time()
    with pytest.raises(SendError, match=r"may still take effect.*same command ids is safe.*cut") as caught:
        await sender_of(queue, time_max_s=0.3).send_many(many(1))
    assert anyio.current_time() - began_s < 1
    assert queue.tries > 3
    assert not caught.value.is_refusal
    assert queue.open_now == 0


async def test_in_an_outage_all_who_wait_are_told_in_time_and_not_one_after_the_other(queue: Queue) -> None:
    sender = sender_of(queue, time_max_s=0.3)
    queue.failing = refuse_for_ever
    failed: list[str] = []

    async def send(name: str) -> None:
        try:
            await sender.send(CommandId(name), message(name, size=1_000))  # one to a batch
        except SendError as error:
            failed.append(str(error))

    began_s = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(send, f"c{number}")
    assert anyio.current_time() - began_s < 2
    assert len(failed) == 30
    assert all("same command id" in text for text in failed)
    assert not sender._waiting


async def test_a_queue_that_is_not_there_is_told_at_once(queue: Queue) -> None:
    queue.failures = [(MessagingEntityNotFoundError(message="gone"), False)]
    with pytest.raises(SendError, match=r"gone; check the queue's name.*right to send") as caught:
        await sender_of(queue).send(CommandId("c0"), message("c0"))
    assert caught.value.is_refusal
    assert queue.tries == 1


async def test_after_an_outage_the_same_sender_goes_on(queue: Queue) -> None:
    sender = sender_of(queue, time_max_s=0.1)
    queue.failing = refuse_for_ever
    with pytest.raises(SendError):
        await sender.send(CommandId("c0"), message("c0"))
    queue.failing = None
    await sender.send(CommandId("c1"), message("c1"))
    assert queue.ids == ["c1"]


async def test_a_task_that_is_cancelled_takes_only_its_own_message_along(queue: Queue) -> None:
    """The first task sends for all; cancelled between two tries, it leaves the others to the next."""
    sender = sender_of(queue)
    queue.failing = refuse_for_ever
    scope = anyio.CancelScope()
    done: list[str] = []

    async def first() -> None:
        with scope:
            await sender.send(CommandId("first"), message("first"))
            done.append("first")
        queue.failing = None

    async def other(name: str) -> None:
        await sender.send(CommandId(name), message(name))
        done.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        for number in range(5):
            tasks.start_soon(other, f"c{number}")
        await wait_until(lambda: queue.tries >= 2, "it is being tried again")
        scope.cancel()
    assert done == [f"c{number}" for number in range(5)]
    assert queue.ids[-5:] == done
    assert not sender._waiting


async def test_a_waiting_task_that_is_cancelled_is_not_sent(queue: Queue) -> None:
    sender = sender_of(queue)
    gate = anyio.Event()
    queue.failing = gate.wait
    scope = anyio.CancelScope()

    async def cancelled() -> None:
        with scope:
            await sender.send(CommandId("late"), message("late"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sender.send, CommandId("first"), message("first"))
        await wait_until(lambda: queue.busy, "the first is on its way")
        tasks.start_soon(cancelled)
        await wait_until(lambda: len(sender._waiting) == 1, "the second waits")
        scope.cancel()
        await wait_until(lambda: not sender._waiting, "it waits no more")
        gate.set()
    assert queue.ids == ["first"]


async def test_one_that_no_batch_holds_is_sent_alone_and_one_that_no_message_holds_not_at_all(queue: Queue) -> None:
    sender = sender_of(queue)
    outcomes: dict[str, str] = {}

    async def send(name: str, size: int) -> None:
        try:
            await sender.send(CommandId(name), message(name, size))
            outcomes[name] = "sent"
        except CommandTooLargeError as error:
            outcomes[name] = str(error)

    async with anyio.create_task_group() as tasks:
        for name, size in (("small", 10), ("large", 3_000), ("huge", 9_000), ("after", 10)):
            tasks.start_soon(send, name, size)
    assert [outcomes[name] for name in ("small", "large", "after")] == ["sent"] * 3
    assert "5,000 bytes" in outcomes["huge"]
    assert queue.ids == ["small", "large", "after"]


async def test_a_closed_sender_sends_nothing_more_and_says_so(queue: Queue) -> None:
    sender = sender_of(queue)
    await sender.send(CommandId("c0"), message("c0"))
    await sender.close()
    assert queue.open_now == 0
    with pytest.raises(SendError, match="the client was closed"):
        await sender.send(CommandId("c1"), message("c1"))
    with pytest.raises(SendError, match="the client was closed"):
        await sender.send_many(many(2))
    assert queue.ids == ["c0"]
    assert queue.opened == 1
