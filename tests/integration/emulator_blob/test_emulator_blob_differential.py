"""The embedded service and Azurite side by side: the same random requests get the same answers.

Neither knows what the other said. Left out is where Azurite is known to be laxer than the documentation: which of two
refusals comes first, lease ids in another spelling, a lease named for a blob that does not exist, and blobs with staged
blocks only, which Azurite lets one lease.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import BlobClient, BlobLeaseClient, BlobServiceClient, ContainerClient

from emulator.blob import BlobServer
from emulator.clock import SystemClock
from emulator.faults import Faults
from emulator.journal import MemoryJournal
from tests.support.blob import block_id

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SEQUENCES = 60
STEPS = 40
IDS = ["11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"]
# Azurite says of every lease that is over what the documentation says of none at all.
SAME_CODE = {"LeaseLost": "LeaseNotPresentWithBlobOperation"}


class Step(NamedTuple):
    """One request, drawn once and sent to both."""

    name: str
    blob: str
    values: dict[str, Any]


def draw(chance: random.Random) -> Step:
    lease_id, other_id = chance.choice(IDS), chance.choice(IDS)
    guard = chance.choice([{}, {}, {"lease": lease_id}])
    condition = chance.choice(["none", "none", "current", "stale", "changed"])
    name = chance.choice(["put", "metadata", "headers", "read", "range", "delete", "block", "commit", "properties"])
    values: dict[str, Any] = {"guard": guard, "condition": condition if not guard else "none"}
    if chance.random() < 0.55:
        name = chance.choice(["acquire", "acquire", "renew", "change", "release", "break"])
        values = {
            "lease_id": lease_id,
            "other_id": other_id,
            "duration_s": chance.choice([15, 60, -1]),
            "period_s": chance.choice([None, 0, 30, 60]),
        }
    values["content"] = chance.randbytes(chance.randrange(1, 20))
    values["first"], values["length"] = chance.randrange(12), chance.randrange(1, 12)
    return Step(name, f"blob{chance.randrange(2)}", values)


def agree(step: Step, ours: object, theirs: object) -> bool:
    """Whether two answers are alike. Under a condition on a leased blob either of the two 412 may come first."""
    refusals = {(412, "ConditionNotMet"), (412, "LeaseIdMissing")}
    return ours == theirs or (step.values.get("condition", "none") != "none" and {ours, theirs} == refusals)


class Side:
    """One of the two services, in a container of its own, with the ETags that it gave out."""

    def __init__(self, container: ContainerClient) -> None:
        self.container = container
        self.etags: dict[str, list[str]] = {}

    async def send(self, step: Step) -> object:
        """What comes back: a value that both must give alike, or the refusal."""
        blob = self.container.get_blob_client(step.blob)
        try:
            answer = await ACTIONS[step.name](self, blob, step.values)
        except HttpResponseError as error:
            code = getattr(error.error_code, "value", error.error_code)
            return error.status_code, SAME_CODE.get(str(code), code)
        return "ok", answer

    def conditions(self, blob: BlobClient, values: dict[str, Any]) -> dict[str, Any]:
        """The lease, or a condition on an ETag that was current or is stale."""
        known = self.etags.get(blob.blob_name, [])
        match values["condition"]:
            case "current" if known:
                return {"etag": known[-1], "match_condition": MatchConditions.IfNotModified}
            case "stale" if len(known) > 1:
                return {"etag": known[-2], "match_condition": MatchConditions.IfNotModified}
            case "changed" if known:
                return {"etag": known[-1], "match_condition": MatchConditions.IfModified}
        return self.guard(blob, values)

    def guard(self, blob: BlobClient, values: dict[str, Any]) -> dict[str, Any]:
        """The lease to name, where there is a blob."""
        return dict(values["guard"]) if blob.blob_name in self.etags else {}

    def learn(self, blob: BlobClient, answer: Any) -> None:
        self.etags.setdefault(blob.blob_name, []).append(answer["etag"])

    async def state(self) -> list[tuple[object, ...]]:
        """Everything that can be seen of the container."""
        found: list[tuple[object, ...]] = []
        async for item in self.container.list_blobs(include=["metadata", "uncommittedblobs"]):
            blob = self.container.get_blob_client(item.name)
            content = await (await blob.download_blob()).readall() if item.last_modified and item.size else b""
            lease = (item.lease.state, item.lease.status, item.lease.duration)
            found.append((item.name, content, item.metadata or {}, lease, item.content_settings.content_type))
        return found


async def put(side: Side, blob: BlobClient, values: dict[str, Any]) -> None:
    metadata = {"size": str(len(values["content"]))}
    arguments = {"overwrite": True, "metadata": metadata, **side.conditions(blob, values)}
    side.learn(blob, await blob.upload_blob(values["content"], **arguments))


async def set_metadata(side: Side, blob: BlobClient, values: dict[str, Any]) -> None:
    metadata = {"a": values["content"].hex()}
    side.learn(blob, await blob.set_blob_metadata(metadata, **side.conditions(blob, values)))


async def set_headers(side: Side, blob: BlobClient, values: dict[str, Any]) -> None:
    settings = ContentSettings(content_type="text/" + values["content"].hex())
    side.learn(blob, await blob.set_http_headers(settings, **side.conditions(blob, values)))


async def read(side: Side, blob: BlobClient, values: dict[str, Any]) -> bytes:
    return await (await blob.download_blob(**side.conditions(blob, values))).readall()


async def read_range(side: Side, blob: BlobClient, values: dict[str, Any]) -> bytes:
    size = (await blob.get_blob_properties()).size
    first = min(values["first"], max(size - 1, 0))  # at the very end Azurite answers 206 with nothing
    download = await blob.download_blob(offset=first, length=values["length"], **side.guard(blob, values))
    return await download.readall()


async def properties(side: Side, blob: BlobClient, values: dict[str, Any]) -> tuple[object, ...]:
    found = await blob.get_blob_properties(**side.conditions(blob, values))
    return found.size, found.metadata, found.lease.state, found.lease.status, found.lease.duration


async def delete(side: Side, blob: BlobClient, values: dict[str, Any]) -> None:
    await blob.delete_blob(**side.conditions(blob, values))
    side.etags.pop(blob.blob_name, None)


async def stage(side: Side, blob: BlobClient, values: dict[str, Any]) -> None:
    if blob.blob_name in side.etags:
        await blob.stage_block(block_id(values["first"] % 3), values["content"], **side.guard(blob, values))


async def commit(side: Side, blob: BlobClient, values: dict[str, Any]) -> None:
    await blob.stage_block(block_id(values["first"] % 3), values["content"], **side.guard(blob, values))
    chosen = [block_id(values["first"] % 3)] * 2
    side.learn(blob, await blob.commit_block_list(chosen, **side.conditions(blob, values)))


async def acquire(side: Side, blob: BlobClient, values: dict[str, Any]) -> str:
    return (await blob.acquire_lease(values["duration_s"], lease_id=values["lease_id"])).id


async def renew(side: Side, blob: BlobClient, values: dict[str, Any]) -> None:
    await BlobLeaseClient(blob, values["lease_id"]).renew()


async def change(side: Side, blob: BlobClient, values: dict[str, Any]) -> str:
    lease = BlobLeaseClient(blob, values["lease_id"])
    await lease.change(values["other_id"])
    return lease.id


async def release(side: Side, blob: BlobClient, values: dict[str, Any]) -> None:
    await BlobLeaseClient(blob, values["lease_id"]).release()


async def break_lease(side: Side, blob: BlobClient, values: dict[str, Any]) -> bool:
    return await BlobLeaseClient(blob, values["lease_id"]).break_lease(values["period_s"]) > 0


ACTIONS: dict[str, Callable[[Side, BlobClient, dict[str, Any]], Awaitable[object]]] = {
    "put": put,
    "metadata": set_metadata,
    "headers": set_headers,
    "read": read,
    "range": read_range,
    "properties": properties,
    "delete": delete,
    "block": stage,
    "commit": commit,
    "acquire": acquire,
    "renew": renew,
    "change": change,
    "release": release,
    "break": break_lease,
}


@pytest.fixture
async def services(azurite_connection_string: str) -> AsyncIterator[list[BlobServiceClient]]:
    server = BlobServer(clock=SystemClock(), journal=MemoryJournal(), faults=Faults())
    await server.start()
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(BlobServiceClient.from_connection_string(each, retry_total=0))
            for each in (server.connection_string, azurite_connection_string)
        ]
    await server.stop()


@pytest.mark.timeout(300)
async def test_random_requests_are_answered_alike(services: list[BlobServiceClient]) -> None:
    refused = answered = 0
    for seed in range(SEQUENCES):
        chance = random.Random(seed)
        embedded, azurite = [Side(await service.create_container(f"differential-{seed}")) for service in services]
        history: list[str] = []
        for _ in range(STEPS):
            step = draw(chance)
            ours, theirs = await embedded.send(step), await azurite.send(step)
            history.append(f"{step.name} {step.blob} {step.values} -> {ours}")
            assert agree(step, ours, theirs), "\n".join([f"seed {seed}; Azurite said {theirs}", *history])
            refused += isinstance(ours, tuple) and ours[0] != "ok"
            answered += isinstance(ours, tuple) and ours[0] == "ok"
        assert await embedded.state() == await azurite.state(), "\n".join([f"seed {seed}", *history])
    # Both kinds are well represented, so that agreeing means something.
    assert min(refused, answered) > SEQUENCES * STEPS / 5, (refused, answered)
