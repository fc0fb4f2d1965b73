"""What an operator is told about a brook, and that recovery then does what was told."""

import io
import json

import pytest
from rich.console import Console

from tests.support.brooks import KEY, head, left_events, marker, prepared
from worker.commands.failures import CommandError
from worker.commands.inspect import inspected, tell
from worker.commands.recover import leased, recovered
from worker.handlers.append import AppendHandler, BrookContendedError
from worker.handlers.brook import BrookState
from worker.locking.memory import MemoryLeaseManager, MemoryLeaseService
from worker.locking.options import LeaseOptions
from worker.protocol.documents import Document
from worker.protocol.model import Limits
from worker.protocol.writes import Create
from worker.storage.base import ContradictionError, Diverged, WriteResult, Written
from worker.storage.memory import MemoryBrookStore

pytestmark = pytest.mark.anyio

LIMITS = Limits(batch_operations_max=11)


def modern(original: int, target: int, written: int) -> list[Document]:
    """As this worker leaves an append from after `original` to `target`."""
    mark = marker(original, target, writtenPosition=written, commandId="big", payloadDigest="digest")
    return [head(original, pending="big"), mark, *left_events(*range(written + 1))]


async def seeded(*documents: Document) -> MemoryBrookStore:
    store = MemoryBrookStore()
    if documents:
        assert isinstance(await store.write(KEY, [Create(document) for document in documents]), Written)
    return store


SETTLED = "nothing-pending"
CASES = {
    "unknown": ([], SETTLED, "no large append is under way", -1),
    "settled": ([head(1), *left_events(0, 1)], SETTLED, "no large append is under way", 1),
    "orphan": (modern(0, 9, 4), "roll-back", "4 of 9 events are written", 0),
    "complete orphan": (modern(0, 9, 9), "commit", "all events up to 9 are written", 9),
    "orphan of the first append": (modern(-1, 9, 0), "roll-back", "1 of 10 events are written", -1),
    "legacy, complete": ([head(0), marker(0, 2), *left_events(0, 1, 2)], "inspect-legacy", "it is committed", 2),
    "legacy, incomplete": ([head(0), marker(0, 5), *left_events(0, 1, 3)], "inspect-legacy", "3 events are missing", 0),
    "stale": ([head(3), marker(1, 6), *left_events(0, 1, 2, 3, 5)], "drop-stale", "that the head has passed", 3),
}


@pytest.mark.parametrize("case", CASES)
async def test_it_tells_the_decision_and_recovery_does_so(case: str) -> None:
    documents, decision, why, head_after = CASES[case]
    store = await seeded(*documents)
    before = store.documents(KEY)
    found = await inspected(store, KEY)
    assert found.decision == decision
    assert why in found.why
    assert found.remedy is None
    assert store.documents(KEY) == before, "looking changes nothing"
    await recovered(store, KEY, LIMITS, attempts_max=5)
    after = await inspected(store, KEY)
    assert (after.is_settled, after.head, after.events_past_head) == (True, head_after, 0)
    assert set(store.documents(KEY)) - {"head"} == set(map(str, range(head_after + 1)))


@pytest.mark.parametrize(
    ("documents", "why"),
    [
        ([head(0), *left_events(0, 1, 2)], "no head-pending tells of them"),
        ([head(0, pending="lost"), *left_events(0)], "there is no head-pending"),
        ([head(0), marker(4, 6), *left_events(0, 5)], "began at 4, but the head is at 0"),
    ],
)
async def test_what_contradicts_itself_comes_with_a_remedy(documents: list[Document], why: str) -> None:
    found = await inspected(await seeded(*documents), KEY)
    assert found.decision == "contradiction"
    assert why in found.why
    assert found.remedy


async def test_recovery_of_a_contradiction_changes_nothing() -> None:
    store = await seeded(head(0), marker(4, 6), *left_events(0, 5))
    before = store.documents(KEY)
    with pytest.raises(ContradictionError, match="began at 4"):
        await recovered(store, KEY, LIMITS, attempts_max=5)
    assert store.documents(KEY) == before


class MovingStore(MemoryBrookStore):
    """Refuses every write, as when others are always faster."""

    async def write(self, *args: object) -> WriteResult:
        return Diverged()


async def test_recovery_that_others_disturb_all_the_time_ends() -> None:
    store = MovingStore()
    for document in modern(0, 9, 4):
        await MemoryBrookStore.write(store, KEY, [Create(document)])
    with pytest.raises(BrookContendedError, match="5 times in a row"):
        await recovered(store, KEY, LIMITS, attempts_max=5)


async def test_a_recovered_brook_is_appended_to() -> None:
    store = await seeded(*modern(0, 9, 4))
    await recovered(store, KEY, LIMITS, attempts_max=5)
    await AppendHandler(store, LIMITS, replans_max=1).append(BrookState(KEY), [prepared(command_id="next")])
    assert [event.command_id async for event in store.read_forward(KEY)] == ["left", "next"]


async def test_the_table_and_the_json_hold_the_same() -> None:
    found = await inspected(await seeded(*modern(0, 50, 30)), KEY)
    assert (found.events_past_head, len(found.positions_past_head)) == (30, 20)
    texts = []
    for as_json in (False, True):
        output = io.StringIO()
        tell(found, as_json=as_json, console=Console(file=output, width=160))
        texts.append(output.getvalue())
    table, text = texts
    for part in ("orders|1", "from 0 to 50, written up to 30", "big", "30 events past the head", "and 10 more"):
        assert part in table
    shown = json.loads(text)
    assert (shown["decision"], shown["headPending"]["writtenPosition"], shown["eventsPastHead"]) == (
        "roll-back",
        30,
        30,
    )


async def test_a_brook_that_a_worker_has_in_hand_is_told_with_what_to_do() -> None:
    service, options = MemoryLeaseService(), LeaseOptions(acquire_timeout_s=0.2)
    async with leased(MemoryLeaseManager(service, options), "a|b", renew_after_s=10):
        with pytest.raises(CommandError, match=r"held by another: .*\n.*run the command again in a minute"):
            async with leased(MemoryLeaseManager(service, options), "a|b", renew_after_s=10):
                pytest.fail("two hold it")
