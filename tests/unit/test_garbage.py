"""How a worker's process collects garbage: in a process of its own, since it is for all of one."""

import subprocess
import sys

PROGRAM = """
import gc, weakref
from worker.garbage import collect_seldom

class Node:
    def __init__(self):
        self.me = self

before = [Node() for _ in range(3)]
collect_seldom()
assert gc.get_freeze_count() > 1_000, "what was there is not looked through again"

alive = weakref.WeakSet()
most = 0
for _ in range(100_000):
    alive.add(Node())
    most = max(most, len(alive))
print(most)
"""


def test_garbage_is_still_collected_and_what_was_there_is_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert 500 < int(done.stdout) < 20_000, "later than by default, but not much"
