"""Writes: preconditions, atomicity, limits, unique keys, time to live, patches."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.cosmos.batch import parse_batch
from emulator.cosmos.errors import CosmosError
from emulator.cosmos.transaction import ITEM_BYTES_MAX, Operation
from emulator.cosmos.values import decode
from tests.support.cosmos import BROOK, Bench, encoded


def refused(status: int, **matching: Any) -> Any:
    return pytest.raises(CosmosError, check=lambda error: error.status == status, **matching)


def op(kind: str, document: Any = None, *, id: str | None = None, **more: Any) -> Operation:  # noqa: A002
    return Operation(kind, id, None if document is None else encoded(document), **more)


def doc(item_id: Any, **more: Any) -> dict[str, Any]:
    return {"id": item_id, "pk": BROOK, **more}


# --- point operations ---


def test_every_version_has_an_etag_of_its_own_even_within_one_batch_and_after_a_delete() -> None:
    bench = Bench()
    etags = [bench.create("a").etag]
    etags.append(bench.do("upsert", doc("a")).etag)
    results = bench.batch(
        [op("upsert", doc("a")), op("upsert", doc("a")), op("delete", id="a"), op("create", doc("a"))]
    )
    etags += [result.etag for result in results.results if result.etag]
    bench.do("delete", id="a")
    etags.append(bench.create("a").etag)
    assert len(set(etags)) == len(etags) == 6


def test_if_match_is_honoured_by_every_write_and_ignored_by_an_upsert_of_something_new() -> None:
    bench = Bench()
    stale = bench.create("a").etag
    current = bench.do("replace", doc("a"), id="a").etag
    patch = {"operations": [{"op": "set", "path": "/x", "value": 1}]}
    for kind, document in (("replace", doc("a")), ("upsert", doc("a")), ("delete", None), ("patch", patch)):
        with refused(412):
            bench.do(kind, document, id="a", if_match=stale)
    assert bench.read("a")["_etag"] == current
    assert bench.do("upsert", doc("new"), if_match=stale).status == 201
    assert bench.do("replace", doc("a"), id="a", if_match="*").status == 200


def test_if_none_match_guards_writes_and_saves_reads() -> None:
    bench = Bench()
    etag = bench.create("a").etag
    with refused(412):
        bench.do("upsert", doc("a"), if_none_match="*")
    unchanged = bench.do("read", id="a", if_none_match=etag)
    assert (unchanged.status, unchanged.body) == (304, None)
    assert bench.do("read", id="a", if_none_match='"other"').status == 200


def test_what_is_missing_is_404_and_what_is_there_is_409() -> None:
    bench = Bench()
    for kind, document in (("replace", doc("a")), ("delete", None), ("read", None)):
        with refused(404):
            bench.do(kind, document, id="a")
    bench.create("a")
    with refused(409):
        bench.create("a")
    assert bench.create("a", pk="other").status == 201


@pytest.mark.parametrize("item_id", ["", "a/b", "a\\b", "a?b", "a#b", "é" * 512, None, 5, ["a"]])
def test_bad_ids_are_refused_on_points_and_in_batches(item_id: Any) -> None:
    bench = Bench()
    with refused(400):
        bench.do("create", doc(item_id))
    result = bench.batch([op("create", doc("fine")), op("create", doc(item_id))])
    assert [found.status for found in result.results] == [424, 400]
    assert not bench.container.partitions


def test_an_id_of_1023_bytes_is_accepted() -> None:
    assert Bench().create("é" * 511 + "a").status == 201


def test_a_document_of_another_partition_is_400_with_sub_status_1001() -> None:
    bench = Bench()
    with refused(400) as mismatch:
        bench.do("create", {"id": "a", "pk": "other"})
    assert mismatch.value.sub_status == 1001
    result = bench.batch([op("create", doc("a")), op("create", {"id": "b", "pk": "other"})])
    assert [(found.status, found.sub_status) for found in result.results] == [(424, 0), (400, 1001)]
    assert not bench.container.partitions


def test_an_item_of_two_megabytes_is_the_limit() -> None:
    bench = Bench()
    frame = len(bench.create("frame", data="").body or b"")
    assert bench.create("whole", data="x" * (ITEM_BYTES_MAX - frame)).status == 201
    with refused(413):
        bench.create("wider", data="x" * (ITEM_BYTES_MAX - frame + 1))


def test_numbers_are_doubles() -> None:
    bench = Bench()
    text = (
        b'{"id":"a","pk":"orders|1","big":9007199254740993,"one":1.0,"huge":1e300,"half":0.5,"neg":-9007199254740993}'
    )
    bench.engine.execute(bench.container, (BROOK,), Operation("create", None, text))
    stored = bench.read("a")
    assert stored["big"] == 9007199254740992
    assert stored["neg"] == -9007199254740992
    assert (stored["one"], type(stored["one"])) == (1, int)
    assert stored["huge"] == 1e300
    for number in (b"1e999", b"-1e999", b"1" * 400):
        with refused(400):
            bench.engine.execute(
                bench.container, (BROOK,), Operation("create", None, b'{"id":"b","pk":"orders|1","n":' + number + b"}")
            )


@settings(deadline=None)
@given(st.integers())
def test_integers_round_like_the_nearest_double(number: int) -> None:
    try:
        expected = float(number)
    except OverflowError:
        with refused(400):
            decode(b"%d" % number)
        return
    assert float(decode(b"%d" % number)) == expected


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'"a"', b"nul", b'{"id":"a",}', b'{"id":NaN}', b"\xff\xfe", b"{'id':1}"]
)
def test_a_body_that_is_no_json_object_is_400(text: bytes) -> None:
    bench = Bench()
    with refused(400):
        bench.engine.execute(bench.container, (BROOK,), Operation("create", None, text))


def test_nesting_is_limited_to_128_levels_and_brackets_in_strings_do_not_count() -> None:
    bench = Bench()
    assert bench.create("text", data="[" * 500).status == 201
    nested: Any = 1
    for _ in range(127):
        nested = [nested]
    assert bench.create("deep", data=nested).status == 201
    with refused(400, match="nested deeper"):
        bench.create("deeper", data=[nested])


def test_system_properties_in_a_document_are_the_services_own() -> None:
    bench = Bench()
    bench.do("create", doc("a", _etag="mine", _ts=1, _rid="mine", _lsn=9))
    stored = bench.read("a")
    assert stored["_etag"] != "mine"
    assert stored["_ts"] == 1_700_000_000
    assert "_lsn" not in stored


# --- batches ---


def test_a_batch_sees_its_own_changes_in_order() -> None:
    bench = Bench()
    result = bench.batch(
        [
            op("create", doc("a", n=1)),
            op("patch", {"operations": [{"op": "incr", "path": "/n", "value": 2}]}, id="a"),
            op("read", id="a"),
            op("delete", id="a"),
            op("create", doc("a", n=9)),
        ]
    )
    assert [found.status for found in result.results] == [201, 200, 200, 204, 201]
    assert msgspec.json.decode(result.results[2].body or b"")["n"] == 3
    assert bench.read("a")["n"] == 9


def test_what_a_batch_deletes_and_creates_anew_goes_to_the_end_of_a_scan() -> None:
    bench = Bench()
    bench.query("SELECT * FROM c")
    bench.batch([op("create", doc("a")), op("create", doc("b")), op("delete", id="a"), op("create", doc("a"))])
    bench.batch([op("create", doc("c")), op("create", doc("d")), op("replace", doc("c"), id="c")])
    for _ in range(2):
        assert bench.query("SELECT VALUE c.id FROM c", page_items=1) == ["b", "a", "c", "d"]


def test_a_failed_batch_leaves_no_trace_not_even_a_log_sequence_number() -> None:
    bench = Bench()
    bench.create("kept", n=1)
    before = bench.container.ranges[0].lsn
    result = bench.batch(
        [op("replace", doc("kept", n=2), id="kept"), op("create", doc("new")), op("delete", id="missing")]
    )
    assert result.status == 207
    assert [found.status for found in result.results] == [424, 424, 404]
    assert bench.container.ranges[0].lsn == before
    assert bench.read("kept")["n"] == 1


def test_all_writes_of_a_batch_share_one_log_sequence_number() -> None:
    bench = Bench()
    bench.batch([op("create", doc(str(index))) for index in range(100)])
    assert bench.container.ranges[0].lsn == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[]", "no operations"),
        (b"[" + b",".join([b'{"operationType":"Read","id":"a"}'] * 101) + b"]", "more operations"),
        (b"{}", "malformed"),
        (b"[1]", "malformed"),
        (b'[{"id":"a"}]', "malformed"),
        (b'[{"operationType":"Execute","id":"a"}]', "not valid in a batch"),
        (b"[{", "not valid JSON"),
        (b'[{"operationType":"Create","resourceBody":' + b"[" * 100_000, "nested deeper"),
    ],
)
def test_a_malformed_batch_is_400(text: bytes, says: str) -> None:
    with refused(400, match=says):
        parse_batch(text)


def test_a_batch_needs_the_whole_key() -> None:
    bench = Bench(partition_key={"paths": ["/a", "/b"], "kind": "MultiHash", "version": 2})
    with refused(400):
        bench.batch([op("read", id="a")], pk="only-one-level")


def test_log_sequence_numbers_go_on_past_2_to_the_53() -> None:
    bench = Bench()
    bench.container.ranges[0].lsn = 2**60
    bench.create("a")
    assert bench.container.ranges[0].session_token() == f"0:-1#{2**60 + 1}"


# --- unique keys ---


def unique_bench() -> Bench:
    return Bench(uniqueKeyPolicy={"uniqueKeys": [{"paths": ["/eventId"]}, {"paths": ["/a", "/b"]}]})


def test_a_unique_key_is_unique_within_its_logical_partition() -> None:
    bench = unique_bench()
    bench.create("1", eventId="e", a=1, b=1)
    with refused(409, match="Unique"):
        bench.create("2", eventId="e", a=2)
    with refused(409, match="Unique"):
        bench.create("2", eventId="f", a=1, b=1)
    assert bench.create("2", pk="other", eventId="e", a=1, b=1).status == 201
    assert bench.create("3", eventId="f", a=1, b=2).status == 201


def test_a_missing_unique_value_counts_as_one_value() -> None:
    bench = unique_bench()
    bench.create("1", a=1)
    with refused(409):
        bench.create("2", a=2)


def test_unique_keys_are_released_by_deletes_replaces_and_within_batches() -> None:
    bench = unique_bench()
    bench.create("1", eventId="e", a=1)
    bench.do("replace", doc("1", eventId="f", a=1), id="1")
    bench.create("2", eventId="e", a=2)
    bench.do("delete", id="2")
    result = bench.batch(
        [
            op("delete", id="1"),
            op("create", doc("3", eventId="f", a=3)),
            op("create", doc("1", eventId="e", a=4)),
            op("replace", doc("1", eventId="g", a=4), id="1"),
        ]
    )
    assert result.status == 200
    with refused(409):
        bench.create("4", eventId="f", a=5)
    assert bench.create("5", eventId="e", a=6).status == 201


def test_a_unique_key_taken_earlier_in_the_same_batch_is_a_conflict() -> None:
    bench = unique_bench()
    result = bench.batch([op("create", doc("1", eventId="e", a=1)), op("create", doc("2", eventId="e", a=2))])
    assert [found.status for found in result.results] == [424, 409]


# --- time to live ---


def test_an_expired_item_is_gone_for_reads_queries_and_creates() -> None:
    bench = Bench(defaultTtl=10)
    bench.create("a", ttl=5)
    bench.create("b")
    bench.create("c", ttl=-1)
    bench.clock.jump_s(5)
    with refused(404):
        bench.read("a")
    assert [row["id"] for row in bench.query("SELECT * FROM c")] == ["b", "c"]
    assert bench.create("a").status == 201
    bench.clock.jump_s(60)
    assert bench.query("SELECT VALUE c.id FROM c ORDER BY c.id") == ["c"]


def test_expired_items_give_their_memory_back() -> None:
    bench = Bench(defaultTtl=10)
    for number in range(50):
        bench.create(str(number), pk=f"brook|{number}")
    bench.clock.jump_s(30)
    with refused(404):
        bench.read("0")
    assert not bench.container.partitions
    assert not bench.container.ranges[0].order


def test_ttl_of_items_counts_only_where_the_container_has_one() -> None:
    bench = Bench()
    bench.create("a", ttl=1)
    bench.clock.jump_s(100)
    assert bench.read("a")["ttl"] == 1
    on = Bench(defaultTtl=-1)
    on.create("a", ttl=1)
    on.create("b")
    on.clock.jump_s(100)
    assert [row["id"] for row in on.query("SELECT * FROM c")] == ["b"]


@pytest.mark.parametrize("ttl", [0, -2, 2**31, "5", 1.5, True, None])
def test_an_invalid_ttl_is_400(ttl: Any) -> None:
    with refused(400, match="invalid"):
        Bench(defaultTtl=-1).create("a", ttl=ttl)
    if ttl is not None:
        with refused(400, match="invalid"):
            Bench(defaultTtl=ttl)


def test_a_write_starts_the_time_to_live_anew() -> None:
    bench = Bench(defaultTtl=10)
    bench.create("a")
    bench.clock.jump_s(8)
    bench.do("replace", doc("a"), id="a")
    bench.clock.jump_s(8)
    assert bench.read("a")["id"] == "a"


# --- patch ---


def patched(document: dict[str, Any], *operations: dict[str, Any], condition: str | None = None) -> dict[str, Any]:
    bench = Bench()
    bench.do("create", doc("a", **document))
    request: dict[str, Any] = {"operations": list(operations)}
    if condition is not None:
        request["condition"] = condition
    bench.do("patch", request, id="a")
    stored = bench.read("a")
    return {name: value for name, value in stored.items() if name not in ("id", "pk") and not name.startswith("_")}


@pytest.mark.parametrize(
    ("before", "operation", "after"),
    [
        ({}, {"op": "add", "path": "/x", "value": 1}, {"x": 1}),
        ({"x": 1}, {"op": "add", "path": "/x", "value": 2}, {"x": 2}),
        ({"x": [1, 3]}, {"op": "add", "path": "/x/1", "value": 2}, {"x": [1, 2, 3]}),
        ({"x": [1]}, {"op": "add", "path": "/x/-", "value": 2}, {"x": [1, 2]}),
        ({"x": [1, 3]}, {"op": "set", "path": "/x/1", "value": 2}, {"x": [1, 2]}),
        ({"x": {"y": 1}}, {"op": "set", "path": "/x/z", "value": 2}, {"x": {"y": 1, "z": 2}}),
        ({"x": 1}, {"op": "replace", "path": "/x", "value": None}, {"x": None}),
        ({"x": 1, "y": 2}, {"op": "remove", "path": "/x"}, {"y": 2}),
        ({"x": [1, 2, 3]}, {"op": "remove", "path": "/x/1"}, {"x": [1, 3]}),
        ({"x": 1}, {"op": "incr", "path": "/x", "value": -3}, {"x": -2}),
        ({}, {"op": "incr", "path": "/x", "value": 3}, {"x": 3}),
        ({"x": 1}, {"op": "move", "from": "/x", "path": "/y"}, {"y": 1}),
        ({"a/b": 1}, {"op": "set", "path": "/a~1b", "value": 2}, {"a/b": 2}),
    ],
)
def test_patch_operations(before: dict[str, Any], operation: dict[str, Any], after: dict[str, Any]) -> None:
    assert patched(before, operation) == after


@pytest.mark.parametrize(
    "operations",
    [
        [],
        [{"op": "set", "path": "/x", "value": 1}] * 11,
        [{"op": "set", "path": "x", "value": 1}],
        [{"op": "set", "path": "/x"}],
        [{"op": "test", "path": "/x", "value": 1}],
        [{"op": "replace", "path": "/missing", "value": 1}],
        [{"op": "remove", "path": "/missing"}],
        [{"op": "incr", "path": "/text", "value": 1}],
        [{"op": "incr", "path": "/n", "value": "1"}],
        [{"op": "incr", "path": "/most", "value": 1.5e308}],
        [{"op": "set", "path": "/n/deeper", "value": 1}],
        [{"op": "set", "path": "/list/9", "value": 1}],
        [{"op": "set", "path": "/missing/deeper", "value": 1}],
        [{"op": "set", "path": "/id", "value": "b"}],
        [{"op": "set", "path": "/_ts", "value": 1}],
        [{"op": "set", "path": "/pk", "value": "other"}],
        [{"op": "move", "from": "/list", "path": "/list/0"}],
        [5],
    ],
)
def test_a_patch_that_does_not_fit_is_400_and_changes_nothing(operations: list[Any]) -> None:
    bench = Bench()
    bench.create("a", n=1, text="t", list=[1], most=1.5e308)
    before = bench.read("a")
    with refused(400):
        bench.do("patch", {"operations": operations}, id="a")
    assert bench.read("a") == before


def test_a_patch_condition_decides() -> None:
    increment = {"op": "incr", "path": "/n", "value": 1}
    assert patched({"n": 1}, increment, condition="from c where c.n = 1") == {"n": 2}
    with refused(412):
        patched({"n": 1}, increment, condition="from c where c.n = 2")
    with refused(412):
        patched({"n": 1}, increment, condition="FROM x WHERE x.missing > 2")
    with refused(400):
        patched({"n": 1}, increment, condition="where c.n =")
