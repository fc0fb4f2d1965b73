"""Where pytest keeps the stack that was chosen."""

import pytest

from tests.support.stacks.choose import Choice

STACK = pytest.StashKey[Choice]()
