"""The signal to scale by: flat for what more workers would not help, rising for what they would."""

import pytest

from worker.telemetry.instruments import SLOTS, SLOTS_WANTED
from worker.telemetry.scaling import WINDOW_S, ScalingSignal


class Slots:
    """A worker's slots over a time that a test moves."""

    def __init__(self, count: int) -> None:
        self.now_s = 1_000.0
        self.broken = False
        self.signal = ScalingSignal(count, is_broken=lambda: self.broken, clock=lambda: self.now_s)

    def take(self, session: str) -> None:
        self.signal.accepted(session)

    def give_back(self, session: str) -> None:
        self.signal.given_back(session)

    def pass_(self, seconds: float) -> None:
        self.now_s += seconds

    @property
    def wanted(self) -> float:
        return self.signal.read().wanted


def test_an_idle_worker_wants_nothing() -> None:
    it = Slots(16)
    for _ in range(20):
        it.pass_(5)
        it.signal.accept_timed_out()
    assert it.wanted == 0
    assert it.signal.read().timed_out == 12


def test_one_hot_session_wants_one_slot_for_as_long_as_it_is_hot() -> None:
    it = Slots(16)
    it.take("hot")
    found = []
    for _ in range(100):
        it.pass_(10)
        it.signal.accept_timed_out()
        found.append(it.wanted)
    assert found == [1.0] * 100


@pytest.mark.parametrize("slots", [1, 16])
def test_one_hot_session_that_is_given_back_and_comes_again_wants_no_more(slots: int) -> None:
    it = Slots(slots)
    for _ in range(20):
        it.take("hot")
        it.pass_(30)
        it.give_back("hot")
        it.pass_(0.2)
        assert it.wanted == pytest.approx(1, abs=0.05)


def test_when_all_slots_are_busy_and_sessions_wait_it_wants_up_to_twice_as_many() -> None:
    it = Slots(4)
    for number in range(4):
        it.take(f"first-{number}")
    for number in range(200):
        it.pass_(1)
        it.give_back(f"first-{number}" if number < 4 else f"next-{number - 4}")
        it.take(f"next-{number}")
    assert it.signal.read().turns_at_once > 50
    assert it.wanted == pytest.approx(8, rel=0.05)


def test_when_all_slots_are_busy_and_nobody_waits_it_wants_as_many_as_there_are() -> None:
    it = Slots(4)
    for number in range(4):
        it.take(f"long-{number}")
    it.pass_(WINDOW_S)
    assert it.wanted == 4


def test_a_session_that_a_slot_waited_long_for_is_no_sign_of_others_that_wait() -> None:
    it = Slots(1)
    for number in range(60):
        it.pass_(4)
        it.take(f"rare-{number}")
        it.pass_(1)
        it.give_back(f"rare-{number}")
    assert it.wanted == pytest.approx(0.2, abs=0.02)


def test_what_is_longer_ago_than_the_window_is_forgotten() -> None:
    it = Slots(2)
    it.take("a")
    it.take("b")
    it.pass_(100)
    it.give_back("a")
    it.give_back("b")
    it.pass_(WINDOW_S / 2)
    assert it.wanted == pytest.approx(1)
    it.pass_(WINDOW_S / 2)
    found = it.signal.read()
    assert (found.wanted, found.busy, found.accepted) == (0, 0, 0)


def test_an_outage_does_not_look_like_little_work() -> None:
    it = Slots(4)
    for number in range(3):
        it.take(str(number))
    it.pass_(WINDOW_S)
    assert it.wanted == 3
    it.broken = True
    for number in range(3):
        it.give_back(str(number))
    it.signal.accept_failed()
    it.pass_(WINDOW_S * 2)
    found = it.signal.read()
    assert (found.wanted, found.held, found.busy) == (3, True, 0)
    it.broken = False
    assert it.wanted == 0


def test_a_million_changes_keep_a_bounded_memory() -> None:
    it = Slots(2)
    for number in range(50_000):
        it.take(str(number))
        it.give_back(str(number))
        it.pass_(0.0001)
    assert len(it.signal._events) <= 10_000
    assert len(it.signal._marks) <= 10_001
    assert len(it.signal._given_back) <= 10_000
    assert 0 <= it.wanted <= 4


def test_the_metrics_say_the_same() -> None:
    it = Slots(7)
    it.take("a")
    it.pass_(10)
    it.signal.read()
    assert (SLOTS.get(), SLOTS_WANTED.get()) == (7, 1)


def test_one_session_that_waited_does_not_stand_for_all_slots() -> None:
    now_s = [0.0]
    signal = ScalingSignal(8, clock=lambda: now_s[0])
    for name in "abcdefgh":
        signal.accepted(name)
    now_s[0] = 30.0
    signal.given_back("a")
    signal.accepted("i")
    assert signal.read().turns_at_once == 1
    assert signal.read().wanted == pytest.approx(9.0), "eight that were busy, and the one that waited"
