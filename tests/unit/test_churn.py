"""Memory in a small cluster doesn't grow with the number of objects that were added and deleted."""

from __future__ import annotations

import gc
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from benchmarks.suites.churn import CHANGES, churn, round_of, small_cluster
from nfagent.desired.state import DesiredState
from nfagent.model.weighted_cache import WeightedCache

ROUNDS = 1_000
MOST_BYTES = 5 * 1024 * 1024
"""Of 8,000 changes; most of it are caches, which stay bounded after many different keys."""


def test_memory_does_not_grow_with_objects_that_come_and_go() -> None:
    # In a process of its own: here the caches have what tests before this one have put there.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        held = process.submit(held_bytes, ROUNDS).result()
    assert held < MOST_BYTES, f"{held:,} bytes after {ROUNDS * CHANGES:,} changes"


def held_bytes(rounds: int) -> int:
    """Return the memory that is allocated in so many rounds of changes and not freed."""
    desired = DesiredState("a")
    for item in small_cluster("a"):
        desired.put(item)
    churn(desired, range(50))
    gc.collect()
    tracemalloc.start(1)
    churn(desired, range(50, 50 + rounds))
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    return held


def test_a_round_of_the_churn_has_each_kind_once_and_differs_from_all_others() -> None:
    first, second = round_of(1, "a"), round_of(2, "a")
    assert [item.ref.kind for item in first] == ["Node", "Namespace", "Pod", "NetworkPolicy"]
    assert not {item.ref for item in first} & {item.ref for item in second}


class RecordingFunction:
    """A function that records its arguments."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def __call__(self, key: str) -> str:
        self.keys.append(key)
        if key == "bad":
            raise ValueError(key)
        return key.upper()


def test_a_cached_value_is_not_computed_again() -> None:
    asked = RecordingFunction()
    recent = WeightedCache(asked, lambda key, _: len(key), 10)
    assert [recent("a"), recent("b"), recent("a")] == ["A", "B", "A"]
    assert (asked.keys, len(recent), recent.weight) == (["a", "b"], 2, 2)


def test_values_beyond_the_total_size_are_evicted_and_computed_again() -> None:
    asked = RecordingFunction()
    recent = WeightedCache(asked, lambda key, _: len(key), 10)
    for key in ("aaaa", "bbbb", "cccc", "aaaa"):
        assert recent(key) == key.upper()
        assert recent.weight <= 10
    assert asked.keys == ["aaaa", "bbbb", "cccc", "aaaa"]


def test_a_value_beyond_the_size_alone_is_not_cached_and_evicts_nothing() -> None:
    asked = RecordingFunction()
    recent = WeightedCache(asked, lambda key, _: len(key), 10)
    recent("a")
    assert recent("b" * 11) == "B" * 11
    assert (len(recent), recent("a"), len(asked.keys)) == (1, "A", 2)


def test_a_failed_computation_is_not_cached() -> None:
    recent = WeightedCache(RecordingFunction(), lambda key, _: len(key), 10)
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            recent("bad")
    assert len(recent) == 0
