"""Which entities there are: those of the configuration, and those that were made while running."""

from emulator.journal import Journal
from emulator.servicebus.engine import rows
from emulator.servicebus.engine.errors import ServiceBusError, already_exists, not_allowed, not_found
from emulator.servicebus.engine.filters import compile_filter
from emulator.servicebus.engine.queue import DEAD_LETTER_SUFFIX, Queue
from emulator.servicebus.engine.store import Settings
from emulator.servicebus.engine.topic import Subscription, Topic
from emulator.servicebus.engine.work import Context
from emulator.servicebus.entities import (
    QueueConfig,
    ReceivingConfig,
    ServiceBusConfig,
    SubscriptionConfig,
    TopicConfig,
)

SUBSCRIPTION_INFIX = "/Subscriptions/"


def subscription_path(topic: str, subscription: str) -> str:
    """Where the messages of a subscription are received."""
    return f"{topic}{SUBSCRIPTION_INFIX}{subscription}"


class Registry:
    """Entities by path, whatever its case.

    Those made while running outlive a restart; where the configuration has an entity of the same name, it wins.
    Those of the configuration that are deleted come back, empty, with the next start.
    """

    def __init__(self, config: ServiceBusConfig, context: Context) -> None:
        self.queues: dict[str, QueueConfig] = {}
        self.topics: dict[str, Topic] = {}
        self._context = context
        self._receivable: dict[str, Queue] = {}
        for queue in config.queues:
            self._add_queue(queue)
        for topic in config.topics:
            self._add_topic(topic)
        self._restore_entities(context.journal)
        self._restore_intakes(context.journal)
        self._restore_queues(context.journal)

    # --- lookup ---

    def queue(self, path: str) -> Queue:
        """What messages are received from at `path`: a queue, a subscription, or the dead-letter queue of either."""
        found = self._receivable.get(path.casefold())
        if found is not None:
            return found
        if path.casefold() in self.topics:
            raise not_allowed(f"Messages are not received from the topic '{path}' but from its subscriptions.")
        raise not_found(path)

    def target(self, path: str) -> Queue | Topic:
        """What messages are sent to at `path`."""
        found = self._receivable.get(path.casefold()) or self.topics.get(path.casefold())
        if found is None:
            raise not_found(path)
        if isinstance(found, Queue) and SUBSCRIPTION_INFIX.casefold() in found.key:
            raise not_allowed(f"Messages are not sent to the subscription '{path}' but to its topic.")
        return found

    def paths(self) -> list[str]:
        """Where messages are received, but for dead-letter queues."""
        return [queue.path for queue in self._receivable.values() if queue.dead_letters is not None]

    def topic(self, name: str) -> Topic:
        """The topic of that name. Raises ServiceBusError."""
        found = self.topics.get(name.casefold())
        if found is None:
            raise not_found(name)
        return found

    def subscription(self, topic: str, name: str) -> Subscription:
        """A subscription. Raises ServiceBusError."""
        found = self.topic(topic).subscriptions.get(name.casefold())
        if found is None:
            raise not_found(subscription_path(topic, name))
        return found

    # --- change ---

    def create_queue(self, config: QueueConfig) -> None:
        """Make a queue. Raises ServiceBusError when something of that name is there."""
        self._check_free(config.name)
        self._context.journal.commit([rows.put_entity(rows.QueueRow(config))])
        self._add_queue(config)

    def create_topic(self, config: TopicConfig) -> None:
        """Make a topic, with its subscriptions."""
        self._check_free(config.name)
        self._context.journal.commit([rows.put_entity(rows.TopicRow(config))])
        self._add_topic(config)

    def create_subscription(self, topic_name: str, config: SubscriptionConfig) -> None:
        """Make a subscription. It gets what is sent from now on. Raises ValueError for a filter that is none."""
        topic = self.topic(topic_name)
        if config.name.casefold() in topic.subscriptions:
            raise already_exists(subscription_path(topic.path, config.name))
        for rule in config.rules:
            compile_filter(rule.filter)
        self._context.journal.commit([rows.put_entity(rows.SubscriptionRow(topic.path, config))])
        self._add_subscription(topic, config)

    def delete(self, path: str) -> None:
        """Delete a queue, topic or subscription with everything in it; its receivers are closed."""
        key = path.casefold()
        below = key + SUBSCRIPTION_INFIX.casefold()
        topic = self.topics.get(key)
        if topic is not None:
            gone = [topic, *(queue for queue in self._receivable.values() if queue.key.startswith(below))]
        elif key in self._receivable and self._receivable[key].dead_letters is not None:
            gone = [self._receivable[key], self._receivable[(path + DEAD_LETTER_SUFFIX).casefold()]]
        else:
            raise not_found(path)
        changes = [change for intake in gone for change in rows.drop_entity(self._context.journal, intake.key)]
        self._context.journal.commit(changes)
        self.queues.pop(key, None)
        self.topics.pop(key, None)
        for each in self.topics.values():
            each.forget_subscription(key)
        for intake in gone:
            self._receivable.pop(intake.key, None)
            intake.dispose(_deleted(intake.path))

    def _check_free(self, name: str) -> None:
        if name.casefold() in self._receivable or name.casefold() in self.topics:
            raise already_exists(name)

    def _add_queue(self, config: QueueConfig) -> None:
        self.queues[config.name.casefold()] = config
        window_s = config.duplicate_detection_window_s if config.requires_duplicate_detection else None
        self._add(
            config.name,
            _settings(config, duplicate_window_s=window_s, size_bytes_max=config.max_size_bytes),
        )

    def _add_topic(self, config: TopicConfig) -> None:
        topic = self.topics[config.name.casefold()] = Topic(config, self._context)
        for subscription in config.subscriptions:
            self._add_subscription(topic, subscription)

    def _add_subscription(self, topic: Topic, config: SubscriptionConfig) -> None:
        queue = self._add(
            subscription_path(topic.path, config.name),
            _settings(config),
        )
        topic.subscriptions[config.name.casefold()] = Subscription(config, queue)

    def _add(self, path: str, settings: Settings) -> Queue:
        dead_settings = Settings(lock_duration_s=settings.lock_duration_s, max_delivery_count=None)
        dead_letters = Queue(path + DEAD_LETTER_SUFFIX, dead_settings, self._context)
        queue = Queue(path, settings, self._context, dead_letters=dead_letters)
        self._receivable[dead_letters.key] = dead_letters
        self._receivable[queue.key] = queue
        return queue

    # --- restart ---

    def _restore_entities(self, journal: Journal) -> None:
        for row in sorted(rows.load_entities(journal), key=lambda row: isinstance(row, rows.SubscriptionRow)):
            match row:
                case rows.QueueRow(config=queue):
                    if queue.name.casefold() not in self._receivable:
                        self._add_queue(queue)
                case rows.TopicRow(config=topic):
                    if topic.name.casefold() not in self.topics:
                        self._add_topic(topic)
                case rows.SubscriptionRow(topic=name, config=subscription):
                    found = self.topics.get(name.casefold())
                    if found is not None and subscription.name.casefold() not in found.subscriptions:
                        self._add_subscription(found, subscription)

    def _restore_intakes(self, journal: Journal) -> None:
        intakes: dict[str, Queue | Topic] = {**self._receivable, **self.topics}
        for path, reserved in rows.load_sequences(journal):
            if path in intakes:
                intakes[path].sequence.restore(reserved)
        for path, message in rows.load_messages(journal, rows.SCHEDULED):
            if path in intakes:
                intakes[path].restore_scheduled(message)
        for path, message_id, until_s in sorted(rows.load_duplicates(journal), key=lambda row: row[2]):
            if path in intakes:
                intakes[path].restore_duplicate(message_id, until_s)

    def _restore_queues(self, journal: Journal) -> None:
        """Take over what a former process acknowledged. Rows of entities that are gone are left alone."""
        for path, message in rows.load_messages(journal, rows.MESSAGES):
            if path in self._receivable:
                self._receivable[path].admit(message)
        for path, sequence, lock in rows.load_locks(journal):
            if path in self._receivable:
                self._receivable[path].restore_lock(sequence, lock)
        for path, session_id, state in rows.load_session_states(journal):
            if path in self._receivable:
                self._receivable[path].restore_session_state(session_id, state)
        for queue in self._receivable.values():
            queue.pump()


def _settings(
    config: ReceivingConfig, *, duplicate_window_s: float | None = None, size_bytes_max: int | None = None
) -> Settings:
    return Settings(
        requires_session=config.requires_session,
        lock_duration_s=config.lock_duration_s,
        max_delivery_count=config.max_delivery_count,
        ttl_s=config.default_message_ttl_s,
        dead_letters_expired=config.dead_lettering_on_message_expiration,
        duplicate_window_s=duplicate_window_s,
        size_bytes_max=size_bytes_max,
    )


def _deleted(path: str) -> ServiceBusError:
    return ServiceBusError("amqp:not-found", f"The messaging entity '{path}' has been deleted.", 404)
