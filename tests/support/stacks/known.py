"""What a stack cannot do or gets wrong, in one place: a test that needs it is skipped there with this reason.

A test says what it needs with `@pytest.mark.needs("...")`; docs/testing.md has the same table.
"""

from collections.abc import Mapping
from typing import Final

from tests.support.stacks.choose import StackName

NEEDS: Final[Mapping[str, Mapping[StackName, str]]] = {
    "faults": {
        "docker": "the official emulators can be told neither to be slow nor to drop a connection",
        "azure": "the services cannot be told to be slow or to drop a connection",
    },
    "connections": {
        "docker": "the Service Bus emulator takes ten connections in all, and each session and sender holds one",
    },
}
"""What a test may need, and why a stack does not have it. A stack that is not named has it."""

REMARKS: Final[Mapping[StackName, tuple[str, ...]]] = {
    "embedded": (
        "Latency is that of this machine: only tests that inject it see two things happen at once.",
        "RU charges follow the published figures; they are not measured.",
    ),
    "docker": (
        "Cosmos DB is the legacy image: `vnext` images ignore If-Match inside a batch and commit parts of one.",
        "Cosmos DB takes port 8081 of this machine: the client trusts the emulator's certificate on localhost only.",
        "Service Bus has the entities of the Config.json that is copied into it; none is made through its management.",
        "Service Bus detects duplicates for up to five minutes and keeps messages for up to an hour.",
        "Azurite's leases behave; `--skipApiVersionCheck` lets it take a client that is newer than it.",
    ),
    "azure": (
        "Queues, a topic, a database and blob containers are made for each run, and deleted at its end.",
        "The Service Bus connection string needs the right to manage, the Cosmos DB key to make databases.",
    ),
}
"""What to know of a stack, where no test has to be left out for it."""


def reason_to_skip(need: str, stack: StackName) -> str | None:
    """Why a stack cannot run a test with this need; None where it can. An unknown need is an error in the test."""
    return NEEDS[need].get(stack)
