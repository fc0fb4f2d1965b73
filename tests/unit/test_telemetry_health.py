"""Alive and ready, or why not."""

import time

from worker.redaction import Redactor, Secret
from worker.telemetry.health import Health
from worker.telemetry.instruments import DRAIN_DURATION, STATE
from worker.telemetry.stages import Stages


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def codes(health: Health) -> list[str]:
    status = health.readiness()
    assert status.ok == (not status.reasons)
    return [reason.code for reason in status.reasons]


def test_it_is_ready_from_when_everything_is_open_until_it_drains() -> None:
    clock = Clock()
    health = Health(stuck_after_s=60, clock=clock)
    assert codes(health) == ["starting"]
    health.running(lambda: None)
    assert codes(health) == []
    health.draining()
    clock.now_s = 12
    assert codes(health) == ["draining"]
    assert "for 12 s" in health.readiness().reasons[0].detail
    assert health.liveness().ok, "it is not to be ended for that"


def test_a_signal_that_comes_before_everything_is_open_makes_it_drain_for_good() -> None:
    health = Health(stuck_after_s=60)
    health.draining()
    health.running(lambda: None)
    assert codes(health) == ["draining"]


def test_what_all_sessions_need_being_out_of_order_is_a_reason_without_its_secrets() -> None:
    trouble: list[str] = []
    health = Health(stuck_after_s=60, tidy=Redactor([Secret("planted-secret")]))
    health.running(lambda: trouble[-1] if trouble else None)
    assert codes(health) == []
    trouble.append("AccountKey=abcdefgh; planted-secret")
    (reason,) = health.readiness().reasons
    assert (reason.code, reason.detail) == ("breaker-open", "AccountKey=***; ***")
    assert health.is_broken


def test_every_reason_there_is_is_told() -> None:
    health = Health(stuck_after_s=60)
    health.running(lambda: "no answer")
    health.draining()
    assert codes(health) == ["draining", "breaker-open"]


def test_the_metrics_say_the_same() -> None:
    clock = Clock()
    health = Health(stuck_after_s=60, clock=clock)
    assert [STATE.get(state) for state in ("starting", "running", "draining")] == [1, 0, 0]
    health.running(lambda: None)
    assert [STATE.get(state) for state in ("starting", "running", "draining")] == [0, 1, 0]
    health.draining()
    clock.now_s = 3
    health.update()
    assert [STATE.get(state) for state in ("starting", "running", "draining")] == [0, 0, 1]
    assert DRAIN_DURATION.get() == 3
    DRAIN_DURATION.set(0)


def test_a_stage_that_hangs_is_no_sign_of_life_until_it_gets_on() -> None:
    watched = Stages()
    health = Health(stuck_after_s=0.0, watched=watched)
    assert health.liveness().ok
    with watched.doing("decide"):
        time.sleep(0.06)  # what is told is rounded to a tenth of a second
        status = health.liveness()
        assert (status.ok, [reason.code for reason in status.reasons]) == (False, ["stage-stuck"])
        assert "decide" in status.reasons[0].detail
        assert watched.stuck(60) == []
        watched.moved()
        assert health.liveness().ok
    assert health.liveness().ok


def test_stages_within_each_other_move_the_inner_one() -> None:
    watched = Stages()
    with watched.doing("decide"):
        with watched.doing("settle"):
            watched.moved()
        assert len(watched.stuck(-1)) == 1
    assert watched.stuck(-1) == []
