"""Staged and committed blocks, on the embedded service and on Azurite."""

import base64

import pytest
from azure.storage.blob import BlobBlock
from azure.storage.blob.aio import BlobClient, ContainerClient

from tests.support.blob import Backend, block_id, refused

pytestmark = pytest.mark.anyio


async def test_block_list_decides_order_and_drops_the_rest(container: ContainerClient) -> None:
    client = container.get_blob_client("blocks")
    for number in range(4):
        await client.stage_block(block_id(number), f"<{number}>".encode())
    assert not await client.exists()
    committed, staged = await client.get_block_list("all")
    assert committed == []
    assert {(item.id, item.size) for item in staged} == {(block_id(number), 3) for number in range(4)}
    await client.commit_block_list([BlobBlock(block_id(2)), BlobBlock(block_id(0)), BlobBlock(block_id(2))])
    assert await (await client.download_blob()).readall() == b"<2><0><2>"
    committed, staged = await client.get_block_list("all")
    assert [item.id for item in committed] == [block_id(2), block_id(0), block_id(2)]
    assert staged == []


async def test_committed_blocks_can_be_kept_beside_new_ones(container: ContainerClient) -> None:
    client = container.get_blob_client("blocks")
    await client.stage_block(block_id(0), b"old0")
    await client.stage_block(block_id(1), b"old1")
    await client.commit_block_list([block_id(0), block_id(1)])
    await client.stage_block(block_id(1), b"new1")
    assert await (await client.download_blob()).readall() == b"old0old1"
    await client.commit_block_list([block_id(1), block_id(0)])
    assert await (await client.download_blob()).readall() == b"new1old0"


async def test_unknown_block_in_a_list_is_400_and_changes_nothing(container: ContainerClient) -> None:
    client = container.get_blob_client("blocks")
    await client.stage_block(block_id(0), b"a")
    await refused(client.commit_block_list([block_id(0), block_id(9)]), 400, "InvalidBlockList")
    assert not await client.exists()
    assert len((await client.get_block_list("uncommitted"))[1]) == 1


async def test_block_ids_of_different_length_are_refused(container: ContainerClient) -> None:
    client = container.get_blob_client("blocks")
    await client.stage_block(base64.b64encode(b"0001").decode(), b"a")
    await refused(client.stage_block(base64.b64encode(b"00000001").decode(), b"a"), 400, "InvalidBlobOrBlock")


async def test_putting_a_blob_drops_its_staged_blocks(blob: BlobClient, backend: Backend) -> None:
    if not backend.embedded:
        pytest.skip("Azurite keeps them; the documentation of Put Block List says that Put Blob discards them")
    await blob.stage_block(block_id(0), b"a")
    await blob.upload_blob(b"whole", overwrite=True)
    assert await blob.get_block_list("all") == ([], [])
