"""Databases, containers, offers, charges, sessions, and what comes back from the journal."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from emulator.cosmos import charges
from emulator.cosmos.changefeed import FeedStart
from emulator.cosmos.engine import CosmosEngine, Place
from emulator.cosmos.errors import CosmosError
from emulator.cosmos.throughput import Throughput
from emulator.cosmos.transaction import Operation
from emulator.journal import Change, MemoryJournal, SqliteJournal
from tests.support.cosmos import BROOK, EVERYWHERE, Bench, encoded

KEY = {"paths": ["/pk"], "kind": "Hash", "version": 2}


def refused(status: int, sub_status: int = 0) -> Any:
    return pytest.raises(CosmosError, check=lambda error: (error.status, error.sub_status) == (status, sub_status))


# --- databases and containers ---


def test_names_are_taken_once() -> None:
    account = Bench().engine.account
    with refused(409):
        account.create_database({"id": "d"}, Throughput())
    with refused(409):
        account.create_container("d", {"id": "c", "partitionKey": KEY}, Throughput())


def test_a_missing_owner_is_404_with_sub_status_1003() -> None:
    account = Bench().engine.account
    with refused(404, 1003):
        account.create_container("nope", {"id": "c", "partitionKey": KEY}, Throughput())
    with refused(404, 1003):
        account.container("d", "nope", owner=True)
    with refused(404):
        account.container("d", "nope")
    with refused(404):
        account.database("nope")


def test_resources_are_found_by_resource_id_too() -> None:
    account = Bench().engine.account
    container = account.container("d", "c")
    assert account.container(account.database("d").rid, container.rid) is container


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"id": "x"},
        {"id": "x/y", "partitionKey": KEY},
        {"id": "x" * 256, "partitionKey": KEY},
        {"id": "x ", "partitionKey": KEY},
        {"id": "x", "partitionKey": KEY, "defaultTtl": 0},
        {"id": "x", "partitionKey": KEY, "indexingPolicy": 5},
        {"id": "x", "partitionKey": KEY, "indexingPolicy": {"indexingMode": "sometimes"}},
        {"id": "x", "partitionKey": KEY, "indexingPolicy": {"includedPaths": [{"path": "/a"}]}},
        {"id": "x", "partitionKey": KEY, "indexingPolicy": {"includedPaths": [{"path": "/a/?"}]}},
        {"id": "x", "partitionKey": KEY, "indexingPolicy": {"includedPaths": "/*"}},
        {"id": "x", "partitionKey": KEY, "indexingPolicy": {"compositeIndexes": [[{"path": "/a"}]]}},
        {"id": "x", "partitionKey": KEY, "uniqueKeyPolicy": {"uniqueKeys": [{"paths": []}]}},
        {"id": "x", "partitionKey": KEY, "uniqueKeyPolicy": {"uniqueKeys": 5}},
    ],
)
def test_a_container_with_invalid_properties_is_400(properties: dict[str, Any]) -> None:
    with refused(400):
        Bench().engine.account.create_container("d", properties, Throughput())


def test_a_replaced_container_keeps_what_cannot_change() -> None:
    bench = Bench(uniqueKeyPolicy={"uniqueKeys": [{"paths": ["/e"]}]})
    account, old = bench.engine.account, dict(bench.container.properties)
    account.replace_container("d", "c", {"id": "c", "partitionKey": KEY, "defaultTtl": 60}, None)
    new = bench.container.properties
    assert new["defaultTtl"] == 60
    assert new["uniqueKeyPolicy"] == old["uniqueKeyPolicy"]
    assert new["_rid"] == old["_rid"]
    assert new["_etag"] != old["_etag"]
    with refused(400):
        account.replace_container("d", "c", {"id": "c", "partitionKey": {**KEY, "paths": ["/other"]}}, None)
    with refused(400):
        account.replace_container("d", "c", {"id": "other", "partitionKey": KEY}, None)
    with refused(412):
        account.replace_container("d", "c", {"id": "c", "partitionKey": KEY}, old["_etag"])


def test_throughput_decides_the_number_of_physical_partitions() -> None:
    assert len(Bench().container.ranges) == 1
    assert len(Bench(throughput=10_000).container.ranges) == 1
    assert len(Bench(throughput=10_100).container.ranges) == 2


@pytest.mark.parametrize(
    "throughput",
    [
        Throughput(manual=100),
        Throughput(manual=450),
        Throughput(autoscale_max=500),
        Throughput(400, 1000),
        Throughput(10**9),
    ],
)
def test_throughput_outside_of_the_limits_is_400(throughput: Throughput) -> None:
    with refused(400):
        Bench().engine.account.create_database({"id": "x"}, throughput)


def test_a_container_shares_the_throughput_of_its_database() -> None:
    account = Bench().engine.account
    account.create_database({"id": "shared"}, Throughput(manual=1000))
    container = account.create_container("shared", {"id": "c", "partitionKey": KEY}, Throughput())
    assert container.self_link not in account.offers
    assert account.offers[account.database("shared").self_link].throughput == 1000


def test_deleting_takes_everything_along() -> None:
    bench = Bench()
    bench.create("a")
    bench.engine.account.delete_database("d", None)
    assert not bench.engine.account.offers
    with refused(404):
        bench.engine.account.database("d")


# --- sessions ---


@pytest.mark.parametrize(("token", "status"), [("0:-1#2", None), ("0:-1#3", 1002), ("1:-1#99,0:-1#1", None)])
def test_a_session_that_has_seen_more_than_there_is_gets_404_1002(token: str, status: int | None) -> None:
    bench = Bench()
    bench.create("a")
    bench.create("b")
    if status is None:
        bench.engine.check_session(bench.container.ranges[0], token)
    else:
        with refused(404, status):
            bench.engine.check_session(bench.container.ranges[0], token)


@pytest.mark.parametrize("token", ["x", "0:", "0:-1", "0:-1#x", "0:-1#-5", "0:-1#1,"])
def test_a_malformed_session_token_is_400(token: str) -> None:
    bench = Bench()
    with refused(400):
        bench.engine.check_session(bench.container.ranges[0], token)


# --- charges ---


@pytest.mark.parametrize(
    ("size_kb", "read", "write"), [(1, 1.0, 4.95), (16, 1.67, 9.5), (64, 4.8, 22.7), (1024, 146.0, 625.0)]
)
def test_charges_meet_the_documented_points(size_kb: int, read: float, write: float) -> None:
    assert charges.read(size_kb * 1024) == read
    assert charges.write(size_kb * 1024, 0) == write


def test_charges_grow_with_size_and_with_what_is_indexed() -> None:
    sizes = [1, 1000, 5000, 20_000, 100_000, 1_000_000, 2_000_000]
    for charge in (charges.read, lambda size: charges.write(size, 0)):
        found = [charge(size) for size in sizes]
        assert found == sorted(found)
    assert charges.read(1) == 1.0
    assert charges.write(1024, 10) > charges.write(1024, 1)
    assert charges.replace(1024, 0) == pytest.approx(2 * charges.write(1024, 0))


def test_excluding_paths_makes_writes_cheaper() -> None:
    lean = {"includedPaths": [{"path": "/position/?"}], "excludedPaths": [{"path": "/*"}]}
    document = {f"p{number}": number for number in range(20)}
    assert Bench(indexingPolicy=lean).create("a", **document).charge + 1 < Bench().create("a", **document).charge


def test_the_charge_of_a_batch_is_that_of_its_operations() -> None:
    bench = Bench()
    result = bench.batch([Operation("create", None, encoded({"id": str(at), "pk": BROOK})) for at in range(3)])
    assert result.charge == pytest.approx(sum(found.charge for found in result.results))
    assert result.charge > 3 * 4.95


# --- durability ---


def snapshot(bench: Bench) -> Any:
    """All that can be seen from outside."""
    account = bench.engine.account
    rows, lsn = (
        bench.engine.change_feed(bench.container, EVERYWHERE, page_items=1000, start=lambda _range: FeedStart())[
            1
        ].rows,
        bench.container.ranges[0].lsn,
    )
    return (
        [database.properties for database in account.databases.values()],
        bench.container.properties,
        {link: offer.document() for link, offer in account.offers.items()},
        bench.query("SELECT * FROM c", place=EVERYWHERE),
        [msgspec.json.decode(row) for row in rows],
        lsn,
    )


def test_everything_comes_back_after_a_restart(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "data.db")
    bench = Bench(journal, uniqueKeyPolicy={"uniqueKeys": [{"paths": ["/e"]}]}, defaultTtl=-1)
    for number in range(20):
        bench.create(str(number), e=number, ttl=50 if number == 7 else -1)
        bench.create("x", pk=f"other|{number}", e=1)
    bench.do("replace", {"id": "3", "pk": BROOK, "e": 3, "n": 1}, id="3")
    bench.do("delete", id="4")
    bench.engine.account.replace_offer(
        next(iter(bench.engine.account.offers.values())).document()["_rid"], {"content": {"offerThroughput": 800}}
    )
    bench.engine.account.replace_container("d", "c", {"id": "c", "partitionKey": KEY, "defaultTtl": 1000}, None)
    before = snapshot(bench)
    journal.close()

    again = Bench(SqliteJournal(tmp_path / "data.db"))
    assert snapshot(again) == before
    with refused(409):
        again.create("new", e=5)
    again.clock.jump_s(60)
    with refused(404):
        again.read("7")
    again.journal.close()


def test_nothing_is_ever_named_twice_over_a_restart(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "data.db")
    bench = Bench(journal)
    first = bench.create("a")
    bench.do("delete", id="a")
    lsn = bench.container.ranges[0].lsn
    rid = bench.container.rid
    journal.close()

    again = Bench(SqliteJournal(tmp_path / "data.db"))
    assert again.container.ranges[0].lsn == lsn
    second = again.create("a")
    assert second.etag != first.etag
    assert msgspec.json.decode(second.body or b"")["_rid"] != msgspec.json.decode(first.body or b"")["_rid"]
    again.engine.account.delete_container("d", "c", None)
    again.engine.account.create_container("d", {"id": "c", "partitionKey": KEY}, Throughput())
    assert again.container.rid != rid
    assert not again.query("SELECT * FROM c", place=EVERYWHERE)
    again.journal.close()


def test_what_was_deleted_or_has_expired_stays_away_after_a_restart(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "data.db")
    bench = Bench(journal, defaultTtl=10)
    bench.create("expired")
    bench.clock.jump_s(11)
    bench.create("kept")
    assert [key for key, _ in journal.load("cosmos-items")] == ["00000002/00/00000000000002"]
    bench.engine.account.delete_container("d", "c", None)
    assert not list(journal.load("cosmos-items"))
    assert not list(journal.load("cosmos-lsn"))
    assert not list(journal.load("cosmos-offers"))
    journal.close()


class BrokenJournal(MemoryJournal):
    """A disk that is full."""

    broken = False

    def commit(self, changes: Any) -> None:
        if self.broken:
            raise OSError("disk full")
        super().commit(changes)


def test_a_write_that_cannot_be_journalled_changes_nothing() -> None:
    journal = BrokenJournal()
    bench = Bench(journal)
    bench.create("a", n=1)
    journal.broken = True
    for attempt in (
        lambda: bench.create("b"),
        lambda: bench.do("replace", {"id": "a", "pk": BROOK, "n": 2}, id="a"),
        lambda: bench.do("delete", id="a"),
        lambda: bench.create("first", pk="new partition"),
        lambda: bench.engine.account.delete_container("d", "c", None),
        lambda: bench.engine.account.create_database({"id": "e"}, Throughput()),
    ):
        with pytest.raises(OSError, match="disk full"):
            attempt()
    journal.broken = False
    assert [row["id"] for row in bench.query("SELECT * FROM c", place=EVERYWHERE)] == ["a"]
    assert bench.read("a")["n"] == 1
    assert bench.container.ranges[0].lsn == 1
    assert list(bench.engine.account.databases) == ["d"]


class RecordingJournal(MemoryJournal):
    """Remembers how many transactions there were."""

    def __init__(self) -> None:
        self.commits: list[list[Change]] = []

    def commit(self, changes: Any) -> None:
        self.commits.append(list(changes))


def test_a_batch_is_one_transaction_of_the_journal() -> None:
    journal = RecordingJournal()
    bench = Bench(journal)
    journal.commits.clear()
    bench.batch([Operation("create", None, encoded({"id": str(at), "pk": BROOK})) for at in range(100)])
    assert [len(changes) for changes in journal.commits] == [101]  # the items, and the log sequence number


def test_an_engine_without_a_journal_entry_is_empty() -> None:
    bench = Bench()
    assert isinstance(bench.engine, CosmosEngine)
    assert bench.query("SELECT * FROM c", place=Place()) == []
