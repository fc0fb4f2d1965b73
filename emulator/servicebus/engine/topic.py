"""A topic: it keeps nothing but scheduled messages, and gives each message to every subscription that wants it."""

from emulator.servicebus.engine.filters import compile_filter
from emulator.servicebus.engine.intake import Intake
from emulator.servicebus.engine.message import Message
from emulator.servicebus.engine.outcomes import DeadLetter
from emulator.servicebus.engine.queue import Queue
from emulator.servicebus.engine.work import Context, Work
from emulator.servicebus.entities import SubscriptionConfig, TopicConfig

_NO_SESSION = DeadLetter(
    "Session id is null.", "Session enabled entity doesn't allow a message whose session identifier is null."
)


class Subscription:
    """A queue that is filled through rules. A message that several rules take arrives once."""

    def __init__(self, config: SubscriptionConfig, queue: Queue) -> None:
        self.config = config
        self.queue = queue
        self._predicates = [compile_filter(rule.filter) for rule in config.rules]

    def takes(self, message: Message) -> bool:
        """Whether any rule takes the message."""
        return any(predicate(message) for predicate in self._predicates)


class Topic(Intake):
    """Where producers send for subscriptions."""

    def __init__(self, config: TopicConfig, context: Context) -> None:
        super().__init__(
            config.name,
            context,
            ttl_s=config.default_message_ttl_s,
            duplicate_window_s=config.duplicate_detection_window_s if config.requires_duplicate_detection else None,
            size_bytes_max=config.max_size_bytes,
        )
        self.config = config
        self.subscriptions: dict[str, Subscription] = {}

    @property
    def size_bytes(self) -> int:
        """Of what is scheduled and of all subscriptions."""
        return self.kept_bytes + sum(each.queue.size_bytes for each in self.subscriptions.values())

    def forget_subscription(self, key: str) -> None:
        """Drop the subscription at a case-folded path, if it is one of this topic's."""
        self.subscriptions = {
            name: subscription for name, subscription in self.subscriptions.items() if subscription.queue.key != key
        }

    def check_open(self) -> None:
        """Producers may always send to a topic."""

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
