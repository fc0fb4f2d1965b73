"""The settings looked at together: which of them do not fit each other, and which to change."""

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from worker.credentials import choice_problems, credential_problems, is_servicebus_emulator
from worker.locking.options import renewal_problem

if TYPE_CHECKING:
    from worker.settings import Settings


def contradictions(settings: "Settings", wrong: frozenset[str] = frozenset()) -> tuple[tuple[str, str], ...]:
    """Settings that do not fit each other: which one to change, and how.

    Those in `wrong` have a value that nobody can read: they count as set, and nothing else is told by them.
    """
    chosen = choice_problems(lambda name: name in wrong or getattr(settings, name) is not None)
    found = ((names[0], text) for names, text in _checks(settings) if text is not None and wrong.isdisjoint(names))
    return (*chosen, *found)


def _checks(settings: "Settings") -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Of each check the settings that it is about, first the one to change, and what is wrong, if anything."""
    yield from credential_problems(settings)
    for name in ("cosmos_endpoint", "blob_account_url", "servicebus_admin_endpoint", "otlp_endpoint"):
        yield (name,), _address_problem(getattr(settings, name) or "")
    yield ("servicebus_namespace",), _address_problem(settings.servicebus_namespace or "", "sb://")
    yield (
        ("servicebus_admin_endpoint", "servicebus_connection_string", "servicebus_namespace"),
        _admin_problem(settings),
    )
    yield ("reply_topic", "reply_queue"), _reply_problem(settings)
    yield ("command_queue", "reply_queue", "reply_topic", "reply_entities_allowed"), _same_queue_problem(settings)
    yield (
        ("claim_container", "lease_container"),
        f"is {settings.claim_container!r}, where the leases are; senders write there: name another one"
        if settings.claim_container == settings.lease_container
        else None,
    )
    yield (
        ("lease_renew_after_s", "lease_duration_s"),
        renewal_problem(settings.lease_duration_s, settings.lease_renew_after_s),
    )
    for name, limit_name in (
        ("cosmos_timeout_s", "store_time_max_s"),
        ("session_pause_initial_s", "session_pause_max_s"),
        ("group_commands_max", "recent_commands_max"),
        ("reply_send_timeout_s", "drain_grace_s"),
    ):
        yield (name, limit_name), _more_than(limit_name, getattr(settings, limit_name), getattr(settings, name))
    yield (
        ("recent_commands_max", "batch_bytes_max", "batch_operations_max", "event_bytes_max"),
        _limits_problem(settings),
    )


def _address_problem(text: str, scheme: str = "") -> str | None:
    """What keeps the host and the port of a URL from being such; of its characters the type has seen to."""
    try:
        if urlsplit(scheme + text).port != 0:
            return None
    except ValueError:
        pass
    return f"is {text!r}, whose host or port is none; a port is a number from 1 to 65,535"


def _same_queue_problem(settings: "Settings") -> str | None:
    entities = (settings.reply_queue, settings.reply_topic, *settings.reply_entities_allowed)
    if settings.command_queue.lower() in {entity.lower() for entity in entities if entity is not None}:
        return f"is {settings.command_queue!r}, where replies go too; use another queue for one of them"
    return None


def _admin_problem(settings: "Settings") -> str | None:
    """Only of an emulator: what goes there is not encrypted."""
    if settings.servicebus_admin_endpoint is None or is_servicebus_emulator(settings):
        return None
    return "is set, but the namespace is not an emulator's; take it out: Azure's is found by the namespace"


def _limits_problem(settings: "Settings") -> str | None:
    """What keeps a batch from holding the largest head and an event."""
    try:
        settings.limits()
    except ValueError as error:
        return f"is {settings.recent_commands_max:,}: {error}; lower it or raise batch_bytes_max"
    return None


def _more_than(limit_name: str, limit: float, value: float) -> str | None:
    if value <= limit:
        return None
    return f"is {value:g}, more than {limit_name} = {limit:g}; lower it or raise {limit_name}"


def _reply_problem(settings: "Settings") -> str | None:
    if settings.reply_queue is None and settings.reply_topic is None:
        return "is not set, and neither is reply_queue; set one of them, so that replies have somewhere to go"
    if settings.reply_queue is not None and settings.reply_topic is not None:
        return f"is {settings.reply_topic!r} while reply_queue is {settings.reply_queue!r}; set only one of them"
    return None
