"""Full collections at intervals, in a process of its own: what they free, and when they are left out."""

from __future__ import annotations

import subprocess
import sys

import pytest

_BEGIN = """
import gc, sys
from nfagent.clock import SystemClock
from nfagent.system.gc_tuning import relax_collection
from nfagent.system.garbage_collections import GarbageCollections

relax_collection()
cpu = iter(TIMES)
collections = GarbageCollections(SystemClock(), lambda: next(cpu))
collections.collect()
"""

_FREE_LISTS = """
before = sys.getallocatedblocks()
kept = [[(None,) * length for _ in range(2000)] for length in range(1, 15)]
del kept
filled = sys.getallocatedblocks()
collections.collect()
print(filled - before > 20_000, sys.getallocatedblocks() - before < 2_000)
"""

_MUCH_NEW = """
new = [[] for _ in range(NUMBER)]
print(collections.collect(), collections.collect())
"""

_FREEZE = """
print(gc.get_freeze_count() > 0)
"""


def run(script: str, times: tuple[float, ...] = (0.0, 0.001) * 3, number: int = 0) -> list[bool]:
    text = (_BEGIN + script).replace("TIMES", repr(times)).replace("NUMBER", str(number))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, check=True, text=True)
    return [word == "True" for word in done.stdout.split()]


def test_memory_that_free_lists_keep_is_given_back() -> None:
    assert run(_FREE_LISTS) == [True, True]


@pytest.mark.parametrize(
    ("number", "done"),
    [
        pytest.param(50_000, [True, True], id="a few thousand new objects are walked"),
        pytest.param(500_000, [False, True], id="a burst of new objects isn't, until it is over"),
    ],
)
def test_a_collection_is_left_out_after(number: int, done: list[bool]) -> None:
    assert run(_MUCH_NEW, number=number) == done


@pytest.mark.parametrize(
    ("seconds", "frozen"),
    [
        pytest.param(0.001, [False], id="a short one leaves its objects to the next"),
        pytest.param(0.010, [True], id="a long one takes them out of the next"),
    ],
)
def test_after_a_collection_of(seconds: float, frozen: list[bool]) -> None:
    assert run(_FREEZE, (0.0, seconds)) == frozen
