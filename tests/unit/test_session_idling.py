"""How long an idle session is kept, on a clock that the test moves."""

import pytest

from worker.given_back import GivenBack
from worker.sessions.idling import IdlePolicy

LONGEST_S = 10.0


class Clock:
    """Goes forward only when told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def policy(clock: Clock) -> IdlePolicy:
    return IdlePolicy(LONGEST_S, clock)


def open_some(policy: IdlePolicy, *, after_s: float, names: str = "abcdefghij") -> None:
    for name in names:
        policy.accepted(name, after_s / 2)
        policy.opened(after_s)


def test_a_session_is_kept_for_as_long_as_is_set_until_others_are_known_to_wait(policy: IdlePolicy) -> None:
    assert policy.keep_s(all_busy=True) == LONGEST_S


def test_where_others_wait_a_session_is_kept_no_longer_than_it_takes_to_open_one(policy: IdlePolicy) -> None:
    open_some(policy, after_s=0.3)
    assert policy.keep_s(all_busy=True) == pytest.approx(0.3)


def test_the_time_is_that_of_the_last_ones(policy: IdlePolicy) -> None:
    open_some(policy, after_s=0.3)
    open_some(policy, after_s=0.1, names="klmnopqrstuvwxyz")
    assert 0.1 < policy.keep_s(all_busy=True) < 0.12


def test_with_a_free_slot_nobody_waits(policy: IdlePolicy) -> None:
    open_some(policy, after_s=0.3)
    assert policy.keep_s(all_busy=False) == LONGEST_S


def test_a_slot_that_asked_in_vain_shows_that_nobody_waits(policy: IdlePolicy) -> None:
    open_some(policy, after_s=0.3)
    policy.none_came()
    assert policy.keep_s(all_busy=True) == LONGEST_S


def test_a_slot_that_had_to_wait_for_its_session_shows_that_nobody_waits(policy: IdlePolicy) -> None:
    open_some(policy, after_s=0.3)
    policy.accepted("later", 3.0)
    policy.opened(3.2)
    assert policy.keep_s(all_busy=True) == LONGEST_S
    policy.accepted("at-once", 0.2)
    policy.accepted("at-once-too", 0.2)
    assert policy.keep_s(all_busy=True) == pytest.approx(0.3), "how long that one took says nothing of opening"


def test_a_session_that_comes_again_soon_shows_nobody_else_waiting(policy: IdlePolicy, clock: Clock) -> None:
    open_some(policy, after_s=0.3)
    policy.given_back("a")
    clock.now_s += 4
    policy.accepted("a", 0.2)
    assert policy.keep_s(all_busy=True) == LONGEST_S
    for name in "ab":
        policy.given_back(name)
        clock.now_s += 6
        policy.accepted(name, 0.2)
    assert policy.keep_s(all_busy=True) == pytest.approx(0.3)


def test_one_session_that_was_there_at_once_may_have_come_by_chance(policy: IdlePolicy) -> None:
    open_some(policy, after_s=0.3)
    policy.none_came()
    policy.accepted("y", 0.2)
    assert policy.keep_s(all_busy=True) == LONGEST_S
    policy.accepted("z", 0.2)
    assert policy.keep_s(all_busy=True) < LONGEST_S


def test_it_is_never_kept_for_longer_than_is_set(policy: IdlePolicy) -> None:
    open_some(policy, after_s=60.0)
    policy.accepted("z", 0.1)
    assert policy.keep_s(all_busy=True) <= LONGEST_S


def test_what_was_given_back_is_remembered_within_a_bound(clock: Clock) -> None:
    given_back = GivenBack(clock)
    for number in range(30_000):
        given_back.note(str(number))
    assert len(given_back) == 10_000
    assert given_back.took("29999")
    assert not given_back.took("29999"), "once"
    assert not given_back.took("1"), "forgotten"
