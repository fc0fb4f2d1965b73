"""What the service ends by itself, as it does on Azure: idle links, connections without links, expired tokens."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Self

import pytest
from azure.core.credentials import AccessToken
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusError

from emulator.clock import SystemClock
from emulator.config import QueueConfig
from emulator.identity import TokenAuthority
from emulator.servicebus import ServiceBusServer
from emulator.servicebus.amqp import frames_out as out
from emulator.servicebus.amqp.framing import AMQP_HEADER, FrameReader, frame
from tests.support.servicebus import body_of, client_of, message, next_session, receive, running, send
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

Q = QueueConfig(name="q")
S = QueueConfig(name="s", requires_session=True, lock_duration_s=300.0)
JUST_UNDER_S, JUST_OVER_S = 599.0, 2.0


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
async def server(clock: SystemClock) -> AsyncIterator[ServiceBusServer]:
    async with running(Q, S, clock=clock) as it:
        yield it


def links_to_entities(server: ServiceBusServer) -> list[str]:
    links = [link for peer in server._peers if peer.connection is not None for link in peer.connection.all_links()]
    return [link.entity for link in links if link.entity is not None]


async def test_a_sender_that_was_idle_for_ten_minutes_is_detached(server: ServiceBusServer, clock: SystemClock) -> None:
    async with client_of(server) as client, client.get_queue_sender("q") as sender:
        await sender.send_messages(message("1"))
        clock.jump_s(JUST_UNDER_S)
        await sender.send_messages(message("2"))  # this counts as use, so the ten minutes begin anew
        clock.jump_s(JUST_UNDER_S)
        await sender.send_messages(message("3"))
        clock.jump_s(JUST_UNDER_S + JUST_OVER_S)
        with pytest.raises(ServiceBusError):
            await sender.send_messages(message("4"))
        await sender.send_messages(message("5"))  # the client opens its link anew
    assert server.engine.counts("q").active == 4


async def test_a_receiver_that_was_idle_for_ten_minutes_is_detached(
    server: ServiceBusServer, clock: SystemClock
) -> None:
    async with client_of(server) as client:
        receiver = client.get_queue_receiver("q")
        async with receiver:
            clock.jump_s(JUST_UNDER_S + JUST_OVER_S)
            await send(client, "q", message("1"))
            with pytest.raises(ServiceBusError):
                await receive(receiver, 1)
            assert body_of((await receive(receiver, 1))[0]) == "1"


async def test_a_session_whose_link_is_idle_is_free_though_its_lock_is_renewed(
    server: ServiceBusServer, clock: SystemClock
) -> None:
    async with client_of(server) as client:
        await send(client, "s", message("1", session_id="one"))
        async with next_session(client, "s") as receiver:
            (held,) = await receive(receiver, 1)
            for _ in range(2):
                clock.jump_s(290)
                await receiver.session.renew_lock()
            clock.jump_s(30)
            with pytest.raises(ServiceBusError):
                await receiver.complete_message(held)
        async with next_session(client, "s") as receiver:
            assert (await receive(receiver, 1))[0].delivery_count == 0


async def closing_reason(reader: asyncio.StreamReader) -> bytes:
    """The body of the last frame before the server closes."""
    frames = FrameReader(65_536)
    frames.feed((await asyncio.wait_for(reader.read(), 5))[len(AMQP_HEADER) :])
    return frames.frames()[-1].body


async def test_a_connection_on_which_no_link_is_made_is_closed_after_a_minute(
    server: ServiceBusServer, clock: SystemClock
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(AMQP_HEADER + frame(0, out.open_("client", 65_536, 9, 0)))
    await wait_until(lambda: server.engine.next_deadline_s() is not None, "the connection is open")
    clock.jump_s(59)
    assert server.connection_count == 1
    clock.jump_s(2)
    reason = await closing_reason(reader)
    assert b"amqp:connection:forced" in reason
    assert b"60000 milliseconds" in reason
    writer.close()


async def test_a_connection_is_closed_five_minutes_after_its_last_link(
    server: ServiceBusServer, clock: SystemClock
) -> None:
    async with client_of(server) as client, client.get_queue_sender("q") as sender:
        await sender.send_messages(message("1"))
        clock.jump_s(JUST_UNDER_S + JUST_OVER_S)
        await wait_until(lambda: not links_to_entities(server), "the sender's link is detached")
        clock.jump_s(299)
        assert server.connection_count == 1
        clock.jump_s(2)
        await wait_until(lambda: server.connection_count == 0, "the connection is closed")
        with pytest.raises(ServiceBusError):
            await sender.send_messages(message("2"))
        await sender.send_messages(message("3"))


class Tokens:
    """A credential whose tokens live for `life_s`; the client renews one when a tenth of its life is left."""

    def __init__(self, authority: TokenAuthority, life_s: float) -> None:
        self._authority = authority
        self._life_s = life_s
        self.given = 0

    async def get_token(self, *_scopes: str, **_options: object) -> AccessToken:
        self.given += 1
        now_s = time.time()
        token = self._authority.issue("https://servicebus.azure.net", now_s=now_s, lifetime_s=self._life_s)
        return AccessToken(token, int(now_s + self._life_s))

    async def close(self) -> None:
        """Nothing to close."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@contextlib.asynccontextmanager
async def with_tokens(life_s: float) -> AsyncIterator[tuple[ServiceBusServer, ServiceBusClient, Tokens]]:
    authority = TokenAuthority()
    tokens = Tokens(authority, life_s)
    async with (
        running(Q, authority=authority) as server,
        ServiceBusClient(
            f"127.0.0.1:{server.port}",
            tokens,
            retry_total=0,
            socket_timeout=0.02,
            use_tls=False,
        ) as client,
    ):
        yield server, client, tokens


async def test_a_link_whose_token_has_expired_is_detached() -> None:
    async with with_tokens(2.0) as (server, client, _), client.get_queue_sender("q") as sender:
        await sender.send_messages(message("1"))
        assert links_to_entities(server) == ["q"]
        await wait_until(lambda: not links_to_entities(server), "the sender's link is detached")
        with pytest.raises(ServiceBusError):
            await sender.send_messages(message("2"))
        await sender.send_messages(message("3"))  # the client shows a new token
    assert server.engine.counts("q").active == 2


@pytest.mark.slow
async def test_a_sender_in_use_renews_its_token_and_keeps_its_link() -> None:
    async with with_tokens(10.0) as (server, client, tokens), client.get_queue_sender("q") as sender:
        ends_s = time.monotonic() + 12
        sent = 0
        while time.monotonic() < ends_s:
            await sender.send_messages(message(str(sent)))
            sent += 1
            await asyncio.sleep(0.1)  # real time is what a token's life is measured in
        assert tokens.given >= 2
        assert server.faults.requests["servicebus", "open-sender"] == 1
    assert server.engine.counts("q").active == sent
