"""The HTTP front by hand: wrong, huge, slow and broken requests get Cosmos DB's own errors; none ends the process."""

import asyncio
import gc
import random
import time
import tracemalloc
from collections.abc import AsyncIterator
from email.utils import formatdate

import msgspec
import pytest

from emulator.clock import ManualClock
from emulator.cosmos import CosmosServer
from emulator.cosmos.throughput import Throughput
from emulator.faults import Faults
from emulator.journal import MemoryJournal
from tests.support.rawhttp import HEAD_END, Answer, exchange, read_answer, request, signed
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

LINK = "dbs/d/colls/c"
DOCS = f"/{LINK}/docs"
KEY = {"x-ms-documentdb-partitionkey": '["p"]'}


def make_server(**limits: float) -> CosmosServer:
    return CosmosServer(clock=ManualClock(), journal=MemoryJournal(), faults=Faults(), **limits)  # type: ignore[arg-type]  # limits are ints and floats


def fill(server: CosmosServer) -> None:
    account = server.engine.account
    account.create_database({"id": "d"}, Throughput())
    key = {"paths": ["/pk"], "kind": "Hash", "version": 2}
    account.create_container("d", {"id": "c", "partitionKey": key}, Throughput())


@pytest.fixture
async def server() -> AsyncIterator[CosmosServer]:
    server = make_server()
    await server.start()
    fill(server)
    yield server
    await server.stop()


def port_of(server: CosmosServer) -> int:
    return int(server.endpoint.rstrip("/").rpartition(":")[2])


async def call(
    server: CosmosServer,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    type_: str = "docs",
    link: str = LINK,
    **headers: str,
) -> Answer:
    """A signed request."""
    extra = {name.replace("_", "-"): value for name, value in headers.items()}
    octets = request(method, path, signed(server.key, method, type_, link) | extra, body)
    answer = await exchange(port_of(server), octets)
    assert answer is not None
    return answer


def assert_error(answer: Answer | None, status: int) -> None:
    """The error is Cosmos DB's own: JSON with a code and a message."""
    assert answer is not None
    assert answer.status == status, answer.body
    assert set(answer.json()) == {"code", "message"}
    assert answer.headers["content-type"].startswith("application/json")
    assert b"Traceback" not in answer.body


async def assert_alive(server: CosmosServer) -> None:
    answer = await call(server, "GET", "/", type_="", link="")
    assert answer.status == 200
    assert answer.json()["enableMultipleWriteLocations"] is False


async def create(server: CosmosServer, body: bytes, **headers: str) -> Answer:
    return await call(server, "POST", DOCS, body, **KEY, **headers)


async def test_an_item_travels_with_its_headers(server: CosmosServer) -> None:
    created = await create(server, b'{"id":"a","pk":"p"}', x_ms_activity_id="11111111-2222-3333-4444-555555555555")
    assert created.status == 201
    assert created.headers["x-ms-activity-id"] == "11111111-2222-3333-4444-555555555555"
    assert created.headers["x-ms-session-token"] == "0:-1#1"
    assert created.headers["lsn"] == "1"
    assert created.headers["etag"] == created.json()["_etag"]
    assert created.headers["x-ms-alt-content-path"] == LINK
    assert created.headers["x-ms-documentdb-partitionkeyrangeid"] == "0"
    assert float(created.headers["x-ms-request-charge"]) > 4.95


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "nonsense", "x-ms-date": "Mon, 01 Jan 2024 00:00:00 GMT"},
        {"authorization": "type%3Dmaster%26ver%3D1.0%26sig%3DAAAA", "x-ms-date": "Mon, 01 Jan 2024 00:00:00 GMT"},
        {"authorization": "type%3Daad%26ver%3D1.0%26sig%3Deyj", "x-ms-date": "Mon, 01 Jan 2024 00:00:00 GMT"},
        {"authorization": "type%3Dmaster%26ver%3D1.0%26sig%3D%ff%fe", "x-ms-date": "\udcff"},
        {"authorization": "type%3Dmaster%26ver%3D1.0%26sig%3DAAAA"},
    ],
)
async def test_an_unsigned_or_wrongly_signed_request_is_401(server: CosmosServer, headers: dict[str, str]) -> None:
    assert_error(await exchange(port_of(server), request("GET", f"{DOCS}/a", headers)), 401)


@pytest.mark.parametrize(("off_s", "status"), [(-890, 404), (890, 404), (-910, 403), (910, 403)])
async def test_a_signature_holds_for_a_quarter_of_an_hour(server: CosmosServer, off_s: int, status: int) -> None:
    date = formatdate(time.time() + off_s, usegmt=True)
    headers = signed(server.key, "GET", "docs", f"{LINK}/docs/a", date=date) | KEY
    answer = await exchange(port_of(server), request("GET", f"{DOCS}/a", headers))
    assert_error(answer, status)
    assert answer is not None
    assert ("not valid at the current time" in answer.json()["message"]) == (status == 403)


@pytest.mark.parametrize("date", ["2026-01-01T00:00:00Z", "now", "Thu, 32 Jan 2026 00:00:00 GMT"])
async def test_a_date_in_another_form_is_401(server: CosmosServer, date: str) -> None:
    headers = signed(server.key, "GET", "docs", f"{LINK}/docs/a", date=date) | KEY
    answer = await exchange(port_of(server), request("GET", f"{DOCS}/a", headers))
    assert_error(answer, 401)


async def test_a_signature_holds_for_its_own_verb_and_resource_only(server: CosmosServer) -> None:
    headers = signed(server.key, "GET", "docs", f"{LINK}/docs/a") | KEY
    assert_error(await exchange(port_of(server), request("GET", f"{DOCS}/a", headers)), 404)
    assert_error(await exchange(port_of(server), request("DELETE", f"{DOCS}/a", headers)), 401)
    assert_error(await exchange(port_of(server), request("GET", f"{DOCS}/b", headers)), 401)


@pytest.mark.parametrize(
    ("method", "path", "type_", "link"),
    [
        ("PUT", DOCS, "docs", LINK),
        ("DELETE", "/dbs", "dbs", ""),
        ("PATCH", "/dbs/d", "dbs", "dbs/d"),
        ("POST", f"{DOCS}/a", "docs", f"{LINK}/docs/a"),
        ("OPTIONS", "/", "", ""),
        ("POST", "/", "", ""),
    ],
)
async def test_a_wrong_method_is_405(server: CosmosServer, method: str, path: str, type_: str, link: str) -> None:
    assert_error(await call(server, method, path, type_=type_, link=link), 405)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe\x00", b"{" * 5000, b'{"id":5,"pk":"p"}']
)
async def test_a_malformed_item_is_400(server: CosmosServer, body: bytes) -> None:
    assert_error(await create(server, body), 400)


@pytest.mark.parametrize(
    "headers",
    [
        {"x_ms_documentdb_partitionkey": "p"},
        {"x_ms_documentdb_partitionkey": '["p","q"]'},
        {"x_ms_documentdb_partitionkey": "[" * 3000},
        {"x_ms_session_token": "nonsense"},
        {"x_ms_consistency_level": "Strong"},
        {"x_ms_cosmos_intended_collection_rid": "other"},
    ],
)
async def test_malformed_headers_are_400(server: CosmosServer, headers: dict[str, str]) -> None:
    arguments = {**{name.replace("-", "_"): value for name, value in KEY.items()}, **headers}
    answer = await call(server, "POST", DOCS, b'{"id":"a","pk":"p"}', **arguments)
    assert_error(answer, 400)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{}", {}),
        (b'{"query":5}', {}),
        (b'{"query":"SELECT * FROM c","parameters":{}}', {}),
        (b'{"query":"SELECT * FROM c","parameters":[{"name":"x"}]}', {}),
        (b'{"query":"SELECT * FROM c"}', {"x_ms_max_item_count": "0"}),
        (b'{"query":"SELECT * FROM c"}', {"x_ms_max_item_count": "many"}),
        (b'{"query":"SELECT * FROM c"}', {"x_ms_continuation": "nonsense"}),
        (b'{"query":"SELECT * FROM c"}', {"x_ms_documentdb_partitionkey": '["p","q"]'}),
    ],
)
async def test_a_malformed_query_request_is_400(server: CosmosServer, body: bytes, headers: dict[str, str]) -> None:
    named = {name.replace("-", "_"): value for name, value in KEY.items()} | headers
    answer = await call(server, "POST", DOCS, body, content_type="application/query+json", **named)
    assert_error(answer, 400)


async def test_a_query_over_partitions_must_be_asked_for_and_planned(server: CosmosServer) -> None:
    body = b'{"query":"SELECT * FROM c ORDER BY c.n"}'
    refused = await call(server, "POST", DOCS, body, x_ms_documentdb_isquery="true")
    assert_error(refused, 400)
    assert "x-ms-substatus" not in refused.headers
    first_chance = await call(
        server, "POST", DOCS, body, x_ms_documentdb_isquery="true", x_ms_documentdb_query_enablecrosspartition="True"
    )
    assert first_chance.status == 400
    assert first_chance.headers["x-ms-substatus"] == "1004"
    plan = msgspec.json.decode(first_chance.json()["additionalErrorInfo"])
    assert plan["queryInfo"]["orderBy"] == ["Ascending"]


async def test_two_megabytes_are_the_limit_of_a_request(server: CosmosServer) -> None:
    limit = 2 * 1024 * 1024
    frame = b'[{"operationType":"Create","resourceBody":{"id":"a","pk":"p","d":"%s"}}]'
    batch = {"x_ms_cosmos_is_batch_request": "True", "x_ms_cosmos_batch_atomic": "True"}
    fitting = frame % (b"x" * (limit - len(frame) + 2 - 400))  # room for the system properties of the item
    assert (await create(server, fitting, **batch)).status == 200
    assert_error(await create(server, frame % (b"x" * (limit - len(frame) + 3)), **batch), 413)
    assert_error(await create(server, b" " * (limit * 2)), 413)


async def test_a_compressed_body_is_refused(server: CosmosServer) -> None:
    assert_error(await create(server, b"\x1f\x8b\x08\x00", content_encoding="gzip"), 415)


@pytest.mark.parametrize(
    "octets",
    [
        b"nonsense" + HEAD_END,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"GET / HTTP/9.9" + HEAD_END,
        b"GET / HTTP/1.1\r\nHost x" + HEAD_END,
        b"POST / HTTP/1.1\r\nContent-Length: -5" + HEAD_END,
        b"POST / HTTP/1.1\r\nContent-Length: ten" + HEAD_END,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3" + HEAD_END,
        b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"y" * 40_000 + HEAD_END,
        b"GET /" + b"y" * 40_000 + b" HTTP/1.1" + HEAD_END,
        b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: v\r\n" % number for number in range(500)) + b"\r\n",
    ],
)
async def test_malformed_http_is_answered_as_cosmos_would(server: CosmosServer, octets: bytes) -> None:
    assert_error(await exchange(port_of(server), octets), 400)
    await assert_alive(server)


async def test_a_body_in_chunks_is_put_together(server: CosmosServer) -> None:
    head = request("POST", DOCS, signed(server.key, "POST", "docs", LINK) | KEY)
    head = head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    answer = await exchange(port_of(server), head + b'a\r\n{"id":"a",\r\na\r\n"pk":"p"}\n\r\n0\r\n\r\n')
    assert answer is not None
    assert answer.status == 201


async def test_a_client_that_asks_first_is_told_to_go_on(server: CosmosServer) -> None:
    body = b'{"id":"a","pk":"p"}'
    headers = signed(server.key, "POST", "docs", LINK) | KEY | {"Expect": "100-continue"}
    octets = request("POST", DOCS, headers, body)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(octets[: -len(body)])
    async with asyncio.timeout(5):
        assert await reader.readuntil(HEAD_END) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        answer = await read_answer(reader)
    writer.close()
    assert answer is not None
    assert answer.status == 201


async def test_a_malformed_chunk_is_400(server: CosmosServer) -> None:
    head = request("POST", DOCS, signed(server.key, "POST", "docs", LINK) | KEY)
    head = head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    assert_error(await exchange(port_of(server), head + b"zz\r\nnonsense\r\n"), 400)
    await assert_alive(server)


async def test_a_body_that_breaks_off_changes_nothing(server: CosmosServer) -> None:
    octets = request("POST", DOCS, signed(server.key, "POST", "docs", LINK) | KEY, b'{"id":"a","pk":"p"}')
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(octets[:-5])
    await writer.drain()
    writer.close()
    await assert_alive(server)
    assert not server.engine.account.container("d", "c").partitions


async def test_a_slow_body_times_out() -> None:
    server = make_server(transfer_s=0.2)
    await server.start()
    try:
        octets = request("POST", DOCS, signed(server.key, "POST", "docs", LINK) | KEY, b"x" * 100)
        answer = await exchange(port_of(server), octets[:-50])
        assert_error(answer, 408)
    finally:
        await server.stop()


async def test_an_answer_that_nobody_takes_is_given_up() -> None:
    server = make_server(transfer_s=0.3)
    await server.start()
    fill(server)
    for number in range(4):
        assert (await create(server, b'{"id":"%d","pk":"p","d":"%s"}' % (number, b"x" * 1_500_000))).status == 201
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server), limit=1024)
    try:
        query = {"content-type": "application/query+json", "x-ms-documentdb-isquery": "true"}
        headers = signed(server.key, "POST", "docs", LINK) | KEY | query
        for _ in range(4):  # more than the buffers of both sockets take
            writer.write(request("POST", DOCS, headers, b'{"query":"SELECT * FROM c"}'))
        await writer.drain()
        await wait_until(lambda: not server.connection_count, "the connection is closed")
        del reader
    finally:
        writer.close()
        await server.stop()


@pytest.mark.parametrize("octets", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_connection_without_a_whole_head_is_closed(octets: bytes) -> None:
    server = make_server(idle_s=0.3)
    await server.start()
    try:
        assert await exchange(port_of(server), octets, timeout_s=5) is None
    finally:
        await server.stop()


async def test_connections_are_limited_in_number() -> None:
    server = make_server(connections_max=5)
    await server.start()
    opened = [await asyncio.open_connection("127.0.0.1", port_of(server)) for _ in range(5)]
    try:
        for reader, writer in opened:
            writer.write(request("GET", "/", signed(server.key, "GET", "", "")))
            answer = await read_answer(reader)
            assert answer is not None
            assert answer.status == 200
        assert await exchange(port_of(server), request("GET", "/", {})) is None
        opened.pop()[1].close()

        async def answers() -> bool:
            return await exchange(port_of(server), request("GET", "/", {})) is not None

        await wait_until(answers, "a closed connection makes room for another")
    finally:
        for _, writer in opened:
            writer.close()
        await server.stop()


async def test_pipelined_requests_are_answered_in_order(server: CosmosServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    for number in range(20):
        headers = signed(server.key, "GET", "docs", f"{LINK}/docs/{number}") | KEY | {"x-ms-activity-id": f"{number}"}
        writer.write(request("GET", f"{DOCS}/{number}", headers))
    for number in range(20):
        answer = await read_answer(reader)
        assert answer is not None
        assert (answer.status, answer.headers["x-ms-activity-id"]) == (404, f"{number}")
    writer.close()


async def test_stopping_is_bounded_idempotent_and_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    server = make_server()
    await server.stop()
    port = await server.start()
    with pytest.raises(RuntimeError, match="started already"):
        await server.start()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nContent-Length: 10" + HEAD_END)
    await writer.drain()
    async with asyncio.timeout(10):
        await server.stop()
        await server.stop()
    writer.close()
    await wait_until(lambda: asyncio.all_tasks() <= before, "all tasks of the server have ended")
    again = await server.start(port)
    assert again == port
    await server.stop()


async def test_a_bug_is_a_500_without_its_innards(server: CosmosServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("secret innards")

    monkeypatch.setattr(server.engine, "execute", broken)
    answer = await create(server, b'{"id":"a","pk":"p"}')
    assert_error(answer, 500)
    assert b"innards" not in answer.body


# --- fuzz ---

METHODS = ("GET", "GET", "GET", "POST", "POST", "POST", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW")
PATHS = (
    *("/", "/dbs", "/dbs/d", "/dbs/d/colls", f"/{LINK}", DOCS, DOCS, DOCS, f"{DOCS}/a", f"/{LINK}/pkranges"),
    *(
        "/offers",
        "/offers/x",
        "/dbs/%ff/colls",
        f"{DOCS}/%2F",
        "//",
        "/dbs//colls",
        "/nonsense",
        f"{DOCS}/a/attachments",
    ),
)
HEADERS = (
    ("x-ms-documentdb-partitionkey", ('["p"]', "[]", "[{}]", "p", "[1e999]", '["\\ud800"]', "\udcff")),
    ("x-ms-cosmos-is-batch-request", ("True", "no")),
    ("x-ms-cosmos-batch-atomic", ("True", "False")),
    ("x-ms-documentdb-isquery", ("true",)),
    ("x-ms-cosmos-is-query-plan-request", ("True",)),
    ("x-ms-documentdb-is-upsert", ("true",)),
    ("x-ms-documentdb-query-enablecrosspartition", ("true",)),
    ("x-ms-documentdb-partitionkeyrangeid", ("0", "9", "x", "")),
    ("x-ms-start-epk", ("", "FF", "zz")),
    ("x-ms-end-epk", ("", "FF", "00")),
    ("x-ms-max-item-count", ("-1", "1", "9" * 30, "x")),
    ("x-ms-continuation", ("x", "kwAAkKAA", "=", "lgAAkKAAAQ==")),
    ("x-ms-session-token", ("0:-1#0", "0:-1#" + "9" * 30, "x", "0:-1#1#2=3")),
    ("x-ms-offer-throughput", ("400", "-1", "x", "9" * 30, "²")),
    ("x-ms-cosmos-offer-autopilot-settings", ('{"maxThroughput":1000}', "{", '{"maxThroughput":"x"}')),
    ("a-im", ("Incremental Feed", "Full-Fidelity Feed", "x")),
    ("if-none-match", ("*", '"1"', "x", '"' + "9" * 30 + '"', '"²"')),
    ("if-match", ("*", "x")),
    ("if-modified-since", ("Mon, 01 Jan 2024 00:00:00 GMT", "x", "Mon, 99 Jan 99999 00:00:00 GMT")),
    ("prefer", ("return=minimal", "x")),
    ("x-ms-consistency-level", ("Session", "Eventual", "Strong")),
    ("content-encoding", ("identity", "gzip")),
)  # fmt: skip
SCHEMA = b'"partitionKey":{"paths":["/pk"],"kind":"Hash","version":2}'
BODIES = (
    *(
        b"",
        b"{}",
        b"[]",
        b"null",
        b"{",
        b'{"id":"a","pk":"p"}',
        b'{"id":"a","pk":"p"}',
        b'{"id":"b","pk":"p","n":1e308}',
    ),
    *(b'{"id":"\\ud800","pk":"p"}', b'{"query":"SELECT * FROM c"}', b'{"query":"SELECT * FROM c ORDER BY c.n"}'),
    b'{"query":"SELECT VALUE MAX(c.n) FROM c"}',
    b'{"query":"SELECT * FROM c WHERE c.n > @n","parameters":[{"name":"@n","value":[1]}]}',
    *(b'{"query":"\\u0000"}', b'{"query":"SELECT TOP 99999999999999999999 * FROM c"}'),
    b'{"query":"SELECT POWER(c.n, 1e308) FROM c"}',
    b'[{"operationType":"Create","resourceBody":{"id":"c","pk":"p"}}]',
    b'[{"operationType":"Read","id":"a"}]',
    b'[{"operationType":"Patch","id":"a","resourceBody":{"operations":[{"op":"incr","path":"/n","value":1}]}}]',
    b'[{"operationType":"Create","resourceBody":5}]',
    b'[{"operationType":"Replace","resourceBody":{"id":"a","pk":"p"}}]',
    b'{"operations":[{"op":"set","path":"/x/y","value":1}]}',
    b'{"operations":[{"op":"incr","path":"/n","value":1e308}]}',
    b'{"id":"e",' + SCHEMA + b',"indexingPolicy":{"includedPaths":[5]}}',
    b'{"id":"c",' + SCHEMA + b',"defaultTtl":5}',
    b'{"content":{"offerThroughput":[]}}',
    *(b"\x00\x01\x02", b'{"id":"\xff"}', b"[" * 10_000, b'{"a":' * 10_000, b"9" * 5000, b"-" * 100),
)


def resource_of(path: str) -> tuple[str, str]:
    """What a client would sign for a path."""
    segments = [segment for segment in path.split("/") if segment]
    if not segments:
        return "", ""
    if segments[0] == "offers":
        return "offers", segments[1] if len(segments) > 1 else ""
    if len(segments) % 2:
        return segments[-1], "/".join(segments[:-1])
    return segments[-2], "/".join(segments)


def fuzzed(chance: random.Random, key: str) -> bytes:
    """A request that is signed, and wrong in any way."""
    method, path = chance.choice(METHODS), chance.choice(PATHS)
    headers = signed(key, method, *resource_of(path))
    if chance.random() < 0.7:
        headers |= KEY
    for name, values in chance.sample(HEADERS, chance.randint(0, 6)):
        headers[name] = chance.choice(values)
    body = chance.choice(BODIES)
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        if body:
            at = chance.randrange(len(body))
            body = body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]
    octets = bytearray(request(method, path, headers, body))
    if chance.random() < 0.2:
        for _ in range(chance.randint(1, 5)):
            octets[chance.randrange(len(octets))] = chance.randrange(256)
    if chance.random() < 0.1:
        del octets[chance.randrange(len(octets)) :]
    return bytes(octets)


@pytest.mark.slow
async def test_ten_thousand_wrong_requests_end_in_answers_and_never_in_a_500() -> None:
    server = make_server(transfer_s=0.2, idle_s=0.3)
    await server.start()
    fill(server)
    statuses: dict[int | None, int] = {}

    async def send(octets: bytes) -> None:
        answer = await exchange(port_of(server), octets)
        status = None if answer is None else answer.status
        statuses[status] = statuses.get(status, 0) + 1
        if answer is not None and answer.status >= 400:
            assert answer.status < 500, (octets[:300], answer.body)
            assert b"Traceback" not in answer.body
            if not octets.startswith(b"HEAD"):
                assert {"code", "message"} <= set(answer.json()), octets[:300]

    async def client(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(200):
            await send(fuzzed(chance, server.key))
            account = server.engine.account
            if "d" not in account.databases or "c" not in account.database("d").containers:
                if "d" in account.databases:
                    account.delete_database("d", None)
                fill(server)

    try:
        await asyncio.gather(*[client(seed) for seed in range(50)])
        await assert_alive(server)
    finally:
        await server.stop()
    assert sum(statuses.values()) == 10_000
    assert {200, 201, 400, 401, 404, 405, 409} <= statuses.keys()


@pytest.mark.slow
async def test_bodies_on_their_way_are_bounded_over_all_connections() -> None:
    server = make_server(receiving_bytes_max=3_000_000)
    fill(server)
    await server.start()
    half = request("POST", DOCS, {})[: -len(HEAD_END)].replace(b"Content-Length: 0", b"Content-Length: 2000000")
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(half + HEAD_END + b"x" * 100_000)
    await wait_until(lambda: server._receiving_bytes == 2_000_000, "the first body is on its way")
    answer = await exchange(port_of(server), half + HEAD_END)
    assert_error(answer, 503)
    assert answer is not None
    assert "too many request bodies" in answer.json()["message"]
    assert_error(await call(server, "GET", f"{DOCS}/a", b"", link=f"{LINK}/docs/a", **KEY), 404)
    writer.close()
    await wait_until(lambda: server._receiving_bytes == 0, "the place is free again")
    assert (await create(server, b'{"id":"a","pk":"p"}')).status == 201
    del reader
    await server.stop()


async def test_refused_requests_leave_no_memory_behind(server: CosmosServer) -> None:
    body = b'{"id":"a","pk":"other","d":"' + b"x" * 20_000 + b'"}'

    async def refuse(count: int) -> None:
        for _ in range(count):
            assert (await create(server, body)).status == 400

    await refuse(200)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await refuse(1000)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1_000_000  # a thousand bodies would be twenty times that
