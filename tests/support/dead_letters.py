"""Dead letters in memory, as a broker holds them: locks that lapse, letters in any order, and failures to order."""

from collections.abc import Sequence

import msgspec

from worker.deadletters.base import Acted, Letter, LockLostError
from worker.sessions.base import BrokerUnavailableError

LOCK_S = 60.0


def letter(
    number: int, session_id: str | None = "order|1", *, body: bytes = b"{}", reason: str = "undecodable"
) -> Letter:
    return Letter(
        sequence_number=number,
        message_id=f"c{number}",
        session_id=session_id,
        reason=reason,
        description=None,
        enqueued_at=None,
        delivery_count=0,
        content_type=None,
        correlation_id=None,
        reply_to=None,
        reply_to_session_id=None,
        properties={},
        resubmitted=0,
        body=body,
    )


class MemoryDeadLetters:
    """`given_out` is the order in which letters are given out; `batch_max` how many at once at most."""

    def __init__(self, *letters: Letter, given_out: Sequence[int] | None = None, batch_max: int = 100) -> None:
        self.letters = {one.sequence_number: one for one in letters}
        self.queue: list[Letter] = []
        self.released: list[int] = []
        self.now_s = 0.0
        self.locks: dict[int, float] = {}
        self.elsewhere: set[int] = set()
        self.lost: set[int] = set()
        self.too_large: set[int] = set()
        self.seconds_a_call = 0.0
        self.sends_until_failure: int | None = None
        self._order = list(given_out if given_out is not None else sorted(self.letters))
        self._batch_max = batch_max

    @property
    def name(self) -> str:
        return "commands"

    async def peek(self, from_number: int, count_max: int) -> Sequence[Letter]:
        return [self.letters[number] for number in sorted(self.letters) if number >= from_number][:count_max]

    async def lock(self, count_max: int, wait_s: float) -> Sequence[Letter]:
        self.now_s += self.seconds_a_call
        free = [number for number in self._order if number in self.letters and self._is_free(number)]
        taken = free[: min(count_max, self._batch_max)]
        if not taken:
            self.now_s += wait_s
        for number in taken:
            self.locks[number] = self.now_s + LOCK_S
        return [self.letters[number] for number in taken]

    def lock_left_s(self, letter: Letter) -> float:
        return self.locks.get(letter.sequence_number, 0.0) - self.now_s

    async def renew(self, letter: Letter) -> None:
        self._check(letter)
        self.locks[letter.sequence_number] = self.now_s + LOCK_S

    async def release(self, letter: Letter) -> None:
        self._check(letter)
        del self.locks[letter.sequence_number]
        self.released.append(letter.sequence_number)

    async def remove(self, letter: Letter) -> None:
        self._check(letter)
        del self.locks[letter.sequence_number]
        del self.letters[letter.sequence_number]

    async def send(self, letters: Sequence[Letter]) -> Acted:
        if self.sends_until_failure is not None:
            if self.sends_until_failure == 0:
                raise BrokerUnavailableError("send: ServiceBusConnectionError")
            self.sends_until_failure -= 1
        assert len({one.session_id for one in letters}) == 1, "a send is of one session"
        for count, one in enumerate(letters):
            if one.sequence_number in self.too_large:
                return Acted(count, "too large")
            self.queue.append(msgspec.structs.replace(one, resubmitted=one.resubmitted + 1))
        return Acted(len(letters))

    def sent(self, session_id: str | None = "order|1") -> list[int]:
        return [one.sequence_number for one in self.queue if one.session_id == session_id]

    def _is_free(self, number: int) -> bool:
        return number not in self.elsewhere and self.locks.get(number, -1.0) <= self.now_s

    def _check(self, letter: Letter) -> None:
        number = letter.sequence_number
        if number not in self.letters or number in self.lost or self.locks.get(number, -1.0) <= self.now_s:
            raise LockLostError("settle: MessageLockLostError")
