"""Prometheus's own tool, where it is installed."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

_PROMTOOL: Final = shutil.which("promtool")

needs_promtool: Final = pytest.mark.skipif(
    _PROMTOOL is None, reason="promtool is not on the PATH (Debian package: prometheus)"
)


def promtool(*arguments: str, folder: Path) -> None:
    """Run it; what it finds fails the test."""
    assert _PROMTOOL is not None
    done = subprocess.run([_PROMTOOL, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
