"""What the service closes because nobody uses it: links, and connections on which there is no link.

Heartbeats keep neither: https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-troubleshoot. Time is
the engine's, so that a test can move it.
"""

from datetime import timedelta
from typing import TYPE_CHECKING

from emulator.servicebus.amqp.types import AmqpError

if TYPE_CHECKING:
    from emulator.servicebus.front.connection import Connection
    from emulator.servicebus.front.links import Link

DETACH_FORCED = "amqp:link:detach-forced"


def force_detached(link: "Link", code: str, details: str) -> AmqpError:
    """The service ends a link that the client did not close."""
    return AmqpError(
        DETACH_FORCED, f"The link '{link.attach.name}' is force detached. Code: {code}. Details: {details}"
    )


class LinkUse:
    """Detaches a link on which nothing has happened for `link_idle_timeout_s`, however alive its connection is."""

    __slots__ = ("_context", "_idle_s", "_link", "_used_s")

    def __init__(self, link: "Link") -> None:
        host = link.channel.connection.host
        self._link = link
        self._context = host.engine.context
        self._idle_s = host.limits.link_idle_timeout_s
        self.touch()
        self._context.timers.set(self, self._used_s + self._idle_s)

    def touch(self) -> None:
        """Something happened on the link."""
        self._used_s = self._context.clock.now_s()

    def stop(self) -> None:
        """The link is gone."""
        self._context.timers.cancel(self)

    def on_timer(self, now_s: float) -> None:
        """Look when the link was used last."""
        due_s = self._used_s + self._idle_s
        if due_s > now_s:
            self._context.timers.set(self, due_s)
            return
        code, kind = self._link.kind
        details = f"{kind}.IdleTimerExpired: Idle timeout: {_clock_time(self._idle_s)}."
        self._link.detach(force_detached(self._link, f"{code}(link{self._link.handle})", details))


class Unlinked:
    """Closes a connection on which there is no link to an entity: sooner where there never was one."""

    __slots__ = ("_connection", "_context", "_wait_s", "_was_linked")

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._context = connection.host.engine.context
        self._was_linked = False
        self._wait_s = 0.0

    def look(self) -> None:
        """Links came or went."""
        self.stop()
        if any(link.entity is not None for link in self._connection.all_links()):
            self._was_linked = True
            return
        limits = self._connection.host.limits
        self._wait_s = limits.unlinked_timeout_s if self._was_linked else limits.never_linked_timeout_s
        self._context.timers.set(self, self._context.clock.now_s() + self._wait_s)

    def stop(self) -> None:
        """The connection is gone."""
        self._context.timers.cancel(self)

    def on_timer(self, now_s: float) -> None:
        """No link came in time."""
        del now_s
        self._connection.fail(
            AmqpError(
                "amqp:connection:forced",
                f"The connection was inactive for more than the allowed {self._wait_s * 1_000:.0f} milliseconds and is"
                " closed by container 'LinkTracker'.",
            )
        )


def _clock_time(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds))).zfill(8)
