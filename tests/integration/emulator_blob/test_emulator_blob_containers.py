"""Containers, on the embedded service and on Azurite."""

import uuid

import pytest
from azure.storage.blob.aio import ContainerClient

from tests.support.blob import Backend, refused

pytestmark = pytest.mark.anyio


async def test_container_is_created_once_read_and_deleted(backend: Backend) -> None:
    name = f"c-{uuid.uuid4()}"
    container = await backend.service.create_container(name, metadata={"purpose": "locks"})
    await refused(backend.service.create_container(name), 409, "ContainerAlreadyExists")
    properties = await container.get_container_properties()
    assert properties.metadata == {"purpose": "locks"}
    assert properties.etag
    assert properties.lease.state == "available"
    assert await container.exists()
    await container.delete_container()
    assert not await container.exists()
    await refused(container.delete_container(), 404, "ContainerNotFound")
    await refused(container.get_blob_client("b").upload_blob(b""), 404, "ContainerNotFound")


async def test_container_metadata_is_replaced_and_changes_the_etag(container: ContainerClient) -> None:
    before = await container.get_container_properties()
    await container.set_container_metadata({"a": "1"})
    await container.set_container_metadata({"b": "2"})
    after = await container.get_container_properties()
    assert after.metadata == {"b": "2"}
    assert after.etag != before.etag


async def test_containers_are_listed_by_prefix_in_pages_with_metadata(backend: Backend) -> None:
    prefix = f"p{uuid.uuid4().hex[:8]}-"
    for number in range(5):
        await backend.service.create_container(f"{prefix}{number}", metadata={"n": str(number)})
    pages = backend.service.list_containers(
        name_starts_with=prefix, include_metadata=True, results_per_page=2
    ).by_page()
    found = [[(item.name, item.metadata) async for item in page] async for page in pages]
    assert [len(page) for page in found] == [2, 2, 1]
    assert [item for page in found for item in page] == [
        (f"{prefix}{number}", {"n": str(number)}) for number in range(5)
    ]


@pytest.mark.parametrize(
    ("name", "code"),
    [("UPPER", "InvalidResourceName"), ("a--b", "InvalidResourceName"), ("ab", "OutOfRangeInput")],
)
async def test_bad_container_name_is_400(backend: Backend, name: str, code: str) -> None:
    await refused(backend.service.create_container(name), 400, code)


async def test_deleting_a_container_deletes_its_blobs(container: ContainerClient, backend: Backend) -> None:
    await container.upload_blob("a", b"1")
    await container.delete_container()
    again = await backend.service.create_container(container.container_name)
    assert [item.name async for item in again.list_blobs()] == []
