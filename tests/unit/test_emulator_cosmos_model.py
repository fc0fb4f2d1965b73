"""Random batches against a model that is too simple to be wrong: a dict, copied before each batch."""

from copy import deepcopy
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.cosmos.transaction import Operation
from tests.support.cosmos import BROOK, EVERYWHERE, Bench, encoded

IDS = st.sampled_from("abcd")
GUARDS = st.sampled_from([None, None, "current", "stale", "*"])
STEPS = st.tuples(
    st.sampled_from(["create", "replace", "upsert", "delete", "patch", "read"]), IDS, GUARDS, st.integers(0, 3)
)
BATCHES = st.lists(st.lists(STEPS, min_size=1, max_size=6), min_size=1, max_size=8)

STALE = '"00000000-0000-0000-0000-000000000000"'


class Model:
    """What the items would be, and which answers are right. An item is its number and a version."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[int, int]] = {}
        self.versions = 0

    def step(self, kind: str, item_id: str, guard: str | None, n: int) -> int:
        """The status of one operation; the items change where it succeeds."""
        there = item_id in self.items
        if kind == "create":
            return self._put(item_id, n, 409 if there else 201)
        if kind == "upsert" and not there:
            return self._put(item_id, n, 201)
        if not there:
            return 404
        if kind == "read":
            return 200
        if guard == "stale":
            return 412
        if kind == "delete":
            del self.items[item_id]
            return 204
        return self._put(item_id, self.items[item_id][0] + n if kind == "patch" else n, 200)

    def _put(self, item_id: str, n: int, status: int) -> int:
        if status < 400:
            self.versions += 1
            self.items[item_id] = (n, self.versions)
        return status

    def batch(self, steps: list[tuple[str, str, str | None, int]]) -> list[int]:
        before = deepcopy(self.items)
        statuses: list[int] = []
        for step in steps:
            statuses.append(self.step(*step))
            if statuses[-1] >= 400:
                self.items = before
                return [424] * (len(statuses) - 1) + [statuses[-1]] + [424] * (len(steps) - len(statuses))
        return statuses


def operation(kind: str, item_id: str, guard: str | None, n: int, etags: dict[str, str]) -> Operation:
    body: Any = {"id": item_id, "pk": BROOK, "n": n}
    if kind == "patch":
        body = {"operations": [{"op": "incr", "path": "/n", "value": n}]}
    if kind in ("delete", "read"):
        body = None
    named = None if kind in ("create", "upsert") else item_id
    if_match = {"current": etags.get(item_id, "*"), "stale": STALE, "*": "*", None: None}[guard]
    return Operation(kind, named, None if body is None else encoded(body), if_match)


def state(bench: Bench) -> dict[str, Any]:
    return {row["id"]: row for row in bench.query("SELECT * FROM c", place=EVERYWHERE)}


@settings(deadline=None, max_examples=200)
@given(BATCHES)
def test_batches_do_what_a_copied_dict_would_do(batches: list[list[tuple[str, str, str | None, int]]]) -> None:
    bench, model = Bench(), Model()
    seen_etags: set[str] = set()
    for steps in batches:
        before = state(bench)
        etags = {item_id: item["_etag"] for item_id, item in before.items()}
        # A guard on the current version holds for the first write of an item in the batch only.
        touched: set[str] = set()
        guarded = []
        for kind, item_id, guard, n in steps:
            guarded.append((kind, item_id, "stale" if guard == "current" and item_id in touched else guard, n))
            if kind != "read":
                touched.add(item_id)
        result = bench.batch([operation(*step, etags) for step in guarded])
        assert [found.status for found in result.results] == model.batch(guarded)
        after = state(bench)
        assert {item_id: item["n"] for item_id, item in after.items()} == {
            item_id: n for item_id, (n, _) in model.items.items()
        }
        if result.status == 207:
            assert after == before
            continue
        fresh = [
            found.etag for found, step in zip(result.results, guarded, strict=True) if found.etag and step[0] != "read"
        ]
        assert len(set(fresh)) == len(fresh)
        assert not seen_etags & set(fresh)
        seen_etags |= set(fresh)
        for found in result.results:
            if found.body is not None:
                assert msgspec.json.decode(found.body)["_etag"] == found.etag
