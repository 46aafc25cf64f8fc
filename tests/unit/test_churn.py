"""Memory in a small cluster doesn't grow with the number of objects that were added and deleted."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from functools import _lru_cache_wrapper
from multiprocessing import get_context
from typing import NamedTuple

import pytest

from benchmarks.suites.churn import CHANGES, churn, round_of, small_cluster
from nfagent.desired.state import DesiredState
from nfagent.model.weighted_cache import WeightedCache

ROUNDS = 100
SEGMENTS = 3
MOST_BYTES = 8 * 1024
"""Of one segment's 800 changes, when all caches are empty: ten bytes a change."""


class MemoryGrowth(NamedTuple):
    """The bytes that each segment of a churn left behind, and the caches without a bound that it filled."""

    by_segment: list[int]
    unbounded: list[str]

    @property
    def steady(self) -> int:
        """What every segment leaves: a table that grows does so in one of them, a leak in all."""
        return min(self.by_segment)


@pytest.fixture(scope="module")
def growth() -> MemoryGrowth:
    return in_new_process(leaks=False)


def test_memory_does_not_grow_with_objects_that_come_and_go(growth: MemoryGrowth) -> None:
    assert growth.steady < MOST_BYTES, f"{growth.by_segment} bytes after {ROUNDS * CHANGES:,} changes each"


def test_every_cache_that_objects_fill_has_a_bound(growth: MemoryGrowth) -> None:
    assert growth.unbounded == []


def test_one_object_of_eight_changes_that_is_kept_is_found() -> None:
    assert in_new_process(leaks=True).steady > 2 * MOST_BYTES


def in_new_process(*, leaks: bool) -> MemoryGrowth:
    # Here caches and tables have what tests before this one have put there.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        return process.submit(measured_growth, leaks=leaks).result()


def measured_growth(*, leaks: bool) -> MemoryGrowth:
    """Return what segments of a churn leave behind; leaks: a Pod of each round is kept."""
    desired = DesiredState("a")
    for item in small_cluster("a"):
        desired.put(item)
    churn(desired, range(50))
    kept, held, unbounded = list[object](), list[int](), list[str]()
    tracemalloc.start(1)
    for begin in range(50, 50 + (SEGMENTS + 1) * ROUNDS, ROUNDS):
        rounds = range(begin, begin + ROUNDS)
        churn(desired, rounds)
        kept += [round_of(number, "a")[2] for number in rounds if leaks]
        unbounded += emptied_caches()
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    return MemoryGrowth([later - earlier for earlier, later in itertools.pairwise(held)], unbounded)


def emptied_caches() -> list[str]:
    """Empty all caches, whose bounds have tests of their own; return those without a bound that had more than one."""
    unbounded = []
    for cache in gc.get_objects():
        if isinstance(cache, WeightedCache):
            cache.clear()
        elif isinstance(cache, _lru_cache_wrapper):
            if cache.cache_parameters()["maxsize"] is None and cache.cache_info().currsize > 1:
                unbounded.append(cache.__qualname__)
            cache.cache_clear()
    return unbounded


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
