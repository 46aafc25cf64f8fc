"""Reference counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.model.ref_counts import RefCounts


def test_only_the_first_user_of_a_key_makes_it_new() -> None:
    counts: RefCounts[str] = RefCounts()
    assert counts.acquire("a")
    assert not counts.acquire("a")
    assert counts == {"a": 2}


def test_only_the_last_user_of_a_key_removes_it() -> None:
    counts: RefCounts[str] = RefCounts({"a": 2})
    assert not counts.release("a")
    assert counts.release("a")
    assert not counts


def test_a_key_without_users_cannot_be_released() -> None:
    counts: RefCounts[str] = RefCounts()
    counts.acquire("a")
    counts.release("a")
    with pytest.raises(KeyError):
        counts.release("a")
    assert not counts


@given(st.lists(st.sampled_from("abc")))
def test_keys_are_released_in_any_order_until_none_is_left(keys: list[str]) -> None:
    counts: RefCounts[str] = RefCounts()
    assert sum(counts.acquire(key) for key in keys) == len(set(keys))
    assert sum(counts.release(key) for key in sorted(keys)) == len(set(keys))
    assert not counts
