"""Injected faults and counted requests: one `Faults` object is shared by the three fronts.

A front calls `Faults.decide` once for every request, before it touches its engine, and then does what the
injection says. The counters are how tests and benchmarks pin the number of calls that were made.
"""

import random
from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec


class Answer(msgspec.Struct, frozen=True, tag="answer", forbid_unknown_fields=True):
    """Answer with `status` and do not touch the engine.

    HTTP services use `status`, `sub_status` (Cosmos) and `retry_after_ms`. Service Bus uses `condition`, an AMQP
    error condition such as `com.microsoft:server-busy`, for the link or the management request.
    """

    status: int = 503
    sub_status: int = 0
    retry_after_ms: int | None = None
    condition: str = "com.microsoft:server-busy"


class DropBefore(msgspec.Struct, frozen=True, tag="drop-before", forbid_unknown_fields=True):
    """Close the connection; the request is not applied."""


class ApplyThenDrop(msgspec.Struct, frozen=True, tag="apply-then-drop", forbid_unknown_fields=True):
    """Apply the request, then close the connection instead of answering."""


class ApplyLate(msgspec.Struct, frozen=True, tag="apply-late", forbid_unknown_fields=True):
    """Close the connection at once and apply the request `delay_s` later, as a request lost in a slow network."""

    delay_s: float


class Truncate(msgspec.Struct, frozen=True, tag="truncate", forbid_unknown_fields=True):
    """Apply the request, announce the whole answer, send half of it and close the connection. HTTP only."""


READS_OF_ITEMS: Final = frozenset({"read-item", "query", "read-feed"})
"""The operations of Cosmos DB that a replica may answer."""


class ReadBehind(msgspec.Struct, frozen=True, tag="read-behind", forbid_unknown_fields=True):
    """Answer as a replica that lacks the last `transactions` of each physical partition. Cosmos DB only.

    Reads of items, by id or by query: what the request's session token tells of is there all the same. Anything else
    is answered normally.
    """

    transactions: int = 1

    def __post_init__(self) -> None:
        """Refuse a replica that is ahead."""
        if self.transactions < 1:
            raise ValueError("transactions must be at least 1")


class NoFault(msgspec.Struct, frozen=True, tag="none", forbid_unknown_fields=True):
    """Answer normally: for rules that only add latency."""


Effect = Answer | DropBefore | ApplyThenDrop | ApplyLate | Truncate | ReadBehind | NoFault


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to inject what.

    `service` is `servicebus`, `cosmos`, `blob` or `*`; `operation` is a name from docs/emulator.md or `*`.
    `where` compares facts of the request for equality (say `{"partition_key": "orders|1"}`). The rule lets the
    first `skip` matching requests pass, then fires at most `times` times (None: always), each time with
    `probability`. `latency_s` is added with a uniform spread of `latency_jitter_s`. Effects of several rules:
    latencies add up, and the first rule with an effect other than `none` wins.
    """

    service: str = "*"
    operation: str = "*"
    where: dict[str, str] = {}
    skip: int = 0
    times: int | None = None
    probability: float = 1.0
    latency_s: float = 0.0
    latency_jitter_s: float = 0.0
    effect: Effect = NoFault()

    def __post_init__(self) -> None:
        """Refuse numbers that could never fire or never end."""
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability must lie between 0 and 1, not {self.probability}")
        if min(self.skip, self.latency_s, self.latency_jitter_s, self.times or 0) < 0:
            raise ValueError("skip, times, latency_s and latency_jitter_s must not be negative")
        if isinstance(self.effect, ReadBehind) and (
            self.service != "cosmos" or self.operation not in {"*", *READS_OF_ITEMS}
        ):
            raise ValueError(
                f"read-behind is for the service cosmos and its operations {', '.join(sorted(READS_OF_ITEMS))} or *:"
                " name these"
            )


class Injection(msgspec.Struct, frozen=True):
    """What a front does with one request: wait `delay_s`, then carry out `effect`."""

    delay_s: float
    effect: Effect


class _Installed:
    """A rule with the number of requests that it has seen and acted on."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.seen = 0
        self.fired = 0


_PASS = Injection(0.0, NoFault())


class Faults:
    """Rules and counters. With the same seed, rules and order of requests it decides the same again.

    Not guaranteed: the same decisions where requests race each other; use `skip` and `times` for exact schedules.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._rules: dict[int, _Installed] = {}
        self._next_id = 1
        self.requests: Counter[tuple[str, str]] = Counter()
        """Requests by (service, operation), those that were refused or dropped included."""

    def add(self, rule: Rule) -> int:
        """Install a rule; returns its id."""
        rule_id = self._next_id
        self._next_id += 1
        self._rules[rule_id] = _Installed(rule)
        return rule_id

    def remove(self, rule_id: int) -> bool:
        """Take a rule away; False where there is none of that id."""
        return self._rules.pop(rule_id, None) is not None

    def clear(self) -> None:
        """Take all rules away. Counters stay."""
        self._rules.clear()

    def fired(self, rule_id: int) -> int:
        """How often the rule has acted; 0 once it is removed."""
        installed = self._rules.get(rule_id)
        return installed.fired if installed else 0

    def rules(self) -> dict[int, Rule]:
        """The installed rules by id."""
        return {rule_id: installed.rule for rule_id, installed in self._rules.items()}

    def decide(self, service: str, operation: str, facts: Mapping[str, str] | None = None) -> Injection:
        """Count the request and say what to do with it."""
        self.requests[service, operation] += 1
        if not self._rules:
            return _PASS
        delay_s = 0.0
        effect: Effect = _PASS.effect
        for installed in self._rules.values():
            rule = installed.rule
            if not self._matches(rule, service, operation, facts or {}):
                continue
            installed.seen += 1
            spent = rule.times is not None and installed.fired >= rule.times
            if installed.seen <= rule.skip or spent or self._random.random() >= rule.probability:
                continue
            if not isinstance(effect, NoFault) and not isinstance(rule.effect, NoFault):
                continue  # an earlier rule decides; this one keeps its count for a request of its own
            installed.fired += 1
            delay_s += rule.latency_s + self._random.random() * rule.latency_jitter_s
            if isinstance(effect, NoFault):
                effect = rule.effect
        return Injection(delay_s, effect)

    @staticmethod
    def _matches(rule: Rule, service: str, operation: str, facts: Mapping[str, str]) -> bool:
        return (
            rule.service in ("*", service)
            and rule.operation in ("*", operation)
            and all(facts.get(name) == value for name, value in rule.where.items())
        )
