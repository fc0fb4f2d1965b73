"""Queries over items: pages, order, indexes, aggregates, and the change feed."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.cosmos import execution as execution_module
from emulator.cosmos.changefeed import FeedStart
from emulator.cosmos.continuation import START, Resume, from_token, to_token
from emulator.cosmos.engine import Place, QuerySpec
from emulator.cosmos.errors import CosmosError
from emulator.cosmos.items import Item
from emulator.cosmos.sql.evaluate import compile_expression
from emulator.cosmos.sql.parser import parse
from emulator.cosmos.transaction import Operation
from tests.support.cosmos import BROOK, EVERYWHERE, Bench, encoded

RANGE = "SELECT * FROM c WHERE c.position >= @first AND c.position <= @last ORDER BY c.position"


def filled(count: int, **properties: Any) -> Bench:
    bench = Bench(**properties)
    for start in range(0, count, 100):
        bench.batch(
            [
                Operation("create", None, encoded({"id": str(at), "pk": BROOK, "position": at}))
                for at in range(start, min(start + 100, count))
            ]
        )
    return bench


# --- pages ---


@pytest.mark.parametrize("page_items", [1, 7, 250, 1000])
@pytest.mark.parametrize(
    "text",
    [
        RANGE,
        RANGE + " DESC",
        "SELECT * FROM c WHERE c.position BETWEEN @first AND @last",
        "SELECT * FROM c WHERE c.position >= @first AND c.position <= @last AND c.pk = 'orders|1'",
        "SELECT * FROM c WHERE c.position >= @first AND c.position <= @last ORDER BY c.id",
    ],
)
def test_pages_hold_every_row_once(text: str, page_items: int) -> None:
    pages = filled(250).pages(text, page_items=page_items, first=10, last=240)
    assert all(len(page) == page_items for page in pages[:-1])
    assert pages[-1]
    positions = [row["position"] for page in pages for row in page]
    assert sorted(positions) == list(range(10, 241))
    if "ORDER BY c.position" in text:
        assert positions == sorted(positions, reverse="DESC" in text)


def test_offset_limit_and_top_hold_across_pages() -> None:
    bench = filled(100)
    rows = bench.pages("SELECT VALUE c.position FROM c ORDER BY c.position OFFSET 5 LIMIT 20", page_items=6)
    assert [row for page in rows for row in page] == list(range(5, 25))
    assert [len(page) for page in rows] == [6, 6, 6, 2]
    assert bench.query("SELECT TOP 3 VALUE c.position FROM c ORDER BY c.position DESC", page_items=2) == [99, 98, 97]
    assert bench.query("SELECT TOP @n VALUE c.position FROM c", n=0) == []


def test_a_page_ends_at_four_megabytes() -> None:
    bench = Bench()
    for number in range(8):
        bench.create(str(number), position=number, data="x" * 1_000_000)
    pages = bench.pages("SELECT * FROM c ORDER BY c.position")
    assert [len(page) for page in pages] == [5, 3]


def test_a_long_scan_hands_out_what_it_has_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_module, "SCANNED_MAX", 30)
    bench = filled(100)
    pages = bench.pages("SELECT VALUE c.id FROM c WHERE c.id IN ('95', '5') OR STARTSWITH(c.id, '8')")
    assert [row for page in pages for row in page] == ["5", "8", *[str(at) for at in range(80, 90)], "95"]
    assert len(pages) == 4


def test_pages_go_on_rightly_while_items_come_and_go() -> None:
    bench = filled(30)
    for text in (RANGE, "SELECT * FROM c ORDER BY c.position DESC", "SELECT * FROM c", "SELECT * FROM c ORDER BY c.id"):
        spec = QuerySpec(text, {"@first": 0, "@last": 99})
        key = Place(key=(BROOK,))
        first = bench.engine.query(bench.container, spec, key, page_items=10, resume=START)
        assert first.resume is not None
        seen = [msgspec.json.decode(row)["id"] for row in first.rows]
        bench.do("delete", id=seen[-1])
        bench.do("delete", id=seen[0])
        rest = bench.engine.query(bench.container, spec, key, page_items=100, resume=first.resume)
        remaining = [msgspec.json.decode(row)["id"] for row in rest.rows]
        assert not set(seen) & set(remaining)
        assert len(seen) + len(remaining) == 30
        for gone in (seen[0], seen[-1]):
            bench.create(gone, position=int(gone))
        bench = filled(30)


def test_reading_a_long_brook_looks_at_each_item_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on work: pages through an index must not begin at the front each time."""
    bench = filled(5000)
    bench.query(RANGE, first=0, last=0)  # the index is built here
    decoded = 0
    document = Item.document

    def counting(item: Item) -> dict[str, Any]:
        nonlocal decoded
        decoded += 1
        return document(item)

    monkeypatch.setattr(Item, "document", counting)
    assert len(bench.query(RANGE, first=0, last=4999, page_items=50)) == 5000
    assert decoded <= 5000 + 100  # one look ahead for each page


def test_an_index_follows_writes() -> None:
    bench = filled(20)
    assert len(bench.query(RANGE, first=0, last=99)) == 20
    bench.create("late", position=7.5)
    bench.do("replace", {"id": "3", "pk": BROOK, "position": 50}, id="3")
    bench.do("replace", {"id": "4", "pk": BROOK}, id="4")
    bench.do("delete", id="5")
    found = bench.query(RANGE, first=2, last=99)
    assert [row["position"] for row in found] == [2, 6, 7, 7.5, *range(8, 20), 50]


@pytest.mark.parametrize("token", ["x", "AAAA", "====", to_token(Resume(version=9)), to_token(Resume(emitted=-1)), "é"])
def test_a_foreign_continuation_token_is_400(token: str) -> None:
    with pytest.raises(CosmosError, match="Continuation"):
        from_token(token)


# --- order ---


def test_order_by_goes_over_all_types_in_the_documented_order() -> None:
    values: list[Any] = [{"o": 1}, "b", 2, None, True, "a", [1], 1.5, False]
    bench = Bench()
    for number, value in enumerate(values):
        bench.create(str(number), v=value)
    bench.create("undefined")
    ordered = ["undefined", "3", "8", "4", "7", "2", "5", "1", "6", "0"]
    assert bench.query("SELECT VALUE c.id FROM c ORDER BY c.v") == ordered
    assert bench.query("SELECT VALUE c.id FROM c ORDER BY c.v DESC") == ordered[::-1]
    assert bench.query("SELECT VALUE c.id FROM c ORDER BY c.v", place=EVERYWHERE, page_items=2) == ordered


def test_order_by_an_excluded_path_is_refused_and_a_filter_on_it_scans() -> None:
    policy = {"includedPaths": [{"path": "/position/?"}], "excludedPaths": [{"path": "/*"}]}
    bench = filled(300, indexingPolicy=policy)
    with pytest.raises(CosmosError, match="order-by item is excluded"):
        bench.query("SELECT * FROM c ORDER BY c.other")
    assert len(bench.query("SELECT * FROM c WHERE c.other > 1")) == 0
    spec = QuerySpec("SELECT * FROM c WHERE c.position = 5", {})
    indexed = bench.engine.query(bench.container, spec, Place(key=(BROOK,)), page_items=9, resume=START)
    spec = QuerySpec("SELECT * FROM c WHERE c.other = 5", {})
    scanned = bench.engine.query(bench.container, spec, Place(key=(BROOK,)), page_items=9, resume=START)
    assert scanned.charge > indexed.charge + 2


def test_order_by_several_paths_needs_a_composite_index_in_that_order_or_its_reverse() -> None:
    policy = {
        "compositeIndexes": [[{"path": "/a", "order": "ascending"}, {"path": "/b", "order": "descending"}]],
    }
    bench = Bench(indexingPolicy=policy)
    for a in (1, 2):
        for b in (1, 2):
            bench.create(f"{a}{b}", a=a, b=b)
    assert bench.query("SELECT VALUE c.id FROM c ORDER BY c.a, c.b DESC", page_items=1) == ["12", "11", "22", "21"]
    assert bench.query("SELECT VALUE c.id FROM c ORDER BY c.a DESC, c.b") == ["21", "22", "11", "12"]
    for order in ("c.a, c.b", "c.b DESC, c.a"):
        with pytest.raises(CosmosError, match="composite index"):
            bench.query(f"SELECT * FROM c ORDER BY {order}")


def test_order_by_an_expression_is_refused() -> None:
    with pytest.raises(CosmosError, match="document path"):
        Bench().query("SELECT * FROM c ORDER BY LOWER(c.a)")


# --- aggregates and projections ---


def test_aggregates() -> None:
    bench = filled(10)
    bench.create("odd", position="text")
    numbers = "WHERE IS_NUMBER(c.position)"
    assert bench.query("SELECT VALUE COUNT(1) FROM c") == [11]
    assert bench.query("SELECT VALUE COUNT(c.missing) FROM c") == [0]
    assert bench.query(f"SELECT VALUE SUM(c.position) FROM c {numbers}") == [45]
    assert bench.query(f"SELECT VALUE AVG(c.position) FROM c {numbers}") == [4.5]
    assert bench.query("SELECT VALUE SUM(c.position) FROM c") == []
    assert bench.query("SELECT VALUE MIN(c.position) FROM c") == [0]
    assert bench.query("SELECT VALUE MAX(c.position) FROM c") == ["text"]
    assert bench.query("SELECT VALUE MAX(c.position) FROM c WHERE false") == []
    assert bench.query(f"SELECT COUNT(1) AS n, MAX(c.position) AS most, 5 AS five FROM c {numbers}") == [
        {"n": 10, "most": 9, "five": 5}
    ]


def test_order_by_has_no_effect_on_aggregates() -> None:
    bench = filled(10)
    assert bench.query("SELECT VALUE SUM(c.position) FROM c ORDER BY c.position DESC") == [45]


def test_the_root_may_be_indexed_as_older_clients_write_it() -> None:
    bench = Bench(indexingPolicy={"includedPaths": [{"path": "/", "indexes": [{"kind": "Range"}]}]})
    bench.create("a", n=1)
    assert bench.query("SELECT VALUE c.n FROM c ORDER BY c.n") == [1]


def test_projections() -> None:
    bench = filled(2)
    assert bench.query("SELECT c.id, c.position AS at, c.missing FROM c") == [
        {"id": "0", "at": 0},
        {"id": "1", "at": 1},
    ]
    assert bench.query("SELECT VALUE c.missing FROM c") == []
    assert bench.query('SELECT VALUE {"p": c.position, "x": [c.id]} FROM c') == [
        {"p": 0, "x": ["0"]},
        {"p": 1, "x": ["1"]},
    ]
    assert bench.query("SELECT c FROM c")[0]["c"]["id"] == "0"
    assert bench.query("SELECT DISTINCT VALUE c.pk FROM c") == [BROOK]
    assert bench.query("SELECT 1 + 1 FROM c") == [{"$1": 2}, {"$1": 2}]


# --- where it looks ---

CONDITIONS = st.sampled_from(
    [
        "c.pk = @pk",
        "@pk = c.pk",
        "c.id = @id",
        "c.id IN (@id, '2', 7)",
        "c.position > @n",
        "@n >= c.position",
        "c.position = @n",
        "c.position BETWEEN 1 AND @n",
        "c.position < -1",
        "c.missing = 1",
        "c.pk = 5",
        "IS_DEFINED(c.pk) = true",
        "c.id != '1'",
    ]
)
FILTERS = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: "(" + " AND ".join(parts) + ")"),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: "(" + " OR ".join(parts) + ")"),
        inner.map(lambda part: f"(NOT {part})"),
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(
    FILTERS,
    st.integers(0, 4),
    st.sampled_from(["", " ORDER BY c.position", " ORDER BY c.position DESC"]),
    st.integers(1, 9),
)
def test_narrowing_the_search_never_changes_the_answer(condition: str, n: int, order: str, page_items: int) -> None:
    bench = Bench(throughput=30_000)
    documents = [
        {"id": str(number), "pk": f"b{brook}", "position": number} for brook in range(4) for number in range(4)
    ]
    for document in documents:
        bench.do("create", document, pk=document["pk"])
    text = f"SELECT * FROM c WHERE {condition}{order}"
    parameters = {"pk": f"b{n}", "id": str(n), "n": n}
    where = parse(text).where
    assert where is not None
    evaluator = compile_expression(where)
    values = {f"@{name}": value for name, value in parameters.items()}
    expected = sorted((doc["pk"], doc["id"]) for doc in documents if evaluator(doc, values) is True)
    for place in (EVERYWHERE, Place(key=("b1",))):
        found = bench.query(text, place=place, page_items=page_items, **parameters)
        wanted = expected if place is EVERYWHERE else [pair for pair in expected if pair[0] == "b1"]
        assert sorted((row["pk"], row["id"]) for row in found) == wanted
        if order:
            positions = [row["position"] for row in found]
            assert positions == sorted(positions, reverse="DESC" in order)


def test_ranges_of_effective_keys_partition_the_items() -> None:
    bench = Bench(throughput=40_000)
    for number in range(200):
        bench.create("x", pk=f"brook|{number}")
    everything = {row["pk"] for row in bench.query("SELECT * FROM c", place=EVERYWHERE)}
    by_range = [
        {row["pk"] for row in bench.query("SELECT * FROM c", place=Place(range_id=found.id))}
        for found in bench.container.ranges
    ]
    assert len(by_range) == 4
    assert all(by_range)
    assert sum(len(found) for found in by_range) == len(everything) == 200
    middle = bench.container.ranges[1].low
    halves = [Place(low="", high=middle), Place(low=middle, high="FF")]
    assert [len(bench.query("SELECT * FROM c", place=half)) for half in halves] == [
        len(by_range[0]),
        200 - len(by_range[0]),
    ]


def test_a_range_that_is_gone_is_410_with_sub_status_1002() -> None:
    with pytest.raises(CosmosError) as gone:
        Bench().query("SELECT * FROM c", place=Place(range_id="7"))
    assert (gone.value.status, gone.value.sub_status) == (410, 1002)


def test_a_prefix_of_a_hierarchical_key_finds_all_below_it() -> None:
    bench = Bench(partition_key={"paths": ["/tenant", "/user"], "kind": "MultiHash", "version": 2}, throughput=20_000)
    for tenant in ("a", "b"):
        for user in ("x", "y", "z"):
            bench.do("create", {"id": "1", "tenant": tenant, "user": user}, pk=(tenant, user))
    found = bench.query("SELECT * FROM c", place=Place(key=("a",)))
    assert sorted((row["tenant"], row["user"]) for row in found) == [("a", "x"), ("a", "y"), ("a", "z")]
    assert len(bench.query("SELECT * FROM c", place=Place(key=("b", "y")))) == 1


def test_sorted_results_are_kept_between_pages_and_dropped_by_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    for number in range(20):
        bench.create("x", pk=f"b{number}", n=number)
    sorts = 0
    all_rows = execution_module.Execution.all_rows

    def counting(execution: Any) -> Any:
        nonlocal sorts
        sorts += 1
        return all_rows(execution)

    monkeypatch.setattr(execution_module.Execution, "all_rows", counting)
    text = "SELECT VALUE c.n FROM c ORDER BY c.n"
    assert bench.query(text, place=EVERYWHERE, page_items=3) == list(range(20))
    assert sorts == 1
    bench.create("x", pk="late", n=-1)
    assert bench.query(text, place=EVERYWHERE) == list(range(-1, 20))
    assert sorts == 2


def test_sorted_results_are_not_kept_over_an_expiry() -> None:
    bench = Bench()
    bench.create("gone", pk="a", ttl=5)
    bench.create("stays", pk="b")
    text = "SELECT VALUE c.id FROM c ORDER BY c.id"
    assert bench.query(text, place=EVERYWHERE) == ["gone", "stays"]
    properties = {"id": "c", "partitionKey": bench.container.properties["partitionKey"]}
    bench.engine.account.replace_container("d", "c", {**properties, "defaultTtl": -1}, None)
    bench.clock.jump_s(10)
    assert bench.query(text, place=EVERYWHERE) == ["stays"]
    bench.engine.account.replace_container("d", "c", properties, None)  # time to live is off again
    assert bench.query(text, place=EVERYWHERE) == ["stays"]


# --- change feed ---


def feed(bench: Bench, start: FeedStart, *, place: Place = EVERYWHERE, page_items: int = 100) -> tuple[list[Any], int]:
    _, page = bench.engine.change_feed(bench.container, place, page_items=page_items, start=lambda _range: start)
    return [msgspec.json.decode(row) for row in page.rows], page.lsn


def test_the_change_feed_shows_the_latest_version_of_each_item_in_the_order_of_writing() -> None:
    bench = Bench()
    for item_id in "abc":
        bench.create(item_id)
    bench.do("replace", {"id": "a", "pk": BROOK, "n": 1}, id="a")
    bench.do("delete", id="b")
    rows, lsn = feed(bench, FeedStart())
    assert [row["id"] for row in rows] == ["c", "a"]
    assert [row["_lsn"] for row in rows] == [3, 4]
    assert lsn == 5
    assert feed(bench, FeedStart(lsn)) == ([], 5)
    bench.create("d")
    rows, _ = feed(bench, FeedStart(lsn))
    assert [row["id"] for row in rows] == ["d"]


def test_a_page_of_the_change_feed_never_cuts_a_transaction() -> None:
    bench = filled(250)
    sizes = []
    start = FeedStart()
    while True:
        rows, lsn = feed(bench, start, page_items=10)
        if not rows:
            break
        sizes.append(len(rows))
        start = FeedStart(lsn)
    assert sizes == [100, 100, 50]


def test_the_change_feed_can_be_read_for_one_key_and_since_a_time() -> None:
    bench = Bench()
    bench.create("old")
    bench.create("x", pk="other")
    bench.clock.jump_s(100)
    bench.create("new")
    assert [row["id"] for row in feed(bench, FeedStart(), place=Place(key=(BROOK,)))[0]] == ["old", "new"]
    since = FeedStart(0, bench.clock.now_s() - 1)
    assert [row["id"] for row in feed(bench, since)[0]] == ["new"]


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_the_change_feed_kept_up_to_date_is_the_one_built_anew(seed: int) -> None:
    chance = random.Random(seed)
    bench = Bench()
    feed(bench, FeedStart())  # from here on it is maintained
    for _ in range(60):
        item_id = chance.choice("abcdef")
        kind = chance.choice(["upsert", "upsert", "delete"])
        try:
            bench.do(kind, {"id": item_id, "pk": BROOK} if kind == "upsert" else None, id=item_id)
        except CosmosError as error:
            assert error.status == 404  # noqa: PT017 - a delete of nothing
    maintained = feed(bench, FeedStart())
    partition_range = bench.container.ranges[0]
    partition_range.feed = None
    partition_range.feed_items.clear()
    assert feed(bench, FeedStart()) == maintained
