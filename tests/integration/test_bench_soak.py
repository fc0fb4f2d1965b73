"""A short soak: the long one is `make soak`."""

import pytest

from bench.soak import soak

pytestmark = pytest.mark.anyio


@pytest.mark.slow
async def test_nothing_grows_over_a_few_thousand_commands() -> None:
    result = await soak(commands=6_000, warm_up=2_000)
    assert result.findings == []
    assert result.samples[-1].usage.cpu_s > 0
