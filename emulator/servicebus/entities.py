"""What a Service Bus namespace is made of: queues, topics, subscriptions, rules, as frozen values.

Every struct refuses at construction what Azure refuses, with a sentence that says what to change.
"""

import re
from collections.abc import Iterable

import msgspec

LOCK_DURATION_MAX_S = 300.0
MAX_DELIVERY_COUNT_MAX = 2_000
DUPLICATE_WINDOW_MIN_S = 20.0
DUPLICATE_WINDOW_MAX_S = 7 * 86_400.0
ENTITY_BYTES_MAX_DEFAULT = 1_024 * 1_048_576
"""1,024 megabytes: https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas."""
ENTITY_NAME_MAX = 260
SUBSCRIPTION_NAME_MAX = 50

_ENTITY_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._\-/]*[A-Za-z0-9])?")
_SUBSCRIPTION_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._\-]*[A-Za-z0-9])?")
_RULE_NAME = re.compile(r"[A-Za-z0-9$](?:[A-Za-z0-9._\-$]*[A-Za-z0-9])?")


def _check_name(kind: str, name: str, pattern: re.Pattern[str], length_max: int) -> None:
    if not pattern.fullmatch(name) or len(name) > length_max:
        raise ValueError(
            f"{name!r} cannot name a {kind}; use at most {length_max} letters, digits, '.', '-' or '_', and begin"
            " and end with a letter or digit"
        )


def _check_unique(kind: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise ValueError(f"the {kind} name {name!r} is used twice (case does not count); rename one of them")
        seen.add(name.casefold())


def _check_receiving(lock_duration_s: float, max_delivery_count: int) -> None:
    if not 0 < lock_duration_s <= LOCK_DURATION_MAX_S:
        raise ValueError(
            f"a lock duration of {lock_duration_s:g} s is out of range; choose more than 0 and at most"
            f" {LOCK_DURATION_MAX_S:g} s (PT5M)"
        )
    if not 1 <= max_delivery_count <= MAX_DELIVERY_COUNT_MAX:
        raise ValueError(
            f"a max delivery count of {max_delivery_count} is out of range; choose 1 to {MAX_DELIVERY_COUNT_MAX}"
        )


def _check_sending(
    default_message_ttl_s: float | None, duplicate_detection_window_s: float = DUPLICATE_WINDOW_MIN_S
) -> None:
    if default_message_ttl_s is not None and default_message_ttl_s <= 0:
        raise ValueError(
            f"a message time to live of {default_message_ttl_s:g} s is out of range; choose more than 0, or leave"
            " it out for messages that never expire"
        )
    if not DUPLICATE_WINDOW_MIN_S <= duplicate_detection_window_s <= DUPLICATE_WINDOW_MAX_S:
        raise ValueError(
            f"a duplicate detection window of {duplicate_detection_window_s:g} s is out of range; choose at least"
            f" {DUPLICATE_WINDOW_MIN_S:g} s (PT20S) and at most 7 days (P7D)"
        )


def _check_size(max_size_bytes: int) -> None:
    if max_size_bytes < 1:
        raise ValueError(f"a maximum size of {max_size_bytes} bytes is out of range; choose at least 1")


class TrueFilter(msgspec.Struct, frozen=True, tag="true"):
    """Takes every message."""


class FalseFilter(msgspec.Struct, frozen=True, tag="false"):
    """Takes no message."""


class SqlFilter(msgspec.Struct, frozen=True, tag="sql"):
    """Takes messages for which a Service Bus SQL condition is true; see docs/emulator-servicebus.md."""

    expression: str


class CorrelationFilter(msgspec.Struct, frozen=True, kw_only=True, tag="correlation"):
    """Takes messages that equal every field given here; `properties` are application properties."""

    content_type: str | None = None
    correlation_id: str | None = None
    subject: str | None = None
    message_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    session_id: str | None = None
    to: str | None = None
    properties: dict[str, str | int | float | bool] = {}

    def __post_init__(self) -> None:
        """Refuse a filter that names nothing."""
        if not self.properties and all(value is None for value in self.system().values()):
            raise ValueError("a correlation filter must name at least one property; add one, or use a true filter")

    def system(self) -> dict[str, str | None]:
        """The fields of the message itself, by this struct's names."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if name != "properties"}


Filter = TrueFilter | FalseFilter | SqlFilter | CorrelationFilter


class RuleConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of a subscription. A message goes to the subscription when any of its rules takes it."""

    name: str = "$Default"
    filter: Filter = TrueFilter()

    def __post_init__(self) -> None:
        """Refuse a name that Azure refuses."""
        _check_name("rule", self.name, _RULE_NAME, SUBSCRIPTION_NAME_MAX)


class ReceivingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue and a subscription have in common.

    `default_message_ttl_s` None means that messages never expire.
    """

    name: str
    requires_session: bool = False
    lock_duration_s: float = 60.0
    max_delivery_count: int = 10
    default_message_ttl_s: float | None = None
    dead_lettering_on_message_expiration: bool = False


class QueueConfig(ReceivingConfig, frozen=True, kw_only=True):
    """One queue. It takes messages as long as it holds less than `max_size_bytes`, dead letters included."""

    requires_duplicate_detection: bool = False
    duplicate_detection_window_s: float = 600.0
    max_size_bytes: int = ENTITY_BYTES_MAX_DEFAULT

    def __post_init__(self) -> None:
        """Refuse what Azure refuses."""
        _check_name("queue", self.name, _ENTITY_NAME, ENTITY_NAME_MAX)
        _check_size(self.max_size_bytes)
        _check_receiving(self.lock_duration_s, self.max_delivery_count)
        _check_sending(self.default_message_ttl_s, self.duplicate_detection_window_s)


class SubscriptionConfig(ReceivingConfig, frozen=True, kw_only=True):
    """One subscription of a topic: a queue that is filled through its rules."""

    rules: tuple[RuleConfig, ...] = (RuleConfig(),)

    def __post_init__(self) -> None:
        """Refuse what Azure refuses."""
        _check_name("subscription", self.name, _SUBSCRIPTION_NAME, SUBSCRIPTION_NAME_MAX)
        _check_receiving(self.lock_duration_s, self.max_delivery_count)
        _check_sending(self.default_message_ttl_s)
        _check_unique("rule", (rule.name for rule in self.rules))


class TopicConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One topic. Its time to live bounds that of its subscriptions, and `max_size_bytes` all of them together."""

    name: str
    default_message_ttl_s: float | None = None
    requires_duplicate_detection: bool = False
    duplicate_detection_window_s: float = 600.0
    max_size_bytes: int = ENTITY_BYTES_MAX_DEFAULT
    subscriptions: tuple[SubscriptionConfig, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what Azure refuses."""
        _check_name("topic", self.name, _ENTITY_NAME, ENTITY_NAME_MAX)
        _check_size(self.max_size_bytes)
        _check_sending(self.default_message_ttl_s, self.duplicate_detection_window_s)
        _check_unique("subscription", (subscription.name for subscription in self.subscriptions))


class ServiceBusConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All entities of the one namespace. Queues and topics share one set of names, whatever their case."""

    namespace: str = "sbemulatorns"
    queues: tuple[QueueConfig, ...] = ()
    topics: tuple[TopicConfig, ...] = ()

    def __post_init__(self) -> None:
        """Refuse two entities of one name."""
        _check_unique("entity", [*(queue.name for queue in self.queues), *(topic.name for topic in self.topics)])
