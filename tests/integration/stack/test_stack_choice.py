"""Which stacks can be used here: the skips say what each of the others lacks."""

import pytest

from tests.support.stacks.choose import STACKS, Choice, StackName, why_not
from tests.support.stacks.stack import Stack

pytestmark = pytest.mark.anyio


@pytest.fixture(params=STACKS)
def chosen_name(request: pytest.FixtureRequest, chosen_stack: Choice) -> StackName:
    name: StackName = request.param
    if name != chosen_stack.name:
        pytest.skip(why_not(name) or f"--stack {name} was not chosen: {chosen_stack.why}")
    return name


async def test_the_services_of_the_stack_answer(chosen_name: StackName, stack: Stack) -> None:
    assert stack.name == chosen_name
    place = await stack.place()
    assert await place.nothing_left()
    containers = {container.name async for container in stack.services.blobs.list_containers()}
    databases = {database["id"] async for database in stack.services.cosmos.list_databases()}
    assert "nobody-made-this" not in containers | databases
