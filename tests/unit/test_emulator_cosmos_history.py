"""A replica that is behind: reads see an earlier state, whole, and leave no trace; session tokens are honoured."""

import random
from pathlib import Path
from typing import Any

import pytest

from emulator.cosmos.engine import Place, QuerySpec
from emulator.cosmos.history import BYTES_MAX, CHANGES_MAX
from emulator.cosmos.transaction import Operation
from emulator.journal import SqliteJournal
from tests.support.cosmos import BROOK, EVERYWHERE, Bench, encoded

ALL = QuerySpec("SELECT * FROM c", {})


def state(bench: Bench) -> dict[tuple[str, str], Any]:
    return {(row["pk"], row["id"]): row for row in bench.query(ALL.text, place=EVERYWHERE)}


def state_behind(bench: Bench, transactions: int, token: str | None = None) -> dict[tuple[str, str], Any]:
    with bench.engine.behind(bench.container, transactions, token):
        return state(bench)


def random_batch(chance: random.Random, pk: str) -> list[Operation]:
    operations = []
    for _ in range(chance.randint(1, 4)):
        item_id = chance.choice("abcdef")
        kind = chance.choice(["upsert", "upsert", "delete", "create"])
        body = None if kind == "delete" else encoded({"id": item_id, "pk": pk, "n": chance.random()})
        operations.append(Operation(kind, item_id if kind == "delete" else None, body))
    return operations


@pytest.mark.parametrize("seed", range(5))
def test_what_is_read_is_a_state_that_was(seed: int) -> None:
    bench, chance = Bench(), random.Random(seed)
    bench.query("SELECT * FROM c ORDER BY c.n", place=Place(key=(BROOK,)))  # so that a sorted index has to follow
    states = [state(bench)]
    for _ in range(120):
        result = bench.batch(random_batch(chance, pk := chance.choice("xyz")), pk=pk)
        if result.status == 200:
            states.append(state(bench))
        behind = chance.randint(1, 12)
        assert state_behind(bench, behind) == states[max(0, len(states) - 1 - behind)]
        assert state(bench) == states[-1]
        in_order = [row["n"] for row in bench.query("SELECT * FROM c ORDER BY c.n", place=Place(key=(pk,)))]
        assert in_order == sorted(row["n"] for (key, _), row in states[-1].items() if key == pk)


def test_what_a_session_token_tells_of_is_there() -> None:
    bench = Bench()
    for number in range(5):
        bench.create(str(number))
    assert len(state_behind(bench, 100)) == 0
    assert len(state_behind(bench, 100, "0:-1#3")) == 3
    assert len(state_behind(bench, 1, "0:-1#3")) == 4
    assert len(state_behind(bench, 100, "0:-1#5")) == 5
    with bench.engine.behind(bench.container, 2, None):
        assert bench.container.ranges[0].session_token() == "0:-1#3"
    assert bench.container.ranges[0].session_token() == "0:-1#5"


def test_an_error_within_leaves_the_container_as_it_is() -> None:
    bench = Bench()
    bench.create("a")
    before = state(bench)
    with pytest.raises(RuntimeError, match="in the middle"), bench.engine.behind(bench.container, 1, None):
        raise RuntimeError("in the middle")
    assert state(bench) == before
    bench.create("b")
    assert len(state(bench)) == 2


def test_expiry_waits_while_an_earlier_state_is_read() -> None:
    bench = Bench(defaultTtl=10)
    bench.create("a")
    bench.do("upsert", {"id": "a", "pk": BROOK, "n": 1})
    bench.clock.jump_s(5)
    bench.do("upsert", {"id": "a", "pk": BROOK, "n": 2})
    bench.clock.jump_s(6)  # the version before would have expired by now
    assert state_behind(bench, 1) == {}
    assert bench.read("a")["n"] == 2


def test_history_is_bounded_and_what_is_forgotten_is_not_unwound() -> None:
    bench = Bench()
    for number in range(CHANGES_MAX + 5):
        bench.do("upsert", {"id": "a", "pk": BROOK, "n": number})
    ((row),) = state_behind(bench, 10 * CHANGES_MAX).values()
    assert row["n"] == 4
    large = "x" * 1_000_000
    for number in range(10):
        bench.do("upsert", {"id": "a", "pk": BROOK, "n": number, "large": large})
    history = bench.container.ranges[0].history
    assert history._size_bytes <= BYTES_MAX
    ((row),) = state_behind(bench, 1_000).values()
    assert row["n"] >= 5


def test_what_was_before_a_restart_is_not_unwound(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "data.sqlite")
    bench = Bench(journal)
    bench.create("a")
    journal.close()
    journal = SqliteJournal(tmp_path / "data.sqlite")
    again = Bench(journal)
    assert len(state_behind(again, 5)) == 1
    with again.engine.behind(again.container, 5, None):
        assert again.container.ranges[0].lsn == 1
    journal.close()
