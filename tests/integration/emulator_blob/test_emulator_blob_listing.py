"""Listings, on the embedded service and on Azurite."""

import pytest
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import ContainerClient

from tests.support.blob import Backend, block_id

pytestmark = pytest.mark.anyio


async def test_blobs_are_listed_by_prefix_in_order_in_pages(container: ContainerClient) -> None:
    names = [f"a/{number}" for number in range(7)] + ["b", "c/1"]
    for name in reversed(names):
        await container.upload_blob(name, b"", metadata={"name": name})
    pages = container.list_blobs(name_starts_with="a/", include=["metadata"], results_per_page=3).by_page()
    found = [[item async for item in page] async for page in pages]
    assert [len(page) for page in found] == [3, 3, 1]
    assert [(item.name, item.metadata) for page in found for item in page] == [
        (name, {"name": name}) for name in names[:7]
    ]
    assert [item.name async for item in container.list_blobs()] == names


async def test_paging_goes_on_from_a_token(container: ContainerClient) -> None:
    for number in range(5):
        await container.upload_blob(str(number), b"")
    first = container.list_blobs(results_per_page=2).by_page()
    assert [item.name async for item in await anext(first)] == ["0", "1"]
    rest = container.list_blobs(results_per_page=2).by_page(first.continuation_token)
    assert [[item.name async for item in page] async for page in rest] == [["2", "3"], ["4"]]


async def test_delimiter_folds_names_into_prefixes(container: ContainerClient) -> None:
    for name in ["a/1", "a/2", "b", "c/d/1", "c/e", "z"]:
        await container.upload_blob(name, b"")
    assert {item.name async for item in container.walk_blobs()} == {"a/", "b", "c/", "z"}
    assert [item.name async for item in container.walk_blobs(name_starts_with="c/")] == ["c/d/", "c/e"]


async def test_delimiter_and_pages_together_miss_and_repeat_nothing(
    container: ContainerClient, backend: Backend
) -> None:
    for name in ["a/1", "a/2", "b", "c/1", "c/2", "d"]:
        await container.upload_blob(name, b"")
    pages = container.walk_blobs(results_per_page=2).by_page()
    found = [[item.name async for item in page] async for page in pages]
    assert sorted(name for page in found for name in page) == ["a/", "b", "c/", "d"]
    if backend.embedded:
        assert [len(page) for page in found] == [2, 2]


async def test_staged_blobs_are_listed_only_when_asked_for(container: ContainerClient) -> None:
    await container.upload_blob("committed", b"")
    await container.get_blob_client("staged").stage_block(block_id(0), b"a")
    assert [item.name async for item in container.list_blobs()] == ["committed"]
    with_staged = container.list_blobs(include=["uncommittedblobs"])
    assert [item.name async for item in with_staged] == ["committed", "staged"]


async def test_listing_shows_the_properties(container: ContainerClient) -> None:
    await container.upload_blob("b", b"12345", content_settings=ContentSettings(content_type="text/x"))
    [item] = [item async for item in container.list_blobs()]
    direct = await container.get_blob_client("b").get_blob_properties()
    assert item.size == 5
    assert item.etag.strip('"') == direct.etag.strip('"')
    assert item.content_settings.content_type == "text/x"
    assert item.last_modified == direct.last_modified
    assert item.lease.state == "available"


async def test_names_that_xml_cannot_hold_come_back_as_they_are(container: ContainerClient, backend: Backend) -> None:
    if not backend.embedded:
        pytest.skip("Azurite answers 500 to such a name")
    names = ["a\x01b", "c\ufffed", "e<&>\"'f", "g\r\nh"]
    for name in names:
        await container.upload_blob(name, b"")
    assert [item.name async for item in container.list_blobs()] == names
    assert [item.name async for item in container.walk_blobs(name_starts_with="e<&>")] == names[2:3]
