"""How long a receive waits for more."""

from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from azure.servicebus.amqp import AmqpMessageBodyType
from azure.servicebus.exceptions import ServiceBusConnectionError

from worker.sessions.base import Complete, SessionLostError
from worker.sessions.servicebus import ServiceBusSession

pytestmark = pytest.mark.anyio

COUNT_MAX = 10_000
QUEUED = 100


def message(number: int) -> Any:
    return SimpleNamespace(
        body=[b"x"],
        body_type=AmqpMessageBodyType.DATA,
        content_type=None,
        message_id=str(number),
        session_id="one",
        reply_to=None,
        reply_to_session_id=None,
        enqueued_time_utc=None,
        delivery_count=0,
        application_properties=None,
    )


class Turns:
    """How long a client and its connection listen before they let others write."""

    def __init__(self) -> None:
        self._socket_timeout = 0.1
        self._connection = SimpleNamespace(_socket_timeout=0.1)

    @property
    def turns_s(self) -> set[float]:
        return {self._socket_timeout, self._connection._socket_timeout}


class Streaming:
    """A receiver with so many messages queued up, after which one comes every now and then for ever."""

    def __init__(self) -> None:
        self._handler = Turns()
        self.session = SimpleNamespace(session_id="one", locked_until_utc=None)
        self.given = 0
        self._further_pull_receive_timeout = 0.2

    async def receive_messages(self, *, max_message_count: int, max_wait_time: float) -> list[Any]:
        count = min(QUEUED, max_message_count) if not self.given else 1
        await anyio.sleep(max_wait_time / 2)
        self.given += count
        return [message(number) for number in range(self.given - count, self.given)]


async def test_a_steady_stream_behind_a_burst_does_not_hold_the_burst_up() -> None:
    receiver: Any = Streaming()
    session = ServiceBusSession(receiver)
    with anyio.fail_after(5):
        deliveries = await session.receive(COUNT_MAX, 1.0)
    assert QUEUED < len(deliveries) < COUNT_MAX
    assert [delivery.message_id for delivery in deliveries] == [str(number) for number in range(len(deliveries))]


class Scripted(Streaming):
    """A receiver whose calls give so many messages, one after the other, and then none."""

    def __init__(self, *counts: int) -> None:
        super().__init__()
        self._counts = list(counts)

    async def receive_messages(self, *, max_message_count: int, max_wait_time: float) -> list[Any]:
        count = self._counts.pop(0) if self._counts else 0
        assert count <= max_message_count
        if not count:
            await anyio.sleep(max_wait_time)
        self.given += count
        return [message(number) for number in range(self.given - count, self.given)]


async def test_what_follows_a_full_receive_is_received_to_its_end_though_it_begins_with_a_few() -> None:
    receiver: Any = Scripted(100, 3, 60, 37)
    session = ServiceBusSession(receiver)
    assert [len(await session.receive(100, 1.0)) for _ in range(2)] == [100, 100]


async def test_what_waits_in_a_session_when_it_is_accepted_makes_one_group_however_it_trickles_in() -> None:
    receiver: Any = Scripted(1, 3, 1)
    session = ServiceBusSession(receiver)
    assert len(await session.receive(100, 1.0)) == 5


async def test_a_few_that_come_by_themselves_are_not_kept_waiting_for_more() -> None:
    receiver: Any = Scripted(1, 0, 3, 1, 1)
    session = ServiceBusSession(receiver)
    assert [len(await session.receive(100, 1.0)) for _ in range(4)] == [1, 3, 1, 1]


async def test_others_may_write_often_while_something_is_to_be_settled_and_seldom_while_nothing_is() -> None:
    receiver: Any = Settling(1)
    session = ServiceBusSession(receiver)
    (delivery,) = await session.receive(10, 1.0)
    await session.receive(10, 0.05)
    assert max(receiver.last_turns_s) < 0.02
    await session.settle([(delivery, Complete())])
    await session.receive(10, 0.05)
    assert min(receiver.last_turns_s) == pytest.approx(0.05, abs=0.02), "no longer than was asked for"


async def test_a_receive_on_a_lost_connection_says_so() -> None:
    receiver: Any = Lost()
    with pytest.raises(SessionLostError):
        await ServiceBusSession(receiver).receive(10, 1.0)


class Lost(Scripted):
    """A receiver that a failed renewal has closed."""

    def __init__(self) -> None:
        super().__init__()
        self._handler: Any = None

    async def receive_messages(self, *, max_message_count: int, max_wait_time: float) -> list[Any]:
        raise ServiceBusConnectionError


class Settling(Scripted):
    """Notes how long the turns were in which the connection was last listened to."""

    def __init__(self, *counts: int) -> None:
        super().__init__(*counts)
        self.last_turns_s: set[float] = set()

    async def receive_messages(self, *, max_message_count: int, max_wait_time: float) -> list[Any]:
        self.last_turns_s = self._handler.turns_s
        return await super().receive_messages(max_message_count=max_message_count, max_wait_time=max_wait_time)

    async def complete_message(self, _: Any) -> None:
        pass


class Noting(Scripted):
    """Notes how long it was to wait for more behind the first message."""

    def __init__(self) -> None:
        super().__init__(1)
        self.waits_s: list[float] = []

    async def receive_messages(self, *, max_message_count: int, max_wait_time: float) -> list[Any]:
        self.waits_s.append(self._further_pull_receive_timeout)
        return await super().receive_messages(max_message_count=max_message_count, max_wait_time=max_wait_time)


@pytest.mark.parametrize(("pass_s", "least_s", "most_s"), [(0.0, 0.005, 0.206), (0.05, 0.2, 0.206)])
async def test_a_busy_event_loop_is_given_some_passes_to_bring_what_has_queued_up(
    pass_s: float, least_s: float, most_s: float
) -> None:
    receiver: Any = Noting()
    session = ServiceBusSession(receiver)

    async def work() -> None:
        while True:
            ends_s = anyio.current_time() + pass_s
            while anyio.current_time() < ends_s:
                pass
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await anyio.lowlevel.checkpoint()
        await session.receive(10, 1.0)
        tasks.cancel_scope.cancel()
    assert least_s <= receiver.waits_s[0] <= most_s
