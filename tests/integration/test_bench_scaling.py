"""A short look at scaling: the whole of it is `make bench-scaling`."""

import msgspec
import pytest

from bench.scaling import WORKS, measure

pytestmark = pytest.mark.anyio


@pytest.mark.slow
async def test_one_hot_session_occupies_one_slot_however_many_workers_there_are() -> None:
    hot = msgspec.structs.replace(WORKS[-1], commands=400)
    assert hot.brooks == 1
    run = await measure(hot, 2, window_s=1.0)
    assert run.commands > 0
    assert sorted(signal.busy for signal in run.signals) == [0, 1]
    assert run.wanted <= 1.05
