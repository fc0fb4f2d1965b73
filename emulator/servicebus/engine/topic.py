"""A topic: it keeps nothing but scheduled messages, and gives each message to every subscription that wants it."""

from emulator.servicebus.engine.filters import Predicate, compile_filter
from emulator.servicebus.engine.intake import Intake
from emulator.servicebus.engine.message import Message
from emulator.servicebus.engine.outcomes import DeadLetter
from emulator.servicebus.engine.queue import Queue
from emulator.servicebus.engine.work import Context, Work
from emulator.servicebus.entities import RuleConfig, SubscriptionConfig, TopicConfig

_NO_SESSION = DeadLetter(
    "Session id is null.", "Session enabled entity doesn't allow a message whose session identifier is null."
)


class Subscription:
    """A queue that is filled through rules. A message that several rules take arrives once."""

    def __init__(self, config: SubscriptionConfig, queue: Queue) -> None:
        self.config = config
        self.queue = queue
        self._rules: dict[str, tuple[RuleConfig, Predicate]] = {}
        for rule in config.rules:
            self.add_rule(rule)

    def add_rule(self, rule: RuleConfig) -> None:
        """Add or replace a rule. Raises ValueError when its condition cannot be understood."""
        self._rules[rule.name.casefold()] = rule, compile_filter(rule.filter)

    def remove_rule(self, name: str) -> bool:
        """Take a rule away; False where there is none of that name."""
        return self._rules.pop(name.casefold(), None) is not None

    def rules(self) -> list[RuleConfig]:
        """All rules, oldest first."""
        return [rule for rule, _ in self._rules.values()]

    def takes(self, message: Message) -> bool:
        """Whether any rule takes the message."""
        return any(predicate(message) for _, predicate in self._rules.values())


class Topic(Intake):
    """Where producers send for subscriptions."""

    def __init__(self, config: TopicConfig, context: Context) -> None:
        super().__init__(
            config.name,
            context,
            ttl_s=config.default_message_ttl_s,
            duplicate_window_s=config.duplicate_detection_window_s if config.requires_duplicate_detection else None,
        )
        self.config = config
        self.subscriptions: dict[str, Subscription] = {}

    def plan_arrival(self, work: Work, message: Message) -> None:
        """Give each subscription that takes the message its own."""
        for subscription in self.subscriptions.values():
            if not subscription.takes(message):
                continue
            queue = subscription.queue
            own = queue.arrived(work, message, self.ttl_s)
            if queue.sessions is not None and own.session_id is None and queue.dead_letters is not None:
                queue.dead_letters.plan_put(work, queue.dead_lettered(own, _NO_SESSION))
            else:
                queue.plan_put(work, own)
