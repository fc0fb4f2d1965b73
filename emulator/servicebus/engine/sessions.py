"""The sessions of one queue: who holds which, who waits for one, and what comes next in each."""

from collections import OrderedDict
from typing import TYPE_CHECKING

from emulator.servicebus.engine.errors import (
    ServiceBusError,
    session_cannot_be_locked,
    session_lock_lost,
    timed_out,
)
from emulator.servicebus.engine.receivers import Receiver, Sink
from emulator.servicebus.engine.work import Work

if TYPE_CHECKING:
    from emulator.servicebus.engine.queue import Queue


class Session:
    """One session. It exists while it has messages, state or a holder."""

    __slots__ = ("holder", "id", "locked_until_s", "ready", "sequences", "sessions", "state", "tokens", "updated_s")

    def __init__(self, sessions: "Sessions", session_id: str) -> None:
        self.sessions = sessions
        self.id = session_id
        self.holder: Receiver | None = None
        self.locked_until_s = 0.0
        self.ready: list[int] = []
        """A heap of the sequence numbers that may be delivered; numbers that no longer may are skipped."""
        self.sequences: set[int] = set()
        """All its messages, deferred ones included."""
        self.tokens: set[bytes] = set()
        """Its messages that the holder has not settled."""
        self.state: bytes | None = None
        self.updated_s: float | None = None

    def set_state(self, state: bytes | None, updated_s: float) -> None:
        """Change the state in memory."""
        self.state = state
        self.updated_s = updated_s

    def on_timer(self, now_s: float) -> None:
        """The lock has expired."""
        del now_s
        self.sessions.take_lock(self)


class Acceptor:
    """Somebody who waits for the next session."""

    __slots__ = ("deletes", "sessions", "sink", "timeout_s")

    def __init__(self, sessions: "Sessions", sink: Sink, *, deletes: bool, timeout_s: float) -> None:
        self.sessions = sessions
        self.sink = sink
        self.deletes = deletes
        self.timeout_s = timeout_s

    def on_timer(self, now_s: float) -> None:
        """Nothing came in time."""
        del now_s
        self.sessions.give_up(self)

    def cancel(self) -> None:
        """The peer went away. Harmless once the wait has ended."""
        self.sessions.forget(self)


class Sessions:
    """Sessions, and two queues that make every step constant in their number: free sessions and waiting acceptors.

    A session is in `_available` when it is free and something in it can be delivered; both queues are first in,
    first out, and never both non-empty after a step: so a session waits for an acceptor or the other way round.
    """

    def __init__(self, queue: "Queue") -> None:
        self._queue = queue
        self._all: dict[str, Session] = {}
        self._available: OrderedDict[str, Session] = OrderedDict()
        self._acceptors: OrderedDict[Acceptor, None] = OrderedDict()
        self._changed: dict[Session, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    def find(self, session_id: str) -> Session | None:
        """The session, if it exists."""
        return self._all.get(session_id)

    def all(self) -> list[Session]:
        """All sessions, oldest first."""
        return list(self._all.values())

    def get(self, session_id: str) -> Session:
        """The session, made if need be."""
        session = self._all.get(session_id)
        if session is None:
            session = self._all[session_id] = Session(self, session_id)
        return session

    def changed(self, session: Session) -> None:
        """Look at the session in the next `pump`: something may be deliverable in it, or it was freed."""
        self._changed[session] = None

    def pump(self) -> None:
        """Serve every changed session: its holder, else the acceptor that has waited longest."""
        while self._changed:
            session = next(iter(self._changed))
            del self._changed[session]  # what it does may change it again
            try:
                if self._all.get(session.id) is session:
                    self._serve(session)
            except BaseException:
                self._changed[session] = None
                raise

    def _serve(self, session: Session) -> None:
        if session.holder is not None:
            self._queue.dispatch(session.holder, session.ready)
        elif not self._queue.has_deliverable(session.ready):
            self._available.pop(session.id, None)
            self.collect(session)
        elif self._acceptors:
            acceptor, _ = self._acceptors.popitem(last=False)
            self._queue.context.timers.cancel(acceptor)
            self._grant(session, acceptor.sink, deletes=acceptor.deletes)
        else:
            self._available[session.id] = session

    def accept(self, session_id: str, sink: Sink, *, deletes: bool) -> Receiver:
        """Lock the named session, whether it has messages or not. Raises ServiceBusError when somebody holds it."""
        session = self.get(session_id)
        if session.holder is not None:
            raise session_cannot_be_locked(session_id)
        return self._grant(session, sink, deletes=deletes)

    def accept_next(self, sink: Sink, *, deletes: bool, timeout_s: float) -> Receiver | Acceptor:
        """Lock the session that has been free for longest, or wait for one."""
        while self._available:
            session = next(iter(self._available.values()))
            if self._queue.has_deliverable(session.ready):
                return self._grant(session, sink, deletes=deletes)
            self._available.pop(session.id, None)
            self.collect(session)
        acceptor = Acceptor(self, sink, deletes=deletes, timeout_s=timeout_s)
        self._acceptors[acceptor] = None
        timers = self._queue.context.timers
        timers.set(acceptor, self._queue.context.clock.now_s() + timeout_s)
        return acceptor

    def _grant(self, session: Session, sink: Sink, *, deletes: bool) -> Receiver:
        self._available.pop(session.id, None)
        receiver = session.holder = Receiver(self._queue, sink, deletes=deletes, session=session)
        self.renew(session)
        sink.granted(receiver)
        return receiver

    def renew(self, session: Session) -> float:
        """Lock a held session for a full lock duration from now; returns until when."""
        context = self._queue.context
        session.locked_until_s = context.clock.now_s() + self._queue.settings.lock_duration_s
        context.timers.set(session, session.locked_until_s)
        return session.locked_until_s

    def take_lock(self, session: Session) -> None:
        """The holder loses the session as by expiry: its unsettled messages count one delivery more."""
        self._free(session, failed=True)

    def released(self, session: Session) -> None:
        """The holder closed the session: its unsettled messages come again, and their delivery counts stay."""
        self._free(session, failed=False)

    def _free(self, session: Session, *, failed: bool) -> None:
        holder = session.holder
        assert holder is not None
        work = Work(self._queue.context)
        for token in sorted(session.tokens, key=self._queue.sequence_of):
            self._queue.plan_unlock(work, token, failed=failed)
        work.then(lambda: self._freed(session, holder, lost=failed))
        work.touch(self._queue)
        work.commit()

    def _freed(self, session: Session, holder: Receiver, *, lost: bool) -> None:
        session.holder = None
        self._queue.context.timers.cancel(session)
        self.changed(session)
        if lost:
            holder.is_open = False
            holder.sink.lost(session_lock_lost(session.id))

    def dispose(self, error: ServiceBusError) -> None:
        """The queue was deleted."""
        timers = self._queue.context.timers
        for session in self._all.values():
            timers.cancel(session)
            if session.holder is not None:
                session.holder.is_open = False
                session.holder.sink.lost(error)
        for acceptor in self._acceptors:
            timers.cancel(acceptor)
            acceptor.sink.refused(error)
        self._acceptors.clear()
        self._available.clear()

    def give_up(self, acceptor: Acceptor) -> None:
        """Refuse an acceptor whose time is over."""
        self.forget(acceptor)
        acceptor.sink.refused(timed_out(acceptor.timeout_s))

    def forget(self, acceptor: Acceptor) -> None:
        """Stop waiting."""
        if self._acceptors.pop(acceptor, acceptor) is None:
            self._queue.context.timers.cancel(acceptor)

    def collect(self, session: Session) -> None:
        """Drop a session of which nothing is left."""
        if session.holder is None and session.state is None and not session.sequences:
            self._all.pop(session.id, None)
            self._available.pop(session.id, None)
