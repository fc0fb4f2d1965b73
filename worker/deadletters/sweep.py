"""Going through the dead letters under lock, and doing something with those that an operator means.

A broker gives dead letters out as it likes and not by number, so everything between is taken under lock too, and given
back at the end. Guarantee: nothing that is meant gets lost, whenever this ends: a letter is removed after what was to
be done with it is done, and one that is done and not removed may be done again.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final

import anyio
import anyio.lowlevel
import msgspec

from worker.deadletters.base import Acted, DeadLetterQueue, Letter, LockLostError, Selection
from worker.sessions.base import BrokerError

PEEK_PAGE: Final = 100
_BATCH_MAX: Final = 32
_QUIET_S: Final = 5.0
"""No more come: those that are missing are locked by somebody else, or gone."""

_LOCK_MARGIN_S: Final = 10.0
"""What has to be left of a lock to send its letter and remove it; renewed where it is less."""

_HELD_BYTES_MAX: Final = 32_000_000
_RELEASE_S: Final = 5.0

HELD_BACK: Final = "held back: one before it in its session was kept, and must not be overtaken"
_ELSEWHERE: Final = "somebody else has it locked, an interrupted run maybe; run the command again in a minute"
_GONE: Final = "is not there any more: it was resubmitted or purged meanwhile"
_INTERRUPTED: Final = "not finished: interrupted; running the command again is safe"
_NOT_REACHED: Final = (
    "not reached: the locks on the other dead letters before it ran out; resubmit or purge those as well, or first"
)


class Named(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One dead letter by name."""

    sequence_number: int
    message_id: str | None
    session_id: str | None


class Kept(Named, frozen=True, kw_only=True):
    """One that is in the dead letters still, and why."""

    why: str


class Report(msgspec.Struct, kw_only=True):
    """What has become of the letters that were meant. Every one is in `done` or `kept` at the end."""

    done: list[Named] = []
    kept: list[Kept] = []


async def selected(queue: DeadLetterQueue, selection: Selection, *, from_number: int = 0) -> AsyncIterator[Letter]:
    """The letters that are meant, by number. Costs a look at all of them, unless their numbers are given."""
    if selection.sequence_numbers:
        for number in sorted(selection.sequence_numbers):
            for letter in await queue.peek(number, 1):
                # Where there is none of that number, the next one is shown.
                if letter.sequence_number == number >= from_number and selection.takes(letter):
                    yield letter
        return
    number = from_number
    while page := await queue.peek(number, PEEK_PAGE):
        for letter in page:
            if selection.takes(letter):
                yield letter
        number = page[-1].sequence_number + 1


def named(letter: Letter) -> Named:
    """The letter by name."""
    return Named(sequence_number=letter.sequence_number, message_id=letter.message_id, session_id=letter.session_id)


Act = Callable[[Sequence[Letter]], Awaitable[Acted]]
"""Does what is to be done with locked letters of one session, in order, before they are removed."""

Objection = Callable[[Letter], str | None]
"""Why a letter had better be kept, if it had."""


class Sweep:
    """One pass over the dead letters. Those of a session are done in the order of their numbers, or kept."""

    def __init__(
        self,
        queue: DeadLetterQueue,
        targets: Iterable[Named],
        act: Act,
        *,
        objection: Objection = lambda _: None,
        in_order: bool = True,
        on_decided: Callable[[], None] = lambda: None,
        quiet_s: float = _QUIET_S,
    ) -> None:
        """Do `targets`, which were peeked at before; each for itself where `in_order` is false.

        `objection` is asked before each is done, `on_decided` is told after it.
        """
        self._queue = queue
        self._act = act
        self._objection = objection
        self._on_decided = on_decided
        self._quiet_s = quiet_s
        self._left = {target.sequence_number: target for target in targets}
        self._in_order = in_order
        self._lanes: dict[str | int | None, deque[int]] = {}
        for number in sorted(self._left):
            self._lanes.setdefault(self._lane_of(self._left[number]), deque()).append(number)
        self._locked: dict[int, Letter] = {}
        self._passed: set[int] = set()
        self._held: list[Letter] = []
        self._held_bytes = 0
        self.report = Report(done=[], kept=[])

    async def run(self) -> Report:
        """Go through. Raises BrokerError when the broker ends it; `report` tells how far it came, then too."""
        try:
            if await self._go_through():
                await self._look_for_missing()
            self._keep_rest(_NOT_REACHED)
        except BrokerError as error:
            self._keep_rest(f"not reached: {error}")
            raise
        finally:
            self._keep_rest(_INTERRUPTED)
            with anyio.move_on_after(_RELEASE_S, shield=True):
                await self._release()
        return self.report

    async def _go_through(self) -> bool:
        """Do whatever can be done; False when it is no use to go on."""
        while self._left:
            letters = await self._queue.lock(_BATCH_MAX, self._quiet_s)
            if not letters:
                return True
            if not self._sort_out(letters):
                return False
            for key in dict.fromkeys(map(self._lane_of, letters)):
                if (lane := self._lanes.get(key)) is not None:
                    # What is done with letters is shielded: between two sessions it can be interrupted.
                    await anyio.lowlevel.checkpoint()
                    await self._advance(lane)
        return True

    def _lane_of(self, letter: Named | Letter) -> str | int | None:
        """What must not overtake each other has one lane: the letters of a session, where order counts."""
        return letter.session_id if self._in_order else letter.sequence_number

    def _sort_out(self, letters: Sequence[Letter]) -> bool:
        """Tell those that are meant from the others; False when the others begin to come round again."""
        come_again = False
        for letter in letters:
            if letter.sequence_number in self._left:
                self._locked[letter.sequence_number] = letter
            else:
                come_again |= letter.sequence_number in self._passed
                self._passed.add(letter.sequence_number)
                self._hold(letter)
        return not come_again

    async def _advance(self, lane: deque[int]) -> None:
        """Do those that are locked and have none of their session before them."""
        letters = []
        while lane and lane[0] in self._locked:
            letters.append(self._locked.pop(lane.popleft()))
        if not letters:
            return
        allowed = await self._allowed(letters)
        acted = await self._acted(letters[: allowed.count])
        for letter in letters[: acted.count]:
            await self._remove(letter)
        if (why := acted.problem or allowed.problem) is not None:
            self._block(lane, letters[acted.count :], why)

    async def _allowed(self, letters: Sequence[Letter]) -> Acted:
        """How many nothing speaks against, and what speaks against the next."""
        for count, letter in enumerate(letters):
            if (why := self._objection(letter)) is not None:
                return Acted(count, why)
            try:
                if self._queue.lock_left_s(letter) < _LOCK_MARGIN_S:
                    await self._queue.renew(letter)
            except LockLostError:
                return Acted(count, "its lock was lost; run the command again")
        return Acted(len(letters))

    async def _acted(self, letters: Sequence[Letter]) -> Acted:
        if not letters:
            return Acted(0)
        try:
            return await self._act(letters)
        except BrokerError as error:
            for letter in letters:
                self._keep(named(letter), f"whether it was done is unknown, and doing it again is safe: {error}")
            raise

    async def _remove(self, letter: Letter) -> None:
        try:
            if not await self._is_removed(letter):
                self._keep(named(letter), "done, but its lock was lost before it was removed; doing it again is safe")
                return
        except BrokerError as error:
            self._keep(named(letter), f"done, but maybe not removed, and doing it again is safe: {error}")
            raise
        self.report.done.append(self._left.pop(letter.sequence_number))
        self._on_decided()

    async def _is_removed(self, letter: Letter) -> bool:
        """Remove it; false where its lock was lost and it is there still."""
        try:
            await self._queue.remove(letter)
        except LockLostError:
            # So it looks, too, when the answer to the first try was lost and the client has tried again.
            return not await self._is_there(letter.sequence_number)
        return True

    async def _is_there(self, number: int) -> bool:
        found = await self._queue.peek(number, 1)
        return bool(found) and found[0].sequence_number == number

    def _block(self, lane: deque[int], letters: Sequence[Letter], why: str) -> None:
        """Keep the first of `letters`, and with it all that is behind it in its session."""
        for letter in letters:
            self._keep(named(letter), why)
            self._hold(letter)
            why = HELD_BACK
        while lane:
            number = lane.popleft()
            self._keep(self._left[number], HELD_BACK)
            if (letter_behind := self._locked.pop(number, None)) is not None:
                self._hold(letter_behind)

    async def _look_for_missing(self) -> None:
        """Nothing more comes: what is gone holds its session back no longer, what is locked elsewhere does."""
        for lane in self._lanes.values():
            while lane:
                number = lane.popleft()
                if await self._is_there(number):
                    self._keep(self._left[number], _ELSEWHERE)
                    self._block(lane, [], HELD_BACK)
                else:
                    self._keep(self._left[number], _GONE)
                    await self._advance(lane)

    def _hold(self, letter: Letter) -> None:
        """Not to be given back before the end, or it would come next again. What is too much lapses by itself."""
        if self._held_bytes < _HELD_BYTES_MAX:
            self._held.append(letter)
            self._held_bytes += len(letter.body or b"")

    async def _release(self) -> None:
        """Give back what is held, so that nobody has to wait for the locks' end."""
        for letter in [*self._locked.values(), *self._held]:
            try:
                await self._queue.release(letter)
            except LockLostError:
                continue
            except BrokerError:
                return

    def _keep(self, name: Named, why: str) -> None:
        if self._left.pop(name.sequence_number, None) is not None:
            self.report.kept.append(Kept(**msgspec.structs.asdict(name), why=why))
            self._on_decided()

    def _keep_rest(self, why: str) -> None:
        for name in list(self._left.values()):
            self._keep(name, why)
