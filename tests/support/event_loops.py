"""Tests on both event loops that a worker may run on: how a connection ends differs between them."""

import importlib.util

import pytest

_NEEDS_UVLOOP = pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")

on_both_event_loops = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=_NEEDS_UVLOOP),
    ],
)
"""Put it into `pytestmark`."""
