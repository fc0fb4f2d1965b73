"""Requests that nobody would write, by the thousand: each gets an answer of the service or a closed connection."""

import asyncio
import base64
import hashlib
import hmac
import random
import re
from collections import Counter
from email.utils import formatdate
from urllib.parse import quote
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.blob import DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY, BlobEngine, BlobServer
from emulator.blob.blob_handlers import HANDLERS
from emulator.blob.call import Call, parse_query, parse_target
from emulator.blob.errors import BlobError
from emulator.blob.lease import Acquire
from emulator.blob.operations import OPERATIONS, route
from emulator.blob.records import ContentHeaders
from emulator.blob.reply import Reply, error_reply
from emulator.blob.sharedkey import string_to_sign
from emulator.blob.store import BlobKey, Upload
from emulator.clock import ManualClock, SystemClock
from emulator.faults import Faults
from emulator.journal import MemoryJournal

pytestmark = pytest.mark.slow

CASES = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
GUID = "11111111-1111-1111-1111-111111111111"
LEASED = "22222222-2222-2222-2222-222222222222"

anything = st.text(st.characters(codec="utf-8"), max_size=12)
values = st.one_of(
    anything,
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(
        ["", "*", "-1", "0", "15", "true", GUID, LEASED, '"0x1"', "AAAA", "bytes=0-1", "bytes=5-", "=", "%", "é"]
    ),
    st.just(formatdate(usegmt=True)),
)
HEADERS = [
    "Content-MD5",
    "Content-Type",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Unmodified-Since",
    "Range",
    "x-ms-access-tier",
    "x-ms-blob-cache-control",
    "x-ms-blob-content-md5",
    "x-ms-blob-content-type",
    "x-ms-blob-public-access",
    "x-ms-delete-snapshots",
    "x-ms-lease-break-period",
    "x-ms-lease-duration",
    "x-ms-lease-id",
    "x-ms-meta-a",
    "x-ms-meta-",
    "x-ms-proposed-lease-id",
    "x-ms-range",
    "x-ms-range-get-content-md5",
]
LEASE_HEADERS = {
    "x-ms-lease-action": "acquire",
    "x-ms-lease-duration": "15",
    "x-ms-lease-id": LEASED,
    "x-ms-proposed-lease-id": GUID,
}
Request = tuple[str, str, dict[str, str], dict[str, str]]
# One request for each operation that would go through, as method, path, parameters and headers.
GOOD: list[Request] = [
    ("GET", "/", {"comp": "list"}, {}),
    ("GET", "/", {"comp": "properties", "restype": "service"}, {}),
    ("PUT", "/new", {"restype": "container"}, {}),
    ("GET", "/box", {"restype": "container"}, {}),
    ("PUT", "/box", {"restype": "container", "comp": "metadata"}, {}),
    ("PUT", "/box", {"restype": "container", "comp": "lease"}, LEASE_HEADERS),
    ("GET", "/box", {"restype": "container", "comp": "list"}, {}),
    ("DELETE", "/box", {"restype": "container"}, {}),
    ("PUT", "/box/plain", {}, {"x-ms-blob-type": "BlockBlob"}),
    ("PUT", "/box/new", {}, {"x-ms-blob-type": "BlockBlob"}),
    ("GET", "/box/plain", {}, {}),
    ("GET", "/box/plain", {}, {"Range": "bytes=2-4"}),
    ("HEAD", "/box/leased", {}, {}),
    ("DELETE", "/box/leased", {}, {"x-ms-lease-id": LEASED}),
    ("PUT", "/box/plain", {"comp": "properties"}, {}),
    ("PUT", "/box/leased", {"comp": "metadata"}, {"x-ms-lease-id": LEASED}),
    ("PUT", "/box/plain", {"comp": "block", "blockid": "AAAA"}, {}),
    ("PUT", "/box/staged", {"comp": "blocklist"}, {}),
    ("GET", "/box/staged", {"comp": "blocklist", "blocklisttype": "all"}, {}),
    ("PUT", "/box/leased", {"comp": "lease"}, {**LEASE_HEADERS, "x-ms-lease-action": "renew"}),
    ("PUT", "/box/leased", {"comp": "lease"}, {**LEASE_HEADERS, "x-ms-lease-action": "change"}),
    ("PUT", "/box/leased", {"comp": "lease"}, {**LEASE_HEADERS, "x-ms-lease-action": "break"}),
    ("PUT", "/box/plain", {"comp": "lease"}, LEASE_HEADERS),
]
PARAMETERS = ["blockid", "blocklisttype", "comp", "delimiter", "include", "marker", "maxresults", "prefix", "restype"]
names = st.one_of(st.sampled_from(["box", "leased", "plain", "folder/x", "$root", ""]), anything)
methods = st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "FROB"])


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A good request with a few things changed, so that most get past the first check."""
    method, path, query, headers = draw(st.sampled_from(GOOD))
    query = query | draw(st.dictionaries(st.sampled_from(PARAMETERS), values, max_size=draw(st.integers(0, 2))))
    several = draw(st.integers(0, 3))
    headers = headers | draw(st.dictionaries(st.sampled_from([*HEADERS, *LEASE_HEADERS]), values, max_size=several))
    if draw(st.integers(0, 19)) == 0:
        method = draw(methods)
    if draw(st.integers(0, 9)) == 0:
        path = "/" + "/".join(quote(part, safe="/$") for part in draw(st.lists(names, max_size=3)))
    return method, f"/{DEVELOPMENT_ACCOUNT}{path}", query, {"x-ms-version": "2024-11-04", **headers}


bodies = st.one_of(
    st.just(b"<BlockList><Latest>AAAA</Latest></BlockList>"),
    st.binary(max_size=40),
    st.lists(st.sampled_from(["<BlockList>", "<Latest>AAAA</Latest>", "</BlockList>", "<!--", "&x;", "<?xml?>"])).map(
        lambda parts: "".join(parts).encode()
    ),
)


def engine_with_content() -> BlobEngine:
    engine = BlobEngine(clock=ManualClock(), journal=MemoryJournal(), capacity_bytes=10_000)
    engine.containers.create("box", {"a": "b"})
    for name in ("plain", "leased", "folder/x"):
        upload = Upload()
        engine.add_piece(upload, b"content")
        engine.blobs.put(BlobKey("box", name), upload, headers=ContentHeaders(), metadata={"m": "1"})
    engine.blobs.lease(BlobKey("box", "leased"), Acquire(-1, LEASED))
    upload = Upload()
    engine.add_piece(upload, b"block")
    engine.blocks.stage(BlobKey("box", "staged"), "AAAA", upload)
    return engine


def check_sendable(reply: Reply) -> None:
    """A status line, headers on one line each, and a body that is what it says it is."""
    assert 200 <= reply.status < 600
    for name, value in reply.headers.items():
        assert re.fullmatch(r"[A-Za-z0-9_-]+", name), name
        assert value.isascii(), (name, value)
        assert value.isprintable(), (name, value)
    content = b"".join(reply.content)
    if reply.headers.get("Content-Type") == "application/xml" and content:
        ET.fromstring(content)


@settings(CASES, max_examples=2500)
@given(requests(), bodies)
def test_handlers_answer_or_refuse_whatever_comes(request_: Request, body: bytes) -> None:
    method, path, query, given_headers = request_
    engine = engine_with_content()
    before = engine.content_bytes
    raw_query = "&".join(f"{quote(name)}={quote(value)}" for name, value in query.items())
    lowered = {name.lower(): value for name, value in given_headers.items()}
    metadata = [(name, value) for name, value in given_headers.items() if name.startswith("x-ms-meta-")]
    try:
        target = parse_target(DEVELOPMENT_ACCOUNT, path, is_container="restype" in query)
        call = Call(method, target, parse_query(raw_query), lowered, metadata=metadata, endpoint="http://x/a")
        named = route(call)
        assert named.name in OPERATIONS
        call.check_covered()
        if named.refusal is not None:
            raise named.refusal
        call.body.md5 = hashlib.md5(body).digest()
        call.body.data = body
        if body:
            engine.add_piece(call.body.upload, body)
        try:
            reply = HANDLERS[named.name](engine, call)
        finally:
            engine.discard(call.body.upload)
    except BlobError as error:
        assert engine.content_bytes == before, "a refused request left content behind"
        reply = error_reply(error, method=method, request_id="id", now_s=0.0)
    check_sendable(reply)


def signed(method: str, path: str, extra: dict[str, str], body: bytes) -> bytes:
    """A valid request as bytes, to be spoilt."""
    full = {"x-ms-version": "2024-11-04", "x-ms-date": formatdate(usegmt=True), **extra}
    signing = {**{name.lower(): value for name, value in full.items()}, "content-length": str(len(body))}
    raw_path, _, query = f"/{DEVELOPMENT_ACCOUNT}{path}".partition("?")
    text = string_to_sign(DEVELOPMENT_ACCOUNT, method, raw_path, parse_query(query), signing)
    mac = base64.b64encode(hmac.digest(base64.b64decode(DEVELOPMENT_KEY), text.encode(), "sha256")).decode()
    full |= {"Authorization": f"SharedKey {DEVELOPMENT_ACCOUNT}:{mac}", "Host": "x", "Content-Length": str(len(body))}
    head = f"{method} /{DEVELOPMENT_ACCOUNT}{path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in full.items())
    return head.encode() + b"\r\n" + body


VALID = [
    ("PUT", "/box?restype=container", {}, b""),
    ("PUT", "/box/b", {"x-ms-blob-type": "BlockBlob"}, b"content of a blob"),
    ("PUT", "/box/b?comp=lease", {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "15"}, b""),
    ("PUT", "/box/c?comp=blocklist", {}, b"<BlockList></BlockList>"),
    ("GET", "/box?restype=container&comp=list", {}, b""),
]
SOCKET_CASES = 1500
AT_ONCE = 175


def spoil(chance: random.Random) -> bytes:
    """A valid request with up to four changes, or noise."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(200))
    request = signed(*chance.choice(VALID))
    for _ in range(chance.randrange(4)):
        at, junk = chance.randrange(len(request) + 1), chance.randbytes(chance.randrange(1, 8))
        match chance.choice(["cut", "flip", "insert", "repeat", "drop"]):
            case "cut":
                request = request[:at]
            case "flip":
                request = request[:at] + junk + request[at + len(junk) :]
            case "insert":
                request = request[:at] + junk + request[at:]
            case "repeat":
                request = request[:at] + request[at : at + 40] * 3 + request[at + 40 :]
            case "drop":
                request = request[:at] + request[at + len(junk) :]
    return request


async def said(port: int, request: bytes) -> bytes:
    """What the server answers until it closes."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            async with asyncio.timeout(20):
                return await reader.read()
        finally:
            writer.close()
    except ConnectionError:
        return b""


@pytest.mark.anyio
async def test_spoilt_bytes_on_the_socket_end_that_connection_only() -> None:
    server = BlobServer(clock=SystemClock(), journal=MemoryJournal(), faults=Faults(), idle_s=0.05, read_idle_s=0.05)
    port = await server.start()
    assert (await said(port, signed(*VALID[0]))).startswith(b"HTTP/1.1 201 ")
    tasks = len(asyncio.all_tasks())
    chance = random.Random(8)
    statuses: Counter[bytes] = Counter()
    for _ in range(SOCKET_CASES // AT_ONCE):
        requests_ = [spoil(chance) for _ in range(AT_ONCE)]
        answers = await asyncio.gather(*(said(port, request) for request in requests_))
        for request, answer in zip(requests_, answers, strict=True):
            found = re.match(rb"HTTP/\d\.\d ([1-5]\d\d) ", answer)
            assert answer == b"" or found, (request, answer[:100])
            statuses[found[1] if found else b""] += 1
            assert b"InternalError" not in answer, request
    # The requests were not all refused at the door, and some got no answer.
    assert min(statuses[each] for each in (b"", b"200", b"201", b"400", b"403")) > 20, statuses
    async with asyncio.timeout(10):
        while server._reception.held_bytes or len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert server.engine.content_bytes <= 100
    assert (await said(port, signed(*VALID[4]))).startswith(b"HTTP/1.1 200 ")
    await server.stop()
