"""What the tests of Blob Storage share."""

import base64
from collections.abc import Awaitable
from typing import Any, NamedTuple

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob.aio import BlobServiceClient

from emulator.blob import BlobServer

MIB = 1024**2


class Backend(NamedTuple):
    """Where a test runs. `server` is None on Azurite."""

    name: str
    service: BlobServiceClient
    server: BlobServer | None

    @property
    def embedded(self) -> bool:
        """Whether documented behaviour that Azurite lacks can be asked for."""
        return self.server is not None


async def refused(attempt: Awaitable[Any], status: int, code: str) -> HttpResponseError:
    """Await `attempt` and show that it is refused with this status and this error code."""
    with pytest.raises(HttpResponseError) as raised:
        await attempt
    assert (raised.value.status_code, getattr(raised.value, "error_code", None)) == (status, code)
    return raised.value


def block_id(number: int) -> str:
    """A block id of constant length."""
    return base64.b64encode(f"{number:04}".encode()).decode()
