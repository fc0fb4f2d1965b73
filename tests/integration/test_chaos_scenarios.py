"""A short round of some scenarios of `python -m tests.chaos --scenario`, on services that they share."""

import gc
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from tests.chaos.play import play
from tests.chaos.scenarios import LOCK_S, SCENARIOS
from tests.support.site import Site, running_site

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(240),
    # azure-servicebus 7.15 leaves the socket of a connection that was cut to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SHORT = {"routes": 1, "clients": 1, "cuts": 1, "zombies": 2}
"""With how many workers: a round of each. The others take longer, or are much like what the worker's own tests do."""


@pytest.fixture(autouse=True)
def _leftovers_collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("chaos")
    async with running_site(folder, seed=3, lock_s=LOCK_S, data_dir=folder / "data") as it:
        yield it


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
async def test_nothing_is_lost_doubled_or_blocked(site: Site, name: str) -> None:
    scenario = SCENARIOS[name]
    small = replace(scenario.setup, brooks=4, workers=SHORT[name])
    record = await play(replace(scenario, setup=small), 1, 3, site)
    assert record.findings == []
    assert record.commands > 20


def test_every_scenario_says_what_it_is() -> None:
    assert all(scenario.about and "\n" not in scenario.about for scenario in SCENARIOS.values())
