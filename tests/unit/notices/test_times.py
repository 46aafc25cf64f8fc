"""Time as the API writes it."""

from __future__ import annotations

from nfagent.notices.times import to_microseconds, to_seconds

NOW = 1_795_419_451_000_042_999


def test_seconds_and_microseconds_are_written_as_the_api_has_them() -> None:
    assert to_seconds(NOW) == "2026-11-23T07:37:31Z"
    assert to_microseconds(NOW) == "2026-11-23T07:37:31.000042Z"
    assert to_microseconds(0) == "1970-01-01T00:00:00.000000Z"
