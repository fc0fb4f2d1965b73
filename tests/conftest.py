"""What all tests share."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The Azure SDKs run on asyncio only, so the product does too."""
    return "asyncio"
