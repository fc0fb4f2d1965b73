"""The entities of the embedded Service Bus: made in Python, or read from the official `Config.json`.

`load_config(path)` reads the file of `mcr.microsoft.com/azure-messaging/servicebus-emulator`; a test writes
`ServiceBusConfig(queues=(QueueConfig(name="commands", requires_session=True),))`. Both ways give the same
frozen structs (`emulator.servicebus.entities`) and both refuse the same nonsense.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypedDict, TypeVar

import msgspec

from emulator.config_file import (
    File,
    FileForwarding,
    FileNamespace,
    FileQueue,
    FileRule,
    FileRuleProperties,
    FileSubscription,
    FileTopic,
    explain,
)
from emulator.servicebus.engine.filters import compile_filter
from emulator.servicebus.entities import (
    CorrelationFilter,
    FalseFilter,
    Filter,
    QueueConfig,
    RuleConfig,
    ServiceBusConfig,
    SqlFilter,
    SubscriptionConfig,
    TopicConfig,
    TrueFilter,
)

__all__ = [
    "ConfigError",
    "CorrelationFilter",
    "FalseFilter",
    "Filter",
    "QueueConfig",
    "RuleConfig",
    "ServiceBusConfig",
    "SqlFilter",
    "SubscriptionConfig",
    "TopicConfig",
    "TrueFilter",
    "load_config",
    "parse_config",
]


# What the official format writes for "for ever": the largest .NET TimeSpan.
_FOREVER_S = timedelta(days=10_675_199).total_seconds()


class ConfigError(ValueError):
    """A config file that cannot be used: file, path in the file, what is wrong, what to change."""


def load_config(path: Path) -> ServiceBusConfig:
    """Read a file in the official emulator's format.

    Raises:
        ConfigError: the file is missing, is no JSON, or says something that this emulator cannot do. Nothing
            that would change what a message meets is ignored: forwarding and rule actions must be empty.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the path of a Config.json that can be read") from error
    return parse_config(raw, source=str(path))


def parse_config(raw: bytes, *, source: str = "Config.json") -> ServiceBusConfig:
    """As `load_config`, from bytes; `source` is the name that errors give to the file."""
    try:
        file = msgspec.json.decode(raw, type=File)
    except msgspec.ValidationError as error:
        raise ConfigError(explain(source, str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: $: {error}; write valid JSON") from error
    namespaces = file.user_config.namespaces
    if len(namespaces) != 1:
        raise ConfigError(
            f"{source}: $.UserConfig.Namespaces: there are {len(namespaces)}, but the emulator serves exactly"
            " one; put all entities under one namespace"
        )
    return _Converter(source).namespace(namespaces[0])


_Made = TypeVar("_Made")


class _Converter:
    """Makes the public structs and says where in the file a refused one stands."""

    def __init__(self, source: str) -> None:
        self._source = source

    def namespace(self, namespace: FileNamespace) -> ServiceBusConfig:
        at = "$.UserConfig.Namespaces[0]"
        queues = tuple(self._queue(queue, f"{at}.Queues[{i}]") for i, queue in enumerate(namespace.queues))
        topics = tuple(self._topic(topic, f"{at}.Topics[{i}]") for i, topic in enumerate(namespace.topics))
        return self._make(at, lambda: ServiceBusConfig(namespace=namespace.name, queues=queues, topics=topics))

    def _make(self, at: str, build: Callable[[], _Made]) -> _Made:
        try:
            return build()
        except ValueError as error:
            raise ConfigError(f"{self._source}: {at}: {error}") from error

    def _queue(self, queue: FileQueue, at: str) -> QueueConfig:
        properties = queue.properties
        self._refuse_forwarding(properties, f"{at}.Properties")
        return self._make(
            at,
            lambda: QueueConfig(
                name=queue.name,
                **_receiving(properties),
                requires_duplicate_detection=properties.requires_duplicate_detection,
                duplicate_detection_window_s=(properties.duplicate_detection_history_time_window.total_seconds()),
            ),
        )

    def _topic(self, topic: FileTopic, at: str) -> TopicConfig:
        properties = topic.properties
        subscriptions = tuple(
            self._subscription(subscription, f"{at}.Subscriptions[{i}]")
            for i, subscription in enumerate(topic.subscriptions)
        )
        return self._make(
            at,
            lambda: TopicConfig(
                name=topic.name,
                default_message_ttl_s=_ttl_s(properties.default_message_time_to_live),
                requires_duplicate_detection=properties.requires_duplicate_detection,
                duplicate_detection_window_s=(properties.duplicate_detection_history_time_window.total_seconds()),
                subscriptions=subscriptions,
            ),
        )

    def _subscription(self, subscription: FileSubscription, at: str) -> SubscriptionConfig:
        properties = subscription.properties
        self._refuse_forwarding(properties, f"{at}.Properties")
        rules = tuple(self._rule(rule, f"{at}.Rules[{i}]") for i, rule in enumerate(subscription.rules))
        return self._make(
            at,
            lambda: SubscriptionConfig(
                name=subscription.name,
                **_receiving(properties),
                rules=rules or (RuleConfig(),),
            ),
        )

    def _rule(self, rule: FileRule, at: str) -> RuleConfig:
        if rule.properties.action is not None and rule.properties.action.sql_expression.strip():
            raise ConfigError(
                f"{self._source}: {at}.Properties.Action: rule actions are not carried out here; leave it out and"
                " let the sender set the property"
            )
        made = self._make(f"{at}.Properties", lambda: _checked(rule.properties))
        return self._make(at, lambda: RuleConfig(name=rule.name, filter=made))

    def _refuse_forwarding(self, properties: FileForwarding, at: str) -> None:
        for key, value in (
            ("ForwardTo", properties.forward_to),
            ("ForwardDeadLetteredMessagesTo", properties.forward_dead_lettered_messages_to),
        ):
            if value:
                raise ConfigError(
                    f"{self._source}: {at}.{key}: messages are not forwarded here; leave it empty and receive"
                    " from the entity itself"
                )


class _Receiving(TypedDict):
    """The fields of ReceivingConfig but for the name."""

    requires_session: bool
    lock_duration_s: float
    max_delivery_count: int
    default_message_ttl_s: float | None
    dead_lettering_on_message_expiration: bool


def _receiving(properties: FileForwarding) -> _Receiving:
    return _Receiving(
        requires_session=properties.requires_session,
        lock_duration_s=properties.lock_duration.total_seconds(),
        max_delivery_count=properties.max_delivery_count,
        default_message_ttl_s=_ttl_s(properties.default_message_time_to_live),
        dead_lettering_on_message_expiration=properties.dead_lettering_on_message_expiration,
    )


def _checked(properties: FileRuleProperties) -> Filter:
    """The filter, once it is known that its condition can be understood."""
    made = _filter(properties)
    compile_filter(made)
    return made


def _filter(properties: FileRuleProperties) -> Filter:
    match properties.filter_type.casefold():
        case "correlation" if (given := properties.correlation_filter) is not None:
            return CorrelationFilter(
                content_type=given.content_type,
                correlation_id=given.correlation_id,
                subject=given.label,
                message_id=given.message_id,
                reply_to=given.reply_to,
                reply_to_session_id=given.reply_to_session_id,
                session_id=given.session_id,
                to=given.to,
                properties=given.properties,
            )
        case "sql" if properties.sql_filter is not None:
            return SqlFilter(properties.sql_filter.sql_expression)
        case "true" | "truefilter":
            return TrueFilter()
        case "false" | "falsefilter":
            return FalseFilter()
        case _:
            pass
    raise ValueError(
        f"FilterType is {properties.filter_type!r} without its filter; write Sql with SqlFilter, Correlation"
        " with CorrelationFilter, True or False"
    )


def _ttl_s(duration: timedelta | None) -> float | None:
    """Seconds, or None where the file says "for ever" as the official format does."""
    if duration is None or duration.total_seconds() >= _FOREVER_S:
        return None
    return duration.total_seconds()
