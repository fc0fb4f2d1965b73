"""Connections that misbehave: too many, silent, half open, malformed. Each ends alone; the server goes on."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from emulator.blob import BlobServer
from emulator.clock import SystemClock
from emulator.faults import Faults
from emulator.journal import MemoryJournal
from tests.support.event_loops import on_both_event_loops

pytestmark = [pytest.mark.anyio, on_both_event_loops]


WAIT_S = 10
HEAD = b"GET /devstoreaccount1/box/b HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
async def server() -> AsyncIterator[BlobServer]:
    found = BlobServer(
        clock=SystemClock(), journal=MemoryJournal(), faults=Faults(), connections_max=3, idle_s=0.3, read_idle_s=0.3
    )
    await found.start()
    yield found
    await found.stop()


async def connect(server: BlobServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = server.endpoint.split(":")[2].split("/")[0]
    return await asyncio.open_connection("127.0.0.1", int(port))


async def said(server: BlobServer, request: bytes) -> bytes:
    """What comes back until the server closes."""
    reader, writer = await connect(server)
    try:
        writer.write(request)
        async with asyncio.timeout(WAIT_S):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_connection_that_says_nothing_is_closed(server: BlobServer) -> None:
    assert await said(server, b"") == b""


async def test_half_a_head_is_not_waited_for(server: BlobServer) -> None:
    assert await said(server, HEAD) == b""


async def test_connection_that_falls_silent_after_an_answer_is_closed(server: BlobServer) -> None:
    answer = await said(server, HEAD + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert answer.count(b"HTTP/1.1") == 1


async def test_connections_past_the_limit_are_closed_and_the_others_go_on(server: BlobServer) -> None:
    kept = [await connect(server) for _ in range(3)]
    assert await said(server, HEAD + b"\r\n") == b""
    reader, writer = kept[0]
    writer.write(HEAD + b"\r\n")
    async with asyncio.timeout(WAIT_S):
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    for _, each in kept:
        each.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"AMQP\x00\x01\x00\x00",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\n: no name\r\n\r\n",
    ],
)
async def test_malformed_http_is_400_as_xml_and_closes(server: BlobServer, request_bytes: bytes) -> None:
    answer = await said(server, request_bytes)
    assert answer.partition(b" ")[2].startswith(b"400 ")
    assert b"x-ms-error-code: InvalidInput" in answer
    assert b"<Code>InvalidInput</Code>" in answer


async def test_body_that_stops_halfway_ends_with_its_connection(server: BlobServer) -> None:
    _, writer = await connect(server)
    writer.write(
        b"PUT /devstoreaccount1/box/b HTTP/1.1\r\nHost: x\r\nx-ms-blob-type: BlockBlob\r\n"
        b"Content-Length: 1000\r\n\r\nhalf"
    )
    await writer.drain()
    writer.close()
    async with asyncio.timeout(WAIT_S):
        while server._reception.held_bytes:  # noqa: ASYNC110 - nothing signals it; the timeout bounds it
            await asyncio.sleep(0.01)
    assert await said(server, HEAD + b"\r\n") != b""


async def test_body_that_does_not_go_on_is_not_waited_for(server: BlobServer) -> None:
    answer = await said(
        server,
        b"PUT /devstoreaccount1/box/b HTTP/1.1\r\nHost: x\r\nx-ms-blob-type: BlockBlob\r\n"
        b"Content-Length: 1000\r\n\r\nhalf",
    )
    assert b"x-ms-error-code: OperationTimedOut" in answer
