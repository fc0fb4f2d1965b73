"""The stack as a fixture, and what a test here needs that some stack does not have."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.places import Connections
from tests.support.stacks.azure import azure_stack
from tests.support.stacks.choose import Choice, StackError
from tests.support.stacks.known import NEEDS, reason_to_skip
from tests.support.stacks.option import STACK
from tests.support.stacks.stack import Stack, StackPlace, docker_stack, embedded_stack

STARTING_S = 1_800
"""For a test that starts containers first, and pulls their images."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"needs(name): skipped on stacks without it; one of {', '.join(NEEDS)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Elsewhere than here tests may take their time.

    The client of a Docker engine leaves sockets to the garbage collector, which is not ours to mend.
    """
    name = config.stash[STACK].name
    for item in items:
        if "stack" not in getattr(item, "fixturenames", ()) or name == "embedded":
            continue
        item.add_marker(pytest.mark.timeout(STARTING_S))
        if name == "docker":
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(autouse=True)
def _has_what_it_needs(request: pytest.FixtureRequest, chosen_stack: Choice) -> None:
    for marker in request.node.iter_markers("needs"):
        (need,) = marker.args
        if reason := reason_to_skip(need, chosen_stack.name):
            pytest.skip(f"{chosen_stack.name}: {reason}")


@pytest.fixture(scope="session")
def containers(chosen_stack: Choice) -> Iterator[Connections | None]:
    """The official emulators, where they are the stack. A container that cannot be started fails every test."""
    if chosen_stack.name != "docker":
        yield None
        return
    from tests.support.stacks.containers import running_containers  # noqa: PLC0415 - other stacks need no Docker

    problem = ""
    try:
        with running_containers() as connections:
            yield connections
    except StackError as error:
        problem = str(error)
    if problem:  # told without all that led to it
        pytest.fail(problem, pytrace=False)


@pytest.fixture(scope="session")
async def stack(
    chosen_stack: Choice, containers: Connections | None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    match chosen_stack.name:
        case "embedded":
            running = embedded_stack(folder)
        case "docker":
            assert containers is not None
            running = docker_stack(folder, containers)
        case "azure":
            running = azure_stack(folder)
    async with running as it:
        yield it


@pytest.fixture
async def place(stack: Stack) -> StackPlace:
    """Entities of one test alone."""
    return await stack.place()
