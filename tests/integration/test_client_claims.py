"""What the client puts into Blob Storage for commands that no message holds, over a real socket."""

import hashlib
import math
import re
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import pytest
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob.aio import BlobServiceClient, ContainerClient

from brook_client import ClaimUploadError, ClaimUploads
from brook_client.packing import Packing
from schemas.claims import Encoding, claim_problems
from schemas.codec import JSON, decode_command, encode_command
from schemas.commands import AppendCommand, ClaimedCommand, NewEvent
from schemas.digests import payload_digest
from schemas.guards import Guards, check_command
from tests.support.brooks import TIME, command, event
from tests.support.leases import BlobBackend, embedded, settings
from worker.claims.blob import BlobClaimStore
from worker.claims.resolve import Claims
from worker.clients import blob_service_client
from worker.protocol.prepare import PreparedCommand, prepare

pytestmark = pytest.mark.anyio

CONTAINER = "brook-claims"


@pytest.fixture(scope="module")
async def backend() -> AsyncIterator[BlobBackend]:
    async with embedded() as it:
        yield it


@pytest.fixture
async def container(backend: BlobBackend) -> AsyncIterator[ContainerClient]:
    through_proxy = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{backend._proxy.port}", backend.connection_string)
    async with BlobServiceClient.from_connection_string(through_proxy, retry_total=0) as service:
        it = service.get_container_client(CONTAINER)
        if not await it.exists():
            await it.create_container()
        yield it


@pytest.mark.parametrize("encoding", list(Encoding))
async def test_what_is_uploaded_is_read_by_the_worker_as_the_same_command(
    backend: BlobBackend, container: ContainerClient, encoding: Encoding
) -> None:
    one = command(events=300, expected=7)
    sent = await ClaimUploads(container, encoding=encoding).upload(one)
    assert check_command(sent, Guards()) is None
    assert sent.claim.payload_digest == payload_digest(one)
    async with (
        blob_service_client(settings(backend.connection_string)) as client,
        Claims(BlobClaimStore(client, CONTAINER), Guards()).resolved(sent, TIME) as found,
    ):
        assert isinstance(found.command, PreparedCommand)
        assert found.command.identity == prepare(one, TIME).identity
        assert [found.command.events[index] for index in range(300)] == list(one.events)


async def test_metadata_that_only_json_writes_as_json_is_the_same_by_claim_as_inline(
    backend: BlobBackend, container: ContainerClient
) -> None:
    """Dates, bytes and keys that are numbers: texts in the blob, but not in the canonical form of the digest."""
    metadata: dict[str, Any] = {
        "at": datetime(2026, 1, 31, tzinfo=UTC),
        "raw": b"x",
        "pair": (1, 2),
        "by": {7: "seven"},
    }
    one = command(events=(msgspec.structs.replace(event(), metadata=metadata), event()))
    sent = await ClaimUploads(container).upload(one)
    inline = decode_command(encode_command(one))
    async with (
        blob_service_client(settings(backend.connection_string)) as client,
        Claims(BlobClaimStore(client, CONTAINER), Guards()).resolved(sent, TIME) as found,
    ):
        assert isinstance(found.command, PreparedCommand), found.command
        assert found.command.identity == prepare(inline, TIME).identity


async def test_a_number_that_json_cannot_hold_is_refused_before_anything_is_there(container: ContainerClient) -> None:
    before = [name async for name in container.list_blob_names()]
    bad = msgspec.structs.replace(event(), metadata={"a": math.nan})
    with pytest.raises(ValueError, match=r"events\[1\].metadata: .* finite"):
        await ClaimUploads(container).upload(command(events=(event(), bad)))
    assert [name async for name in container.list_blob_names()] == before


async def test_data_that_is_not_bytes_is_refused_before_anything_is_there(container: ContainerClient) -> None:
    before = [name async for name in container.list_blob_names()]
    text: Any = "text"
    with pytest.raises(TypeError, match=r"events\[1\].data: is of the type str; give bytes"):
        await ClaimUploads(container).upload(command(events=(event(), msgspec.structs.replace(event(), data=text))))
    assert [name async for name in container.list_blob_names()] == before


async def test_each_command_has_a_blob_of_its_own_which_tells_whose_it_is(container: ContainerClient) -> None:
    uploads = ClaimUploads(container, expires_after_s=60)
    one = command(command_id="ä/1", events=2)
    first, second = await uploads.upload(one), await uploads.upload(one)
    assert first.claim.blob != second.claim.blob
    assert first.claim.sha256 == second.claim.sha256
    assert list(claim_problems(first.claim)) == []
    assert first.claim.expires_at is not None
    properties = await container.get_blob_client(first.claim.blob).get_blob_properties()
    assert properties.metadata == {"commandid": "%C3%A4/1"}


def megabytes(count: int) -> Iterator[NewEvent]:
    for number in range(count):
        yield event(f"e{number}", data=b"x" * 1_000_000)


async def test_many_events_are_uploaded_in_blocks(container: ContainerClient) -> None:
    claim = await ClaimUploads(container, encoding=Encoding.MSGPACK_FRAMES).upload_events(megabytes(10))
    assert (claim.event_count, claim.payload_digest) == (10, None)
    content = await (await container.download_blob(claim.blob)).readall()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (claim.size_bytes, claim.sha256)
    committed, _ = await container.get_blob_client(claim.blob).get_block_list()
    assert len(committed) > 1


async def test_events_are_encoded_as_they_are_taken_and_not_held() -> None:
    class Away:
        """Takes all and keeps nothing."""

        container_name = CONTAINER

        async def upload_blob(self, name: str, content: AsyncIterator[bytes], **_: object) -> None:
            async for _piece in content:
                pass

    tracemalloc.start()
    claim = await ClaimUploads(Away()).upload_events(megabytes(10))  # type: ignore[arg-type]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert claim.size_bytes > 13_000_000
    assert peak_bytes < 8_000_000


async def test_an_upload_that_fails_says_that_nothing_was_sent(
    backend: BlobBackend, container: ContainerClient
) -> None:
    async with backend.unavailable():
        with pytest.raises(ClaimUploadError, match=r"not uploaded to 'brook-claims' and nothing was sent; try again"):
            await ClaimUploads(container).upload(command(events=2))


async def test_a_blob_that_is_there_by_a_lost_answer_is_ours(container: ContainerClient) -> None:
    class Twice:
        """As the library does it: asks again, and is told that it is there."""

        container_name = CONTAINER

        async def upload_blob(self, name: str, content: AsyncIterator[bytes], **options: object) -> None:
            await container.upload_blob(name, content, **options)  # type: ignore[arg-type]
            raise ResourceExistsError("BlobAlreadyExists")

    sent = await ClaimUploads(Twice()).upload(command(events=2))  # type: ignore[arg-type]
    assert await container.get_blob_client(sent.claim.blob).exists()


@pytest.mark.parametrize(
    ("one", "by_claim"),
    [
        (command(), False),
        (command(events=(event(data=b"x" * 4_000),)), True),
        (command(events=(event(event_type="t" * 4_000),)), True),
        (command(events=(event(data=b"x" * 2_600),)), True),  # by base64 alone
        (command(events=(event(data=b"x" * 2_000),)), False),
    ],
)
async def test_only_what_is_over_the_threshold_as_a_message_goes_by_claim(
    container: ContainerClient, one: AppendCommand, by_claim: bool
) -> None:
    without = partial(Packing, content_type=JSON, reply_to=None, reply_session_id=None, session_buckets=None)
    packing = without(claims=ClaimUploads(container, threshold_bytes=3_000))
    assert (packing.message_if_small(one) is None) is by_claim
    assert without(claims=None).message_if_small(one) is not None
    uploaded = await ClaimUploads(container).upload(one)
    assert isinstance(uploaded, ClaimedCommand)
    assert packing.message_if_small(uploaded) is not None
