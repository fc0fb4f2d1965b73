"""Whole blobs and ranges, on the embedded service and on Azurite."""

import base64
import hashlib
import os

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import BlobClient, ContainerClient

from tests.support.blob import MIB, Backend, refused

pytestmark = pytest.mark.anyio


async def test_blob_comes_back_with_its_properties(container: ContainerClient) -> None:
    client = container.get_blob_client("folder/a b ü+?#%&=.txt")
    settings = ContentSettings(
        content_type="text/plain",
        content_encoding="identity",
        content_language="en",
        content_disposition="inline",
        cache_control="no-cache",
    )
    await client.upload_blob(b"hello", metadata={"Under_Score": "1", "plain": "two"}, content_settings=settings)
    download = await client.download_blob()
    assert await download.readall() == b"hello"
    properties = await client.get_blob_properties()
    assert properties.size == 5
    assert properties.blob_type == "BlockBlob"
    assert {name.lower(): value for name, value in properties.metadata.items()} == {
        "under_score": "1",
        "plain": "two",
    }
    stored = properties.content_settings
    assert (stored.content_type, stored.content_encoding) == ("text/plain", "identity")
    assert (stored.content_language, stored.content_disposition) == ("en", "inline")
    assert stored.cache_control == "no-cache"
    assert bytes(stored.content_md5) == hashlib.md5(b"hello").digest()
    assert properties.last_modified == properties.creation_time
    assert [item.name async for item in container.list_blobs()] == ["folder/a b ü+?#%&=.txt"]


async def test_empty_blob_can_be_written_and_read(container: ContainerClient) -> None:
    client = await container.upload_blob("empty", b"")
    assert await (await client.download_blob()).readall() == b""
    assert (await client.get_blob_properties()).size == 0


@pytest.mark.parametrize("size_bytes", [MIB, MIB + 1, 5 * MIB + 17])
async def test_content_past_the_single_put_size_travels_in_blocks(container: ContainerClient, size_bytes: int) -> None:
    content = os.urandom(size_bytes)
    client = await container.upload_blob("big", content, overwrite=True, metadata={"m": "1"})
    assert await (await client.download_blob(max_concurrency=4)).readall() == content
    assert (await client.get_blob_properties()).metadata == {"m": "1"}


async def test_overwriting_replaces_content_metadata_and_etag(blob: BlobClient) -> None:
    before = await blob.get_blob_properties()
    await blob.upload_blob(b"other", overwrite=True, metadata={"x": "y"})
    after = await blob.get_blob_properties()
    assert after.etag != before.etag
    assert after.metadata == {"x": "y"}
    assert await (await blob.download_blob()).readall() == b"other"


async def test_creating_what_exists_is_409(blob: BlobClient) -> None:
    await refused(blob.upload_blob(b"again"), 409, "BlobAlreadyExists")


async def test_missing_blob_is_404(container: ContainerClient) -> None:
    client = container.get_blob_client("nothing")
    assert not await client.exists()
    await refused(client.download_blob(), 404, "BlobNotFound")
    await refused(client.get_blob_properties(), 404, "BlobNotFound")
    await refused(client.delete_blob(), 404, "BlobNotFound")
    await refused(client.set_blob_metadata({"a": "b"}), 404, "BlobNotFound")


async def test_deleted_blob_is_gone(blob: BlobClient) -> None:
    await blob.delete_blob()
    assert not await blob.exists()


async def test_metadata_is_replaced_and_content_stays(blob: BlobClient) -> None:
    before = await blob.get_blob_properties()
    await blob.set_blob_metadata({"a": "1", "b": "2"})
    await blob.set_blob_metadata({"c": "3"})
    after = await blob.get_blob_properties()
    assert after.metadata == {"c": "3"}
    assert after.etag != before.etag
    assert await (await blob.download_blob()).readall() == b"content"


async def test_setting_http_headers_changes_the_etag_and_not_the_content(blob: BlobClient) -> None:
    before = await blob.get_blob_properties()
    await blob.set_http_headers(ContentSettings(content_type="application/json"))
    after = await blob.get_blob_properties()
    assert after.content_settings.content_type == "application/json"
    assert after.etag != before.etag
    assert await (await blob.download_blob()).readall() == b"content"


async def test_wrong_content_md5_is_400_and_nothing_is_stored(container: ContainerClient, backend: Backend) -> None:
    client = container.get_blob_client("checked")
    wrong = base64.b64encode(hashlib.md5(b"something else").digest()).decode()
    with pytest.raises(HttpResponseError) as raised:
        await client.upload_blob(b"content", headers={"Content-MD5": wrong})
    assert raised.value.status_code == 400
    assert raised.value.error_code == ("Md5Mismatch" if backend.embedded else "InvalidOperation")
    assert not await client.exists()


async def test_right_content_md5_is_accepted_on_upload_and_download(container: ContainerClient) -> None:
    client = container.get_blob_client("checked")
    await client.upload_blob(b"content", validate_content=True)
    assert await (await client.download_blob(validate_content=True)).readall() == b"content"


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 3, b"con"), (3, 2, b"te"), (5, 100, b"nt"), (6, 1, b"t"), (2, None, b"ntent")],
)
async def test_range_of_a_blob(blob: BlobClient, offset: int, length: int | None, expected: bytes) -> None:
    download = await blob.download_blob(offset=offset, length=length)
    assert await download.readall() == expected


async def test_range_across_blocks(container: ContainerClient) -> None:
    content = os.urandom(3 * MIB + 5)
    client = await container.upload_blob("blocks", content)
    download = await client.download_blob(offset=MIB - 2, length=MIB + 4)
    assert await download.readall() == content[MIB - 2 : 2 * MIB + 2]


async def test_range_past_the_end_is_416(blob: BlobClient) -> None:
    await refused(blob.download_blob(offset=8, length=1), 416, "InvalidRange")
