"""Going through dead letters: order within a session, nothing lost, and every letter accounted for."""

import random

import anyio
import anyio.lowlevel
import pytest

from schemas.codec import encode_command
from schemas.keys import BrookKey
from tests.support.brooks import command
from tests.support.claims import claimed
from tests.support.dead_letters import LOCK_S, MemoryDeadLetters, letter
from worker.deadletters.base import Letter, Selection
from worker.deadletters.sweep import HELD_BACK, Report, Sweep, named, selected
from worker.sessions.base import BrokerUnavailableError

pytestmark = pytest.mark.anyio


def sweep_of(queue: MemoryDeadLetters, *numbers: int, **options: object) -> Sweep:
    """A resubmission of these letters, or of all."""
    targets = [named(queue.letters[number]) for number in numbers or sorted(queue.letters)]
    return Sweep(queue, targets, queue.send, **options)  # type: ignore[arg-type]  # options of any kind


def done(report: Report) -> list[int]:
    return [one.sequence_number for one in report.done]


def kept(report: Report) -> dict[int, str]:
    return {one.sequence_number: one.why for one in report.kept}


async def test_letters_go_back_in_the_order_of_their_numbers_however_they_are_given_out() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        letters = [letter(number, f"order|{number % 3}") for number in range(1, 25)]
        order = [one.sequence_number for one in letters]
        chance.shuffle(order)
        queue = MemoryDeadLetters(*letters, given_out=order, batch_max=chance.randint(1, 7))
        report = await sweep_of(queue).run()
        assert sorted(done(report)) == list(range(1, 25))
        assert not queue.letters
        for session in range(3):
            sent = queue.sent(f"order|{session}")
            assert sent == sorted(sent), f"seed {seed}"


async def test_what_is_not_meant_is_passed_over_and_given_back() -> None:
    queue = MemoryDeadLetters(*map(letter, range(1, 6)), batch_max=2)
    report = await sweep_of(queue, 2, 4).run()
    assert (done(report), queue.sent()) == ([2, 4], [2, 4])
    assert sorted(queue.released) == [1, 3]
    assert not queue.locks, "no lock is left behind"
    assert sorted(queue.letters) == [1, 3, 5]


async def test_a_letter_that_is_objected_to_holds_its_session_back_and_no_other() -> None:
    queue = MemoryDeadLetters(letter(1), letter(2), letter(3), letter(4, "other"), letter(5, "other"))

    def objection(one: Letter) -> str | None:
        return "no" if one.sequence_number == 2 else None

    report = await sweep_of(queue, objection=objection).run()
    assert (done(report), kept(report)) == ([1, 4, 5], {2: "no", 3: HELD_BACK})
    assert sorted(queue.letters) == [2, 3]
    assert not queue.locks


async def test_a_letter_that_the_queue_never_takes_holds_back_those_behind_it() -> None:
    queue = MemoryDeadLetters(*map(letter, range(1, 5)))
    queue.too_large = {3}
    report = await sweep_of(queue).run()
    assert (done(report), kept(report)) == ([1, 2], {3: "too large", 4: HELD_BACK})
    assert queue.sent() == [1, 2]


async def test_a_letter_that_somebody_else_holds_is_not_overtaken() -> None:
    queue = MemoryDeadLetters(*map(letter, range(1, 4)))
    queue.elsewhere = {2}
    report = await sweep_of(queue).run()
    assert done(report) == [1]
    assert kept(report)[2].startswith("somebody else has it locked")
    assert kept(report)[3] == HELD_BACK


async def test_where_order_does_not_count_nothing_is_held_back() -> None:
    queue = MemoryDeadLetters(*map(letter, range(1, 4)))
    queue.elsewhere = {1}
    report = await sweep_of(queue, in_order=False).run()
    assert (done(report), list(kept(report))) == ([2, 3], [1])


async def test_a_letter_that_is_gone_holds_nothing_back() -> None:
    queue = MemoryDeadLetters(*map(letter, range(1, 4)))
    sweep = sweep_of(queue)
    del queue.letters[2]
    report = await sweep.run()
    assert done(report) == [1, 3]
    assert kept(report)[2].startswith("is not there any more")


async def test_a_lock_that_is_about_to_lapse_is_renewed_first() -> None:
    queue = MemoryDeadLetters(letter(1), letter(2), given_out=[2, 1], batch_max=1)
    queue.seconds_a_call = LOCK_S - 5
    report = await sweep_of(queue).run()
    assert (done(report), queue.sent()) == ([1, 2], [1, 2])


async def test_a_lock_lost_between_send_and_removal_loses_nothing() -> None:
    queue = MemoryDeadLetters(letter(1), letter(2))
    queue.lost = {1}
    report = await sweep_of(queue).run()
    assert queue.sent() == [1, 2]
    assert done(report) == [2]
    assert kept(report)[1].startswith("done, but its lock was lost")
    assert 1 in queue.letters, "it is there to be sent again, which is safe"


async def test_a_removal_whose_answer_was_lost_counts_as_done() -> None:
    """The client tries again, and is told that the lock is lost, as there is nothing to lock any more."""
    queue = MemoryDeadLetters(letter(1), letter(2))
    remove = queue.remove

    async def twice(one: Letter) -> None:
        await remove(one)
        await remove(one)

    queue.remove = twice  # type: ignore[method-assign,assignment]  # the parameter's name is its own
    report = await sweep_of(queue).run()
    assert (done(report), report.kept) == ([1, 2], [])


async def test_a_broker_that_fails_ends_it_and_everything_is_accounted_for() -> None:
    letters = [letter(number, f"order|{number}") for number in range(1, 6)]
    queue = MemoryDeadLetters(*letters, batch_max=1)
    queue.sends_until_failure = 2
    sweep = sweep_of(queue)
    with pytest.raises(BrokerUnavailableError):
        await sweep.run()
    assert done(sweep.report) == [1, 2]
    assert kept(sweep.report)[3].startswith("whether it was done is unknown, and doing it again is safe")
    assert kept(sweep.report)[4].startswith("not reached: send")
    assert sorted(queue.letters) == [3, 4, 5]


async def test_it_ends_when_the_letters_passed_over_begin_to_come_again() -> None:
    letters = [letter(number, f"order|{number}") for number in range(1, 100)]
    queue = MemoryDeadLetters(*letters, batch_max=1)
    queue.seconds_a_call = LOCK_S / 10
    report = await sweep_of(queue, 99).run()
    assert kept(report)[99].startswith("not reached: the locks on the other dead letters")


async def test_an_interruption_leaves_every_letter_accounted_for_and_no_lock_behind() -> None:
    queue = MemoryDeadLetters(*map(letter, range(1, 4)), letter(4, "other"), batch_max=3)
    sweep = sweep_of(queue)
    with anyio.CancelScope() as scope:

        async def interrupted(count_max: int, wait_s: float) -> list[Letter]:
            found = list(await MemoryDeadLetters.lock(queue, count_max, wait_s))
            if queue.queue:
                scope.cancel()
                await anyio.lowlevel.checkpoint()
            return found

        queue.lock = interrupted  # type: ignore[method-assign]
        await sweep.run()
    assert scope.cancelled_caught
    assert done(sweep.report) == [1, 2, 3]
    assert kept(sweep.report)[4].startswith("not finished: interrupted")


async def test_a_selection_takes_what_fits_all_that_is_given() -> None:
    body = encode_command(command(key=BrookKey("order", "7")))
    by_claim = encode_command(claimed(command(key=BrookKey("order", "7")))[0])
    letters = [
        letter(1, "order|7", body=body, reason="MaxDeliveryCountExceeded"),
        letter(2, "bucket:1/4", body=by_claim),
        letter(3, "order|7", body=b"nonsense"),
        letter(4, "order|8", body=b"nonsense"),
    ]
    queue = MemoryDeadLetters(*letters)

    async def numbers(selection: Selection, from_number: int = 0) -> list[int]:
        return [one.sequence_number async for one in selected(queue, selection, from_number=from_number)]

    brook = BrookKey("order", "7")
    sessions = frozenset({"order|7"})
    assert await numbers(Selection()) == [1, 2, 3, 4]
    assert await numbers(Selection(), from_number=3) == [3, 4]
    assert await numbers(Selection(brook=brook, brook_sessions=sessions)) == [1, 2, 3]
    assert await numbers(Selection(brook=brook, brook_sessions=sessions, reason="maxdeliverycountexceeded")) == [1]
    assert await numbers(Selection(session_id="order|7")) == [1, 3]
    assert await numbers(Selection(sequence_numbers=frozenset({4, 2, 9}))) == [2, 4]
    del queue.letters[2]
    assert await numbers(Selection(sequence_numbers=frozenset({2, 3}))) == [3], "each is taken once"
