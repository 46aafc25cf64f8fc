"""Time formats of the API."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.reporting.timestamps import to_microseconds, to_nanoseconds, to_seconds

NOW = 1_795_419_451_000_042_999


def test_seconds_and_microseconds_are_encoded_as_in_the_api() -> None:
    assert to_seconds(NOW) == "2026-11-23T07:37:31Z"
    assert to_microseconds(NOW) == "2026-11-23T07:37:31.000042Z"
    assert to_microseconds(0) == "1970-01-01T00:00:00.000000Z"


@given(st.integers(0, 250_000_000_000_000_000))
def test_microseconds_survive_encoding_and_decoding(microseconds: int) -> None:
    assert to_nanoseconds(to_microseconds(microseconds * 1000)) == microseconds * 1000


@pytest.mark.parametrize("written", ["", "soon", "2026-11-23T07:37:31", "2026-11-23", "2026-13-01T00:00:00Z"])
def test_text_that_is_no_api_time_is_none(written: str) -> None:
    assert to_nanoseconds(written) is None


@given(st.text(max_size=40) | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[+-][0-9]{2}:59"))
def test_any_text_is_a_time_or_none(written: str) -> None:
    assert isinstance(to_nanoseconds(written), int | None)


def test_a_time_of_another_zone_is_decoded() -> None:
    assert to_nanoseconds("1970-01-01T02:00:00+02:00") == 0
