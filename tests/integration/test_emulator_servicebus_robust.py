"""The embedded Service Bus under clients that break rules, vanish or say nothing."""

import asyncio
import random

import pytest

from emulator.config import QueueConfig
from emulator.servicebus import Limits, ServiceBusServer
from emulator.servicebus.amqp import frames_out as out
from emulator.servicebus.amqp import performatives as p
from emulator.servicebus.amqp.encode import encode
from emulator.servicebus.amqp.framing import AMQP_HEADER, EMPTY_FRAME, FrameReader, frame
from emulator.servicebus.amqp.message import AMQP_VALUE, APPLICATION_PROPERTIES, section
from emulator.servicebus.amqp.types import Described, Int, UInt, ULong
from emulator.servicebus.front.auth import Claim
from tests.support.servicebus import body_of, client_of, message, receive, running, send
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

Q = QueueConfig(name="q")


async def connect(server: ServiceBusServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", server.port)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the server closes."""
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:
        return b""


async def test_garbage_from_many_connections_disturbs_nobody() -> None:
    chance = random.Random(11)
    async with running(Q) as server, client_of(server) as client, client.get_queue_sender("q") as sender:
        for _ in range(200):
            reader, writer = await connect(server)
            prefix = chance.choice([b"", AMQP_HEADER, AMQP_HEADER + frame(0, out.open_("c", 65_536, 9, 0))])
            writer.write(prefix + chance.randbytes(chance.randint(0, 300)))
            writer.write_eof()
            await ended(reader)
            writer.close()
        await sender.send_messages(message("still there"))
        async with client.get_queue_receiver("q") as receiver:
            assert body_of((await receive(receiver, 1))[0]) == "still there"


async def test_silent_connection_is_cut_after_the_handshake_timeout() -> None:
    async with running(Q, limits=Limits(handshake_timeout_s=0.2)) as server:
        reader, writer = await connect(server)
        writer.write(AMQP_HEADER[:5])
        assert await ended(reader) == b""
        writer.close()
        await wait_until(lambda: server.connection_count == 0, "the connection is forgotten")


async def test_idle_connection_is_closed_with_an_error_and_a_living_one_is_kept() -> None:
    async with running(Q, limits=Limits(idle_timeout_s=0.3)) as server:
        reader, writer = await connect(server)
        writer.write(AMQP_HEADER + frame(0, out.open_("client", 65_536, 9, 0)))
        for _ in range(8):
            await asyncio.sleep(0.1)  # the time that is shown to pass is the subject here
            writer.write(EMPTY_FRAME)
        assert server.connection_count == 1
        rest = await ended(reader)
        writer.close()
        frames = FrameReader(65_536)
        frames.feed(rest[len(AMQP_HEADER) :])
        assert b"amqp:connection:forced" in frames.frames()[-1].body


async def test_heartbeats_come_as_often_as_the_client_asks() -> None:
    async with running(Q) as server:
        reader, writer = await connect(server)
        writer.write(AMQP_HEADER + frame(0, out.open_("client", 65_536, 9, 300)))
        opened = await asyncio.wait_for(reader.readexactly(8), 5)
        assert opened == AMQP_HEADER
        size = int.from_bytes(await reader.readexactly(4))
        await reader.readexactly(size - 4)
        assert await asyncio.wait_for(reader.readexactly(16), 1) == EMPTY_FRAME * 2
        writer.close()


async def test_connections_have_a_limit() -> None:
    async with running(Q, limits=Limits(connections_max=2)) as server:
        first, second = await connect(server), await connect(server)
        await wait_until(lambda: server.connection_count == 2, "both are connected")
        reader, writer = await connect(server)
        assert await ended(reader) == b""
        for each in (writer, first[1], second[1]):
            each.close()
        await wait_until(lambda: server.connection_count == 0, "all are gone")
        async with client_of(server) as client:
            await send(client, "q", message("a"))


async def test_stop_is_idempotent_and_cuts_connections() -> None:
    async with running(Q) as server:
        reader, writer = await connect(server)
        await wait_until(lambda: server.connection_count == 1, "connected")
        await server.stop()
        await server.stop()
        assert await ended(reader) == b""
        writer.close()
        assert server.connection_count == 0


async def test_receiver_that_does_not_read_holds_up_nobody_and_no_memory() -> None:
    limits = Limits(write_buffer_bytes_max=200_000)
    async with (
        running(Q, limits=limits) as server,
        client_of(server) as client,
        client.get_queue_sender("q") as sender,
        client.get_queue_receiver("q", prefetch_count=2_000) as slow,
    ):
        await slow._handler._link.flow(link_credit=2_000)
        for _ in range(60):
            await sender.send_messages([message("x" * 20_000) for _ in range(10)])
        counts = server.engine.counts("q")
        assert 0 < counts.locked < counts.active == 600
        unsent = [peer.transport.get_write_buffer_size() for peer in server._peers if peer.transport is not None]
        assert max(unsent) < 10_000_000


async def test_client_that_asks_and_never_reads_is_cut_off_before_memory_is() -> None:
    limits = Limits(write_buffer_bytes_max=50_000)
    async with running(Q, limits=limits) as server, client_of(server) as client:
        await send(client, "q", *(message("x" * 20_000) for _ in range(10)))
        reader, writer = await connect(server)
        begin = out.described(p.BEGIN, (None, UInt(0), UInt(9), UInt(9)))
        writer.write(AMQP_HEADER + frame(0, out.open_("client", 65_536, 9, 0)) + frame(0, begin))
        await wait_until(lambda: any(peer.connection and peer.connection.channels for peer in server._peers), "begun")
        (connection,) = (peer.connection for peer in server._peers if peer.connection and not peer.connection.claims)
        connection.claims.put(Claim("", 1e12))
        node = Described(ULong(p.SOURCE), ["q/$management"])
        here = Described(ULong(p.TARGET), ["here"])
        for handle, receives, source, target in ((0, True, node, here), (1, False, here, node)):
            fields = (f"l{handle}", UInt(handle), receives, None, None, source, target, None, None, UInt(0))
            writer.write(frame(0, out.described(p.ATTACH, fields)))
        flow = (UInt(0x40000000), UInt(1 << 30), UInt(0), UInt(9), UInt(0), UInt(0), UInt(1 << 30))
        writer.write(frame(0, out.described(p.FLOW, flow)))
        request = section(APPLICATION_PROPERTIES, encode({"operation": "com.microsoft:peek-message"})) + section(
            AMQP_VALUE, encode({"from-sequence-number": 1, "message-count": Int(10)})
        )
        number = 0
        while server.connection_count > 1 and number < 5_000:
            transfer = out.transfer(1, number, b"t" * 16, 0, settled=True, more=False)
            writer.write(frame(0, transfer + request))
            number += 1
            if number % 50 == 0:
                await asyncio.sleep(0)
        unsent = [peer.transport.get_write_buffer_size() for peer in server._peers if peer.transport is not None]
        assert max(unsent) < 10_000_000
        writer.transport.abort()
        await ended(reader)
        await send(client, "q", message("still there"))
