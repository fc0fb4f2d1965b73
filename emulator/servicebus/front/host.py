"""What connections need from whoever carries their bytes; and the carrying out of injected faults."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from emulator.faults import Answer, ApplyLate, ApplyThenDrop, DropBefore, Faults, NoFault, ReadBehind, Truncate
from emulator.servicebus.amqp.types import AmqpError
from emulator.servicebus.engine.errors import ServiceBusError
from emulator.servicebus.engine.namespace import Namespace
from emulator.servicebus.front.auth import Verifier
from emulator.servicebus.limits import Limits

SERVICE = "servicebus"


class Timer(Protocol):
    """Something that will happen unless it is cancelled."""

    def cancel(self) -> None:
        """Do not let it happen."""
        ...


class Host(Protocol):
    """The server, as connections see it."""

    engine: Namespace
    faults: Faults
    limits: Limits
    tokens: Verifier
    container_id: str

    def later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Call `action` once, `delay_s` real seconds from now, and write what it sent."""
        ...

    def time_s(self) -> float:
        """Monotonic real time, for idle time-outs."""
        ...

    def wall_s(self) -> float:
        """Wall time, for the expiry of tokens."""
        ...


class Wire(Protocol):
    """The connection that an operation came by."""

    host: Host

    def drop(self) -> None:
        """Close it at once; nothing more is sent."""
        ...

    def mute(self) -> None:
        """Send nothing from now on."""
        ...

    def fail(self, error: AmqpError) -> None:
        """Close it with an error."""
        ...


class Lane:
    """Operations of one link: injected faults are carried out here, and order is kept while some are delayed."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._timer: Timer | None = None

    def run(
        self,
        operation: str,
        facts: Mapping[str, str],
        apply: Callable[[], None],
        refuse: Callable[[ServiceBusError], None],
    ) -> None:
        """Decide about one request, count it, and apply it, refuse it or drop the connection, perhaps later."""
        host = self._wire.host
        injection = host.faults.decide(SERVICE, operation, facts)
        if injection.delay_s == 0 and not self._waiting and type(injection.effect) is NoFault:
            apply()
            return

        def carry_out() -> None:
            match injection.effect:
                case NoFault() | ReadBehind():
                    apply()
                case Answer(condition=condition, status=status):
                    refuse(ServiceBusError(condition, "An injected fault refused the operation.", status))
                case DropBefore():
                    self._wire.drop()
                case ApplyThenDrop() | Truncate():
                    self._wire.mute()
                    apply()
                    self._wire.drop()
                case ApplyLate(delay_s=delay_s):
                    self._wire.drop()
                    host.later(delay_s, apply)

        if injection.delay_s == 0 and not self._waiting:
            carry_out()
        else:
            self._delay(injection.delay_s, carry_out)

    def _delay(self, delay_s: float, action: Callable[[], None]) -> None:
        host = self._wire.host
        if len(self._waiting) >= host.limits.queued_operations_max:
            self._wire.fail(
                AmqpError("amqp:resource-limit-exceeded", "Too many operations wait behind an injected latency.")
            )
            return
        due_s = host.time_s() + delay_s
        if self._waiting:
            due_s = max(due_s, self._waiting[-1][0])
        self._waiting.append((due_s, action))
        if self._timer is None:
            self._timer = host.later(due_s - host.time_s(), self._wake)

    def _wake(self) -> None:
        self._timer = None
        host = self._wire.host
        while self._waiting and self._waiting[0][0] <= host.time_s():
            self._waiting[0][1]()
            if self._waiting:
                self._waiting.popleft()
        if self._waiting:
            self._timer = host.later(max(0.0, self._waiting[0][0] - host.time_s()), self._wake)

    def close(self) -> None:
        """The connection is gone: what has not been applied never will be."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
