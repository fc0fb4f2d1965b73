"""Partition keys: what the emulator computes is what the clients compute."""

from itertools import pairwise
from typing import Any

import pytest
from azure.cosmos.partition_key import PartitionKey, _Undefined
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.cosmos.epk import effective_partition_key, split_ranges
from emulator.cosmos.errors import CosmosError
from emulator.cosmos.partitionkey import fact, parse_definition, parse_header, to_component, to_json

VALUES = st.one_of(
    st.text(max_size=120),
    st.booleans(),
    st.none(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0),  # never -0.0
)


def sdk_key(values: list[Any], **definition: Any) -> str:
    computed = PartitionKey(**definition)._get_effective_partition_key_string(values)
    assert isinstance(computed, str)
    return computed


@settings(deadline=None)
@given(VALUES)
def test_version_2_keys_are_those_of_the_client(value: Any) -> None:
    assert effective_partition_key((to_component(value),), "Hash", 2) == sdk_key([value], path="/a")


@settings(deadline=None)
@given(VALUES.filter(lambda value: value is not None))
def test_version_1_keys_are_those_of_the_client(value: Any) -> None:
    # The client leaves the type of null out of a version-1 key; the other clients do not.
    as_client = float(value) if type(value) is int else value
    assert (
        effective_partition_key((to_component(value),), "Hash", 1) == sdk_key([as_client], path="/a", version=1).upper()
    )  # the service writes capitals, and the client compares as if they were


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=3))
def test_hierarchical_keys_are_those_of_the_client(values: list[Any]) -> None:
    key = tuple(to_component(value) for value in values)
    assert effective_partition_key(key, "MultiHash", 2) == sdk_key(values, path=["/a", "/b", "/c"])


def test_a_missing_value_hashes_as_the_client_hashes_it() -> None:
    assert effective_partition_key(((),), "Hash", 2) == sdk_key([_Undefined()], path="/a")


@pytest.mark.parametrize(("kind", "version"), [("Hash", 1), ("Hash", 2), ("MultiHash", 2)])
def test_ranges_cover_the_key_space_without_gaps_and_share_it_about_evenly(kind: str, version: int) -> None:
    ranges = split_ranges(4, kind, version)
    assert ranges[0][0] == ""
    assert ranges[-1][1] == "FF"
    assert all(one[1] == other[0] for one, other in pairwise(ranges))
    counts = [0] * 4
    for number in range(2000):
        epk = effective_partition_key((f"brook|{number}",), kind, version)
        counts[next(index for index, (low, high) in enumerate(ranges) if low <= epk < high)] += 1
    assert min(counts) > 400


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ('["orders|1"]', "orders|1"),
        ("[1.0]", "[1.0]"),
        ("[true]", "[true]"),
        ("[null]", "[null]"),
        ("[{}]", "[{}]"),
        ('["a","b"]', '["a","b"]'),
    ],
)
def test_header_values_and_the_fact_that_rules_compare(header: str, shown: str) -> None:
    key = parse_header(header)
    assert fact(key) == shown
    assert parse_header(to_json(key)) == key


def test_zero_and_minus_zero_are_one_key() -> None:
    assert str(parse_header("[-0.0]")) == str(parse_header("[0]"))


def test_true_and_one_are_different_keys() -> None:
    assert parse_header("[true]") != parse_header("[1]")
    assert parse_header("[1]") == parse_header("[1.0]")


@pytest.mark.parametrize("header", ["", "orders|1", '"a"', "{}", "[[1]]", '[{"a":1}]', "[1", "[NaN]"])
def test_a_malformed_header_is_a_bad_request(header: str) -> None:
    with pytest.raises(CosmosError) as refused:
        parse_header(header)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "definition",
    [
        None,
        {"paths": [], "kind": "Hash", "version": 2},
        {"paths": ["a"], "kind": "Hash", "version": 2},
        {"paths": ["/a", "/b"], "kind": "Hash", "version": 2},
        {"paths": ["/a", "/a"], "kind": "MultiHash", "version": 2},
        {"paths": ["/a", "/b", "/c", "/d"], "kind": "MultiHash", "version": 2},
        {"paths": ["/a"], "kind": "Range", "version": 2},
        {"paths": ["/a"], "kind": "Hash", "version": 3},
        {"paths": ["/a//b"], "kind": "Hash", "version": 2},
    ],
)
def test_a_malformed_definition_is_a_bad_request(definition: Any) -> None:
    with pytest.raises(CosmosError) as refused:
        parse_definition(definition)
    assert refused.value.status == 400


def test_keys_are_found_at_nested_and_quoted_paths() -> None:
    definition = parse_definition({"paths": ["/a/b", '/"c d"'], "kind": "MultiHash", "version": 2})
    assert definition.extract({"a": {"b": "x"}, "c d": 5}) == ("x", 5.0)
    assert definition.extract({"a": 1}) == ((), ())


def test_a_key_over_2048_bytes_is_refused() -> None:
    definition = parse_definition({"paths": ["/pk"], "kind": "Hash", "version": 2})
    assert definition.extract({"pk": "é" * 1024}) == ("é" * 1024,)
    with pytest.raises(CosmosError, match="longer than 2048 bytes"):
        definition.extract({"pk": "é" * 1025})


def test_an_object_or_array_is_no_key() -> None:
    definition = parse_definition({"paths": ["/pk"], "kind": "Hash", "version": 2})
    with pytest.raises(CosmosError):
        definition.extract({"pk": ["a"]})
