"""A wait of a test fails where what it awaits doesn't come."""

from __future__ import annotations

import pytest

from tests.support.packet_labs import holds_within, wait_until


def test_what_never_comes_fails_the_test_and_is_named() -> None:
    seen: list[int] = []
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: .*len\(seen\) > 1") as failed:
        wait_until(lambda: len(seen) > 1, 0.05)
    assert "\n" not in str(failed.value)
    assert not holds_within(lambda: len(seen) > 1, 0.05)


def test_what_comes_ends_the_wait() -> None:
    answers = iter((False, False, True))
    wait_until(lambda: next(answers))
    assert list(answers) == []
