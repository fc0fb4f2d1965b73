"""Partition key definitions, and keys out of documents and request headers."""

from functools import lru_cache
from typing import Any, Final

import msgspec

from emulator.cosmos.epk import Component, Key, effective_partition_key
from emulator.cosmos.errors import SUB_PARTITION_KEY_MISMATCH, CosmosError, bad_request
from emulator.cosmos.values import UNDEFINED, at_path, decode, encode, parse_path

LEVELS_MAX: Final = 3
KEY_BYTES_MAX: Final = 2048
KEY_BYTES_MAX_V1: Final = 101


class Definition(msgspec.Struct, frozen=True):
    """`paths` as steps, in the order of the levels of the key."""

    paths: tuple[tuple[str | int, ...], ...]
    kind: str
    version: int

    def epk(self, key: Key) -> str:
        """Where the key lies in the key space."""
        return effective_partition_key(key, self.kind, self.version)

    def extract(self, document: dict[str, Any]) -> Key:
        """The key of a document.

        Raises:
            CosmosError: 400 where a value is an object, an array or too long.
        """
        if len(self.paths) == 1:
            path = self.paths[0]
            value = document.get(str(path[0]), UNDEFINED) if len(path) == 1 else at_path(document, path)
            if type(value) is str and len(value) <= KEY_BYTES_MAX_V1 // 4:
                return (value,)
            return (self._component(value),)
        return tuple(self._component(at_path(document, path)) for path in self.paths)

    def _component(self, value: Any) -> Component:
        component = to_component(value)
        if isinstance(component, str):
            limit = KEY_BYTES_MAX if self.version > 1 else KEY_BYTES_MAX_V1
            if len(component.encode("utf-8", "surrogatepass")) > limit:
                raise bad_request(f"The partition key value is longer than {limit} bytes.")
        return component

    def complete(self, key: Key | None) -> Key:
        """`key`, which a point operation or a batch must name in full.

        Raises:
            CosmosError: 400 where it is missing or has the wrong number of levels.
        """
        if key is None:
            raise bad_request("PartitionKey value must be supplied for this operation.")
        if len(key) != len(self.paths):
            raise bad_request(
                "Partition key provided either doesn't correspond to definition in the collection or doesn't match"
                " partition key field values specified in the document.",
                SUB_PARTITION_KEY_MISMATCH,
            )
        return key


def parse_definition(raw: Any) -> Definition:
    """The definition in a container's properties.

    Raises:
        CosmosError: 400 where the service would refuse it.
    """
    if type(raw) is not dict:
        raise bad_request("The container must define a partition key: 'partitionKey' is missing or no object.")
    kind, version, paths = raw.get("kind", "Hash"), raw.get("version", 1), raw.get("paths")
    if kind not in ("Hash", "MultiHash") or version not in (1, 2) or type(version) is not int:
        raise bad_request("The partition key's kind must be 'Hash' or 'MultiHash' and its version 1 or 2.")
    if type(paths) is not list or not paths or not all(type(path) is str for path in paths):
        raise bad_request("The partition key's 'paths' must be a list of property paths.")
    if kind == "Hash" and len(paths) != 1:
        raise bad_request("A partition key of kind 'Hash' has exactly one path.")
    if kind == "MultiHash" and (version != 2 or not 1 <= len(paths) <= LEVELS_MAX):  # noqa: PLR2004
        raise bad_request(f"A hierarchical partition key has version 2 and one to {LEVELS_MAX} paths.")
    if len(set(paths)) != len(paths):
        raise bad_request("The partition key names a path twice.")
    return Definition(tuple(parse_path(path) for path in paths), kind, version)


def to_component(value: Any) -> Component:
    """One value of a partition key.

    Raises:
        CosmosError: 400 for objects (but the empty one, which means undefined) and arrays.
    """
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is bool:
        return ("bool", bool(value))
    if kind is int or kind is float:
        return float(value) + 0.0  # one key for 0 and -0, which are equal
    if value is None:
        return None
    if value is UNDEFINED or value == {}:
        return ()
    raise bad_request("Partition key values are strings, numbers, booleans or null.", SUB_PARTITION_KEY_MISMATCH)


@lru_cache(maxsize=4096)
def parse_header(text: str) -> Key:
    """The key in an `x-ms-documentdb-partitionkey` header.

    Raises:
        CosmosError: 400 for anything but a JSON array of values.
    """
    try:
        # HTTP header bytes above ASCII reach us as surrogates: clients send JSON escapes or plain UTF-8.
        values = decode(text.encode("utf-8", "surrogateescape"))
    except CosmosError as error:
        raise bad_request(f"The partition key header is not valid JSON: {text[:200]}") from error
    if type(values) is not list:
        raise bad_request("The partition key header must be a JSON array.")
    return tuple(to_component(value) for value in values)


def to_json(key: Key) -> str:
    """The key as the JSON array that a header would carry; one string alone stands for itself in `fact`."""
    members: list[Any] = []
    for component in key:
        if isinstance(component, tuple):
            members.append(component[1] if component else {})
        else:
            members.append(component)
    return encode(members).decode()


def fact(key: Key) -> str:
    """The key as fault rules name it: the bare string of a single string key, else its JSON array."""
    if len(key) == 1 and isinstance(key[0], str):
        return key[0]
    return to_json(key)
