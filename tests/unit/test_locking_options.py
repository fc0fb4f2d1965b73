import math
from typing import Any

import pytest

from worker.locking.options import LeaseOptions


def test_the_defaults_fit_each_other() -> None:
    LeaseOptions()


@pytest.mark.parametrize(("duration_s", "renew_after_s"), [(15, 5), (30, 20), (60, 50), (60, 0.1)])
def test_a_renewal_that_leaves_time_for_two_requests_is_allowed(duration_s: int, renew_after_s: float) -> None:
    LeaseOptions(duration_s=duration_s, renew_after_s=renew_after_s)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"duration_s": 14, "renew_after_s": 1}, "duration_s: is 14; use 15 to 60 seconds"),
        ({"duration_s": 61}, "duration_s: is 61"),
        ({"duration_s": 15, "renew_after_s": 5.5}, "renew_after_s: is 5.5; use more than 0 and at most 5"),
        ({"renew_after_s": 0}, "renew_after_s: is 0"),
        ({"renew_after_s": math.nan}, "renew_after_s: is nan"),
        ({"acquire_timeout_s": -1}, "acquire_timeout_s: is -1"),
        ({"acquire_timeout_s": math.inf}, "acquire_timeout_s: is inf"),
        ({"backoff_initial_s": 0}, "backoff_initial_s: is 0"),
        ({"backoff_initial_s": 3, "backoff_max_s": 2}, "backoff_initial_s: is 3"),
    ],
)
def test_an_option_that_could_not_hold_a_lease_is_refused_by_name(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        LeaseOptions(**wrong)


def test_every_wrong_option_is_told() -> None:
    with pytest.raises(ValueError, match=r"duration_s: .*; renew_after_s: .*; acquire_timeout_s: "):
        LeaseOptions(duration_s=5, acquire_timeout_s=-1)
