"""Indexing policies: which paths a container indexes, as far as queries are refused or charged by it.

Rules: https://learn.microsoft.com/azure/cosmos-db/index-policy. The most precise path wins, `/id` and `/_ts` are
always indexed, and ORDER BY is served from an index or not at all.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from emulator.cosmos.errors import bad_request

Steps = tuple[str, ...]

DEFAULT_POLICY: Final[dict[str, Any]] = {
    "indexingMode": "consistent",
    "automatic": True,
    "includedPaths": [{"path": "/*"}],
    "excludedPaths": [{"path": '/"_etag"/?'}],
}

_ALWAYS: Final = frozenset({("id",), ("_ts",)})
_STEP = re.compile(r'/(?:"([^"]*)"|([^/]*))')


class IndexingPolicy(msgspec.Struct, frozen=True):
    """`rules` are (steps, whether it ends in `*`, whether it includes), most precise first."""

    rules: tuple[tuple[Steps, bool, bool], ...]
    composites: tuple[tuple[tuple[Steps, bool], ...], ...]
    """Each composite index as its (path, descending) in order."""
    everything: bool
    named: frozenset[str]
    """Top-level properties that are indexed, or have something indexed inside, where not everything is."""

    def indexes(self, path: Steps) -> bool:
        """Whether the value at a path is indexed. Array elements are the step `[]`."""
        if path in _ALWAYS:
            return True
        for steps, wildcard, included in self.rules:
            if path == steps or (wildcard and path[: len(steps)] == steps):
                return included
        return False

    def serves(self, order: tuple[tuple[Steps, bool], ...]) -> bool:
        """Whether ORDER BY these (path, descending) can be served: one indexed path, or a composite index."""
        if len(order) == 1:
            return self.indexes(order[0][0])
        flipped = tuple((path, not descending) for path, descending in order)
        return order in self.composites or flipped in self.composites

    def count(self, document: Mapping[str, Any], encoded: bytes) -> int:
        """About how many properties of a document are indexed: what its writes are charged for."""
        if self.everything:
            return encoded.count(b'":')
        return sum(name in document for name in self.named)


def _steps(text: Any) -> tuple[Steps, bool]:
    """A policy path as its steps and whether it ends in `*`."""
    if type(text) is not str or not text.startswith("/"):
        raise bad_request("The indexing policy holds a path that does not begin with '/'.")
    if text == "/":
        return (), True  # as older clients write the root
    steps = [quoted or plain for quoted, plain in _STEP.findall(text)]
    if steps[-1] not in ("*", "?"):
        raise bad_request(f"The indexing path '{text}' must end in '/*' or '/?'.")
    return tuple(steps[:-1]), steps[-1] == "*"


def _composite(raw: Any) -> tuple[tuple[Steps, bool], ...]:
    if type(raw) is not list or len(raw) < 2:  # noqa: PLR2004 - a composite of one path is none
        raise bad_request("A composite index has at least two paths.")
    members = []
    for member in raw:
        path = member.get("path") if type(member) is dict else None
        if type(path) is not str or not path.startswith("/"):
            raise bad_request("A composite index names its paths as '/a/b'.")
        order = str(member.get("order", "ascending")).lower()
        members.append((tuple(quoted or plain for quoted, plain in _STEP.findall(path)), order == "descending"))
    return tuple(members)


def parse_policy(raw: Mapping[str, Any]) -> IndexingPolicy:
    """The policy of a container.

    Raises:
        CosmosError: 400 for a mode or a path that the service would refuse.
    """
    mode = str(raw.get("indexingMode", "consistent")).lower()
    if mode not in ("consistent", "lazy", "none"):
        raise bad_request(f"The indexing mode '{mode}' is not valid.")
    rules = []
    for member, included in (("includedPaths", True), ("excludedPaths", False)):
        paths = raw.get(member) or []
        if type(paths) is not list or not all(type(entry) is dict for entry in paths):
            raise bad_request(f"'{member}' of the indexing policy must be a list of objects.")
        rules += [(*_steps(entry.get("path")), included) for entry in paths]
    root_named = any(not steps and wildcard for steps, wildcard, _ in rules)
    if mode == "none":
        rules = [((), True, False)]
    elif not rules:
        rules = [((), True, True)]
    elif not root_named:
        raise bad_request("The special mandatory indexing path '/' is not provided in any of the path type sets.")
    rules.sort(key=lambda rule: (-len(rule[0]), rule[1]))
    composites = raw.get("compositeIndexes") or []
    if type(composites) is not list:
        raise bad_request("'compositeIndexes' of the indexing policy must be a list.")
    everything = any(not steps and wildcard and included for steps, wildcard, included in rules)
    named = frozenset({"id", "_ts"} | {steps[0] for steps, _, included in rules if included and steps})
    return IndexingPolicy(tuple(rules), tuple(_composite(entry) for entry in composites), everything, named)


def completed(raw: Mapping[str, Any] | None) -> dict[str, Any]:
    """A container's policy as the service answers it: with everything that was left out."""
    if raw is None:
        return dict(DEFAULT_POLICY)
    policy: dict[str, Any] = {"indexingMode": "consistent", "automatic": True, **raw}
    if policy["indexingMode"] == "none":
        policy["automatic"] = False
        return policy
    excluded = list(policy.get("excludedPaths") or [])
    nothing_else = {"path": "/*"} in excluded
    policy.setdefault("includedPaths", [] if nothing_else else [{"path": "/*"}])
    if not any(entry == {"path": '/"_etag"/?'} for entry in excluded):
        excluded.append({"path": '/"_etag"/?'})
    policy["excludedPaths"] = excluded
    return policy
