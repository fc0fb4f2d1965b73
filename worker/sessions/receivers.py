"""What a receiver of azure-servicebus 7.15 does that a session cannot have, changed on the receiver itself.

Nothing public changes any of it. Each has its reason and its test in docs/decisions/0004-service-bus-client.md, and
says when a newer client has no such thing any more.
"""

import asyncio
from typing import Any, Final

from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import ServiceBusConnectionError

_OPENING_STEPS_MAX: Final = 40
"""Opening a session takes about nine; what takes more is waiting for one, and then a pause costs nothing."""


class _AlwaysReceiving(asyncio.Event):
    """Tells the client that somebody is waiting for messages, whether or not a call is under way."""

    def is_set(self) -> bool:
        """Yes."""
        return True


def keep_what_arrives(receiver: ServiceBusReceiver) -> None:
    """Have the client keep messages that arrive between two calls of `receive_messages` for the next one.

    Without prefetch, azure-servicebus 7.15 gives such a message back to the broker, which has sent the next ones
    already: the session's order is lost. Here they are as safe as those received: the session's lock is on all of
    them and is renewed. Nothing public changes it: with a prefetch, settling stalls for 0.2 s.
    `tests/integration/test_session_order.py` fails without this.
    """
    assert hasattr(receiver, "_receive_context"), "azure-servicebus has changed: see the order test"
    assert hasattr(receiver, "_await_settlement_outcome"), "azure-servicebus has changed: settling is slow now"
    assert hasattr(receiver, "_further_pull_receive_timeout"), "azure-servicebus has changed: receiving is slow now"
    receiver._receive_context = _AlwaysReceiving()  # noqa: SLF001 - as explained


def open_without_pauses(receiver: ServiceBusReceiver) -> None:
    """Open a session in 25 instead of 480 ms.

    azure-servicebus 7.15 takes one step for each frame that comes, and sleeps 50 ms between the steps, though each of
    them waits for its frame already. Here the first steps follow each other at once; then it is left to its own pace,
    so that nothing can spin.
    """
    assert hasattr(receiver, "_create_handler"), "azure-servicebus has changed: opening a session is slow now"
    create = receiver._create_handler  # noqa: SLF001 - as explained

    def create_handler(auth: Any) -> None:
        create(auth)
        handler: Any = receiver._handler  # noqa: SLF001 - as explained
        step = handler.client_ready_async
        steps_left = _OPENING_STEPS_MAX

        async def ready() -> bool:
            nonlocal steps_left
            while not await step():
                steps_left -= 1
                if steps_left <= 0:
                    return False
            # From here on the client asks at each turn whether the link is ready: that needs no detour.
            handler.client_ready_async = step
            return True

        handler.client_ready_async = ready

    receiver._create_handler = create_handler  # type: ignore[method-assign]  # noqa: SLF001 - as explained


def open_once(receiver: ServiceBusReceiver) -> None:
    """Have whatever is under way on an open session fail once its connection is lost.

    azure-servicebus 7.15 opens the link anew wherever it finds it closed: to another session, if it was the next one
    that was asked for, and several times over where several calls find it so. All but the last of these connections
    stay open, unused, with the sessions that they hold. To settle, it even tries a management link after that.
    """
    for name in ("_open", "_settle_message_via_mgmt_link"):
        assert hasattr(receiver, name), "azure-servicebus has changed: a lost connection may leave others open now"

    async def lost(*_: object, **__: object) -> None:
        raise ServiceBusConnectionError(message="The connection of this session was lost.")

    async def open_still(*_: object, **__: object) -> None:
        handler: Any = receiver._handler  # noqa: SLF001 - as explained
        if handler is None or handler._shutdown:  # noqa: SLF001 - as explained
            await lost()

    receiver._open = open_still  # type: ignore[method-assign]  # noqa: SLF001 - as explained
    receiver._settle_message_via_mgmt_link = lost  # type: ignore[method-assign]  # noqa: SLF001 - as explained


def listen_in_turns(receiver: ServiceBusReceiver, turn_s: float) -> None:
    """From now on, listen for so long at a time at the connection of an open session: reads and writes share one lock.

    Not before it is open: an acceptor that waits would listen a hundred times a second for nothing. The client has one
    setting for both, so its two copies are changed here. Does nothing once the connection is lost.
    """
    handler: Any = receiver._handler  # noqa: SLF001 - as explained
    if handler is None or handler._connection is None:  # noqa: SLF001 - as explained
        return
    for owner in (handler, handler._connection):  # noqa: SLF001 - as explained
        assert hasattr(owner, "_socket_timeout"), "azure-servicebus has changed: settling and renewals wait longer now"
        owner._socket_timeout = turn_s  # noqa: SLF001 - as explained
