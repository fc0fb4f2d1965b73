"""One process with the embedded services for all tests of the worker as a process.

These tests inject faults, which no other services can be told to have: they run here whatever `--stack` says. What can
be seen from outside is tested on each stack, in `tests/integration/stack`.
"""

from collections.abc import AsyncIterator

import pytest

from tests.support.site import Mail, Place, Site, running_site


@pytest.fixture(scope="session")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with running_site(tmp_path_factory.mktemp("site")) as it:
        yield it


@pytest.fixture
async def place(site: Site) -> AsyncIterator[Place]:
    """Queues and containers of one test alone; the faults that it installed end with it."""
    yield site.place()
    await site.control.clear_rules()


@pytest.fixture(scope="module")
async def shared(site: Site) -> Place:
    """Queues and containers for all tests of a file."""
    return site.place()


@pytest.fixture(scope="module")
async def mail(shared: Place) -> AsyncIterator[Mail]:
    """One client for all tests of a file: opening one takes a second."""
    async with shared.client() as it:
        yield it
