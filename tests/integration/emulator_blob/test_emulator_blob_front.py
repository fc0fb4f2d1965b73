"""What the front answers to requests that no SDK would send, and what injected faults look like from outside."""

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from typing import NamedTuple
from xml.etree import ElementTree as ET

import aiohttp
import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob.aio import BlobServiceClient

from emulator.blob import DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY, BlobServer
from emulator.blob.call import parse_query
from emulator.blob.sharedkey import string_to_sign
from emulator.clock import SystemClock
from emulator.faults import Answer, ApplyLate, ApplyThenDrop, DropBefore, Faults, Rule, Truncate
from emulator.journal import MemoryJournal
from tests.support.event_loops import on_both_event_loops

pytestmark = [pytest.mark.anyio, on_both_event_loops]


A = "11111111-1111-1111-1111-111111111111"


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def code(self) -> str:
        return self.headers.get("x-ms-error-code", "")

    @property
    def details(self) -> dict[str, str]:
        return {child.tag: child.text or "" for child in ET.fromstring(self.content)}


class Raw:
    """Signed requests as bytes on a socket would say them."""

    def __init__(self, server: BlobServer, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session

    def signed(self, method: str, path: str, headers: dict[str, str], *, size: int) -> dict[str, str]:
        full = {"x-ms-version": "2024-11-04", "x-ms-date": formatdate(usegmt=True), **headers}
        signing = {name.lower(): value for name, value in full.items()}
        signing["content-length"] = str(size)
        raw_path, _, query = f"/{DEVELOPMENT_ACCOUNT}{path}".partition("?")
        text = string_to_sign(DEVELOPMENT_ACCOUNT, method, raw_path, parse_query(query), signing)
        key = base64.b64decode(DEVELOPMENT_KEY)
        signature = base64.b64encode(hashlib_hmac(key, text.encode())).decode()
        return {"Authorization": f"SharedKey {DEVELOPMENT_ACCOUNT}:{signature}", **full}

    async def send(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Response:
        sent = self.signed(method, path, {"Content-Type": "x/y", **(headers or {})}, size=len(body))
        if method in ("PUT", "POST"):
            sent["Content-Length"] = str(len(body))
        return await self.bare(method, path, sent, body)

    async def bare(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Response:
        url = self.server.endpoint + path
        async with self.session.request(method, url, headers=headers, data=body or None) as response:
            return Response(response.status, response.headers, await response.read())


def hashlib_hmac(key: bytes, text: bytes) -> bytes:
    """HMAC by its definition, so that the test does not lean on the code it tests."""
    block = key.ljust(64, b"\0") if len(key) <= 64 else hashlib.sha256(key).digest().ljust(64, b"\0")
    inner = hashlib.sha256(bytes(each ^ 0x36 for each in block) + text).digest()
    return hashlib.sha256(bytes(each ^ 0x5C for each in block) + inner).digest()


def unrepeating() -> aiohttp.ClientSession:
    """aiohttp repeats a dropped GET, PUT or DELETE once by itself, below any retry policy of an SDK; not here."""
    session = aiohttp.ClientSession()
    session._retry_connection = False
    return session


@pytest.fixture
async def raw() -> AsyncIterator[Raw]:
    server = BlobServer(clock=SystemClock(), journal=MemoryJournal(), faults=Faults())
    await server.start()
    async with unrepeating() as session:
        found = Raw(server, session)
        assert (await found.send("PUT", "/box?restype=container")).status == 201
        assert (await found.send("PUT", "/box/b", {"x-ms-blob-type": "BlockBlob"}, b"content")).status == 201
        yield found
    await server.stop()


# Authorization


async def test_request_without_authorization_is_401(raw: Raw) -> None:
    response = await raw.bare("GET", "/box/b", {"x-ms-version": "2024-11-04"})
    assert (response.status, response.code) == (401, "NoAuthenticationInformation")


@pytest.mark.parametrize("text", ["SharedKey", "SharedKey nobody", "Bearer token", "SharedKey devstoreaccount1:"])
async def test_malformed_authorization_is_400(raw: Raw, text: str) -> None:
    response = await raw.bare("GET", "/box/b", {"x-ms-version": "2024-11-04", "Authorization": text})
    assert (response.status, response.code) == (400, "InvalidAuthenticationInfo")


async def test_wrong_signature_is_403_and_tells_what_was_signed(raw: Raw) -> None:
    headers = raw.signed("GET", "/box/b", {}, size=0)
    response = await raw.bare("GET", "/box/other", headers)
    assert (response.status, response.code) == (403, "AuthenticationFailed")
    assert "/devstoreaccount1/devstoreaccount1/box/other" in response.details["AuthenticationErrorDetail"]


@pytest.mark.parametrize("changed", ["x-ms-meta-a", "If-Match", "Range", "Content-Type"])
async def test_every_header_that_counts_is_under_the_signature(raw: Raw, changed: str) -> None:
    headers = raw.signed("GET", "/box/b", {changed: "1", "Content-Type": "x/y"}, size=0)
    headers[changed] = "2"
    assert (await raw.bare("GET", "/box/b", headers)).code == "AuthenticationFailed"


async def test_old_request_is_403(raw: Raw) -> None:
    old = formatdate(time.time() - 16 * 60, usegmt=True)
    headers = raw.signed("GET", "/box/b", {"x-ms-date": old, "Content-Type": "x/y"}, size=0)
    response = await raw.bare("GET", "/box/b", headers)
    assert (response.status, response.code) == (403, "AuthenticationFailed")


@pytest.mark.parametrize("date", ["", "soon", f"Mon, 23 Nov {9**30} 01:01:01 GMT"])
async def test_request_without_a_date_is_403(raw: Raw, date: str) -> None:
    headers = raw.signed("GET", "/box/b", {"x-ms-date": date, "Content-Type": "x/y"}, size=0)
    response = await raw.bare("GET", "/box/b", headers)
    assert (response.status, response.code) == (403, "AuthenticationFailed")


async def test_jump_of_the_service_clock_does_not_age_requests(raw: Raw) -> None:
    raw.server.engine._store._clock.jump_s(3600)
    assert (await raw.send("GET", "/box/b")).status == 200


async def test_sdk_with_a_wrong_key_is_told_so(raw: Raw) -> None:
    wrong = base64.b64encode(b"another key").decode()
    connection_string = raw.server.connection_string.replace(DEVELOPMENT_KEY, wrong)
    async with BlobServiceClient.from_connection_string(connection_string, retry_total=0) as service:
        with pytest.raises(HttpResponseError) as raised:
            await service.create_container("x1x")
    assert (raised.value.status_code, raised.value.error_code) == (403, "AuthenticationFailed")


async def test_other_account_is_404(raw: Raw) -> None:
    url = raw.server.endpoint.replace(DEVELOPMENT_ACCOUNT, "other") + "/box/b"
    async with raw.session.get(url) as response:
        assert (response.status, response.headers["x-ms-error-code"]) == (404, "ResourceNotFound")


# Shapes of requests and answers


async def test_error_has_the_code_in_header_and_body(raw: Raw) -> None:
    response = await raw.send("GET", "/box/nothing")
    assert (response.status, response.code) == (404, "BlobNotFound")
    assert response.headers["Content-Type"] == "application/xml"
    assert response.details["Code"] == "BlobNotFound"
    assert f"RequestId:{response.headers['x-ms-request-id']}" in response.details["Message"]


async def test_error_to_head_and_304_have_no_body(raw: Raw) -> None:
    head = await raw.send("HEAD", "/box/nothing")
    assert (head.status, head.code, head.content) == (404, "BlobNotFound", b"")
    etag = (await raw.send("HEAD", "/box/b")).headers["ETag"]
    same = await raw.send("GET", "/box/b", {"If-None-Match": etag})
    assert (same.status, same.code, same.content) == (304, "ConditionNotMet", b"")


async def test_answer_repeats_version_and_client_request_id(raw: Raw) -> None:
    response = await raw.send("GET", "/box/b", {"x-ms-client-request-id": "mine"})
    assert response.headers["x-ms-version"] == "2024-11-04"
    assert response.headers["x-ms-client-request-id"] == "mine"
    assert response.headers["x-ms-request-id"]


@pytest.mark.parametrize("header", ["Range", "x-ms-range"])
@pytest.mark.parametrize(
    ("asked", "status", "shown", "content"),
    [
        ("bytes=0-2", 206, "bytes 0-2/7", b"con"),
        ("bytes=5-", 206, "bytes 5-6/7", b"nt"),
        ("bytes=5-100", 206, "bytes 5-6/7", b"nt"),
        ("bytes=3-2", 200, None, b"content"),
        ("bytes=-2", 200, None, b"content"),
        ("lines=1-2", 200, None, b"content"),
        ("bytes=0-1,3-4", 200, None, b"content"),
    ],
)
async def test_ranges(raw: Raw, *, header: str, asked: str, status: int, shown: str | None, content: bytes) -> None:
    response = await raw.send("GET", "/box/b", {header: asked})
    assert (response.status, response.content) == (status, content)
    assert response.headers.get("Content-Range") == shown


async def test_range_past_the_end_tells_the_size(raw: Raw) -> None:
    response = await raw.send("GET", "/box/b", {"x-ms-range": "bytes=7-"})
    assert (response.status, response.code) == (416, "InvalidRange")
    assert response.headers["Content-Range"] == "bytes */7"


async def test_md5_of_a_range_on_request(raw: Raw) -> None:
    response = await raw.send("GET", "/box/b", {"x-ms-range": "bytes=0-2", "x-ms-range-get-content-md5": "true"})
    assert response.headers["Content-MD5"] == base64.b64encode(hashlib.md5(b"con").digest()).decode()
    assert response.headers["x-ms-blob-content-md5"] == base64.b64encode(hashlib.md5(b"content").digest()).decode()
    whole = await raw.send("GET", "/box/b", {"x-ms-range-get-content-md5": "true"})
    assert (whole.status, whole.code) == (400, "InvalidHeaderValue")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("PUT", "/box/x", {}, 400, "MissingRequiredHeader"),
        ("PUT", "/box/x", {"x-ms-blob-type": "Cube"}, 400, "InvalidHeaderValue"),
        ("PUT", "/box/x", {"x-ms-blob-type": "PageBlob"}, 501, "NotImplemented"),
        ("PUT", "/box/x", {"x-ms-blob-type": "AppendBlob"}, 501, "NotImplemented"),
        ("PUT", "/box/b?comp=snapshot", {}, 501, "NotImplemented"),
        ("GET", "/box/b?snapshot=2024-01-01T00:00:00.0000000Z", {}, 501, "NotImplemented"),
        ("GET", "/box/b?versionid=2024-01-01T00:00:00.0000000Z", {}, 501, "NotImplemented"),
        ("PUT", "/box/b?comp=tier", {}, 501, "NotImplemented"),
        ("PUT", "/box/x", {"x-ms-copy-source": "http://127.0.0.1/a"}, 501, "NotImplemented"),
        ("PUT", "/box/x", {"x-ms-blob-type": "BlockBlob", "x-ms-tags": "a=b"}, 501, "NotImplemented"),
        ("POST", "/box/b", {}, 405, "UnsupportedHttpVerb"),
        ("PUT", "/box/b?comp=lease", {}, 400, "MissingRequiredHeader"),
        ("PUT", "/box/b?comp=lease", {"x-ms-lease-action": "steal"}, 400, "InvalidHeaderValue"),
        ("PUT", "/box/b?comp=lease", {"x-ms-lease-action": "acquire"}, 400, "MissingRequiredHeader"),
        ("PUT", "/box/b?comp=lease", {"x-ms-lease-action": "renew"}, 400, "MissingRequiredHeader"),
        (
            "PUT",
            "/box/b?comp=lease",
            {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "long"},
            400,
            "InvalidHeaderValue",
        ),
        ("PUT", "/box/b?comp=block", {}, 400, "MissingRequiredQueryParameter"),
        ("PUT", "/box/b?comp=block&blockid=AAAA", {}, 400, "InvalidHeaderValue"),
        ("PUT", "/box/b?comp=blocklist", {}, 400, "InvalidXmlDocument"),
        ("GET", "/box/b?comp=blocklist&blocklisttype=some", {}, 400, "InvalidQueryParameterValue"),
        ("GET", "/box?restype=container&comp=list&maxresults=0", {}, 400, "OutOfRangeQueryParameterValue"),
        ("GET", "/box?restype=container&comp=list&maxresults=x", {}, 400, "InvalidQueryParameterValue"),
        ("GET", "/box?restype=container&comp=list&marker=~", {}, 400, "InvalidQueryParameterValue"),
        ("GET", "/box?restype=container&comp=list&include=wings", {}, 400, "InvalidQueryParameterValue"),
        ("PUT", "/pub?restype=container", {"x-ms-blob-public-access": "blob"}, 409, "PublicAccessNotPermitted"),
        ("GET", "/box/b", {"If-Modified-Since": "yesterday"}, 400, "InvalidHeaderValue"),
        ("GET", "/box/b", {"If-Modified-Since": f"Mon, 23 Nov {9**30} 01:01:01 GMT"}, 400, "InvalidHeaderValue"),
        ("GET", "/box/b", {"If-Modified-Since": "Mon, 23 Nov 2026 25:61:61 GMT"}, 400, "InvalidHeaderValue"),
        (
            "PUT",
            "/box/b?comp=lease",
            {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "1_5"},
            400,
            "InvalidHeaderValue",
        ),
        ("GET", "/box/b", {"x-ms-version": "now"}, 400, "InvalidHeaderValue"),
        ("GET", "/box/b", {"x-ms-lease-id": "mine"}, 400, "InvalidHeaderValue"),
        ("GET", "/%FF/b", {}, 400, "InvalidUri"),
        ("GET", f"/box/{'x' * 1025}", {}, 404, "BlobNotFound"),
        ("PUT", f"/box/{'x' * 1025}", {"x-ms-blob-type": "BlockBlob"}, 400, "OutOfRangeInput"),
        ("PUT", "/box/b?comp=metadata", {"x-ms-meta-a-b": "1"}, 400, "InvalidMetadata"),
        (
            "PUT",
            "/box/x",
            {"x-ms-blob-type": "BlockBlob", "Content-MD5": "AAAA"},
            400,
            "InvalidMd5",
        ),
    ],
)
async def test_refusals(raw: Raw, *, method: str, path: str, headers: dict[str, str], status: int, code: str) -> None:
    response = await raw.send(method, path, headers)
    assert (response.status, response.code) == (status, code)


@pytest.mark.parametrize(
    "body",
    [
        b"<BlockList><Latest>AAAA</Latest>",
        b"<Other/>",
        b"<BlockList><Newest>AAAA</Newest></BlockList>",
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><BlockList><Latest>&a;</Latest></BlockList>',
        b"\xff\xfe\x00",
        b'<?xml version="1.0" encoding="nonsense"?><BlockList/>',
    ],
)
async def test_malformed_block_list_is_400(raw: Raw, body: bytes) -> None:
    response = await raw.send("PUT", "/box/b?comp=blocklist", {}, body)
    assert (response.status, response.code) == (400, "InvalidXmlDocument")


async def test_body_that_is_announced_too_large_is_413_unread(raw: Raw) -> None:
    port = raw.server.endpoint.split(":")[2].split("/")[0]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    writer.write(b"PUT /devstoreaccount1/box/b?comp=metadata HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"x-ms-error-code: RequestBodyTooLarge" in answer
    assert b"Connection: close" in answer


async def test_write_without_a_length_is_411(raw: Raw) -> None:
    port = raw.server.endpoint.split(":")[2].split("/")[0]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    writer.write(
        b"PUT /devstoreaccount1/box/b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
    )
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 411 ")


async def test_expect_100_continue_is_answered(raw: Raw) -> None:
    headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "x/y"}
    sent = raw.signed("PUT", "/box/expected", headers, size=4)
    url = raw.server.endpoint + "/box/expected"
    async with raw.session.put(url, headers=sent, data=b"1234", expect100=True) as response:
        assert response.status == 201
    assert (await raw.send("GET", "/box/expected")).content == b"1234"


async def test_blob_of_the_root_container_needs_no_container_in_the_path(raw: Raw) -> None:
    assert (await raw.send("GET", "/b")).code == "ContainerNotFound"
    assert (await raw.send("PUT", "/$root?restype=container")).status == 201
    assert (await raw.send("PUT", "/b", {"x-ms-blob-type": "BlockBlob"}, b"root")).status == 201
    assert (await raw.send("GET", "/$root/b")).content == b"root"


async def test_stop_is_idempotent_and_frees_the_port() -> None:
    server = BlobServer(clock=SystemClock(), journal=MemoryJournal(), faults=Faults())
    port = await server.start()
    await server.stop()
    await server.stop()
    again = BlobServer(clock=SystemClock(), journal=MemoryJournal(), faults=Faults())
    assert await again.start(port) == port
    with pytest.raises(OSError, match="address already in use"):
        await BlobServer(clock=SystemClock(), journal=MemoryJournal(), faults=Faults()).start(port)
    await again.stop()


# Faults


def inject(raw: Raw, rule: Rule) -> int:
    return raw.server._faults.add(rule)


async def test_answer_is_given_without_touching_the_engine(raw: Raw) -> None:
    inject(raw, Rule(service="blob", operation="put-blob", effect=Answer(status=503, retry_after_ms=1500)))
    response = await raw.send("PUT", "/box/b", {"x-ms-blob-type": "BlockBlob"}, b"new")
    assert (response.status, response.code) == (503, "ServerBusy")
    assert response.headers["Retry-After"] == "2"
    assert (await raw.send("GET", "/box/b")).content == b"content"


async def test_dropped_before_it_is_not_applied(raw: Raw) -> None:
    inject(raw, Rule(operation="delete-blob", effect=DropBefore()))
    with pytest.raises(aiohttp.ClientConnectionError):
        await raw.send("DELETE", "/box/b")
    assert (await raw.send("GET", "/box/b")).status == 200


async def test_applied_then_dropped_is_applied(raw: Raw) -> None:
    inject(raw, Rule(operation="acquire-lease", effect=ApplyThenDrop(), times=1))
    lease = {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "15", "x-ms-proposed-lease-id": A}
    with pytest.raises(aiohttp.ClientConnectionError):
        await raw.send("PUT", "/box/b?comp=lease", lease)
    assert (await raw.send("HEAD", "/box/b")).headers["x-ms-lease-state"] == "leased"
    assert (await raw.send("PUT", "/box/b?comp=lease", lease)).status == 201


async def test_applied_late_happens_after_the_connection_is_gone(raw: Raw) -> None:
    inject(raw, Rule(operation="put-blob", effect=ApplyLate(delay_s=0.2), times=1))
    with pytest.raises(aiohttp.ClientConnectionError):
        await raw.send("PUT", "/box/b", {"x-ms-blob-type": "BlockBlob"}, b"late")
    assert (await raw.send("GET", "/box/b")).content == b"content"
    deadline_s = time.monotonic() + 5
    while (await raw.send("GET", "/box/b")).content != b"late":
        assert time.monotonic() < deadline_s, "the late write never came"
        await asyncio.sleep(0.02)


async def test_stop_forgets_late_requests() -> None:
    faults = Faults()
    server = BlobServer(clock=SystemClock(), journal=MemoryJournal(), faults=faults)
    await server.start()
    faults.add(Rule(operation="create-container", effect=ApplyLate(delay_s=3600)))
    async with unrepeating() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await Raw(server, session).send("PUT", "/late?restype=container")
    assert len(server._late) == 1
    await server.stop()
    assert server._late == set()


async def test_content_of_a_late_request_counts_until_it_is_applied(raw: Raw) -> None:
    inject(raw, Rule(operation="put-blob", effect=ApplyLate(delay_s=0.3), times=1))
    with pytest.raises(aiohttp.ClientConnectionError):
        await raw.send("PUT", "/box/b", {"x-ms-blob-type": "BlockBlob"}, b"late")
    assert raw.server._reception.held_bytes == 4
    deadline_s = time.monotonic() + 5
    while raw.server._reception.held_bytes:
        assert time.monotonic() < deadline_s, "the content of the late request is still held"
        await asyncio.sleep(0.02)
    assert (await raw.send("GET", "/box/b")).content == b"late"


@pytest.mark.parametrize(("operation", "method"), [("get-blob", "GET"), ("get-blob-properties", "HEAD")])
async def test_truncated_answer_breaks_off(raw: Raw, operation: str, method: str) -> None:
    inject(raw, Rule(operation=operation, effect=Truncate()))
    with pytest.raises(aiohttp.ClientError):
        await raw.send(method, "/box/b")


async def test_truncated_write_was_applied(raw: Raw) -> None:
    inject(raw, Rule(operation="put-blob", effect=Truncate()))
    with pytest.raises(aiohttp.ClientError):
        await raw.send("PUT", "/box/b", {"x-ms-blob-type": "BlockBlob"}, b"new")
    assert (await raw.send("GET", "/box/b")).content == b"new"


async def test_latency_is_added(raw: Raw) -> None:
    inject(raw, Rule(operation="get-blob", latency_s=0.2))
    started_s = time.monotonic()
    assert (await raw.send("GET", "/box/b")).status == 200
    assert time.monotonic() - started_s >= 0.2


async def test_rule_looks_at_container_and_blob(raw: Raw) -> None:
    inject(raw, Rule(where={"container": "box", "blob": "other"}, effect=Answer(status=500)))
    assert (await raw.send("GET", "/box/b")).status == 200
    assert (await raw.send("GET", "/box/other")).status == 500


async def test_every_request_is_counted_by_its_operation(raw: Raw) -> None:
    counters = raw.server._faults.requests
    counters.clear()
    await raw.send("GET", "/box/b")
    await raw.send("GET", "/box/nothing")
    await raw.bare("HEAD", "/box/b", {})
    await raw.send("PUT", "/box/b?comp=lease", {"x-ms-lease-action": "break"})
    await raw.send("PUT", "/box?restype=container&comp=lease", {"x-ms-lease-action": "break"})
    await raw.send("PUT", "/box/b?comp=undelete")
    assert counters == {
        ("blob", "get-blob"): 2,
        ("blob", "get-blob-properties"): 1,
        ("blob", "break-lease"): 1,
        ("blob", "break-container-lease"): 1,
        ("blob", "unsupported"): 1,
    }
