"""Preconditions on ETag and time, on the embedded service and on Azurite."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.storage.blob.aio import BlobClient, ContainerClient

from tests.support.blob import refused

pytestmark = pytest.mark.anyio


async def test_stale_if_match_is_412_for_every_write(blob: BlobClient) -> None:
    stale = (await blob.get_blob_properties()).etag
    await blob.set_blob_metadata({"moved": "on"})
    guard: dict[str, Any] = {"etag": stale, "match_condition": MatchConditions.IfNotModified}
    await refused(blob.upload_blob(b"x", overwrite=True, **guard), 412, "ConditionNotMet")
    await refused(blob.set_blob_metadata({}, **guard), 412, "ConditionNotMet")
    await refused(blob.delete_blob(**guard), 412, "ConditionNotMet")
    await refused(blob.acquire_lease(15, **guard), 412, "ConditionNotMet")
    await refused(blob.download_blob(**guard), 412, "ConditionNotMet")
    assert await (await blob.download_blob()).readall() == b"content"


async def test_current_if_match_lets_a_write_through(blob: BlobClient) -> None:
    etag = (await blob.get_blob_properties()).etag
    await blob.upload_blob(b"x", overwrite=True, etag=etag, match_condition=MatchConditions.IfNotModified)
    assert await (await blob.download_blob()).readall() == b"x"


async def test_if_none_match_answers_304_to_a_read_of_what_is_known(blob: BlobClient) -> None:
    etag = (await blob.get_blob_properties()).etag
    known: dict[str, Any] = {"etag": etag, "match_condition": MatchConditions.IfModified}
    with pytest.raises(HttpResponseError) as raised:
        await blob.download_blob(**known)
    assert raised.value.status_code == 304
    await refused(blob.set_blob_metadata({}, **known), 412, "ConditionNotMet")
    await blob.set_blob_metadata({"moved": "on"})
    await blob.download_blob(**known)


async def test_conditions_on_time(blob: BlobClient) -> None:
    modified = (await blob.get_blob_properties()).last_modified
    before, after = modified - timedelta(hours=1), modified + timedelta(hours=1)
    await blob.download_blob(if_modified_since=before)
    await blob.download_blob(if_unmodified_since=modified)
    with pytest.raises(HttpResponseError) as raised:
        await blob.download_blob(if_modified_since=after)
    assert raised.value.status_code == 304
    await refused(blob.download_blob(if_unmodified_since=before), 412, "ConditionNotMet")
    await refused(blob.delete_blob(if_unmodified_since=before), 412, "ConditionNotMet")
    await refused(blob.delete_blob(if_modified_since=datetime.now(UTC) + timedelta(hours=1)), 412, "ConditionNotMet")
    await blob.delete_blob(if_modified_since=before)


async def test_if_match_on_nothing_is_412(container: ContainerClient) -> None:
    guard: dict[str, Any] = {"etag": '"0x8D0000000000000"', "match_condition": MatchConditions.IfNotModified}
    client = container.get_blob_client("nothing")
    await refused(client.upload_blob(b"", overwrite=True, **guard), 412, "ConditionNotMet")
    await refused(client.delete_blob(**guard), 412, "ConditionNotMet")
