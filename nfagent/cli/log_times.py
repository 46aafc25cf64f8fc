"""Times of `nfagent logs`: spans and dates that a person writes, and the formats in which records show theirs."""

from __future__ import annotations

import datetime as dt
import re

import click

_AGO = re.compile(r"(\d{1,9}[smhd])+", re.ASCII)
_PART = re.compile(r"(\d+)([smhd])", re.ASCII)
_CLOCK = re.compile(r"\d\d:\d\d(:\d\d)?", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SECOND_NS = 1_000_000_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LAST_SECOND = 253_402_300_799
"""The end of the year 9999."""

DEFAULT_FORMAT = "RFC3339Milli"
_DIGITS = {"RFC3339": 0, "RFC3339Milli": 3, "RFC3339Micro": 6, "RFC3339Nano": 9}
_LOCAL = {
    "StampMilli": "%b %e %H:%M:%S",
    "YearMonthDay": "%Y-%m-%d",
    "YearMonthDayHour": "%Y-%m-%dT%H%z",
    "YearMonthDayHourMinute": "%Y-%m-%dT%H:%M%z",
    "RFC1123Z": "%a, %d %b %Y %H:%M:%S %z",
}
TIME_FORMATS = (*_DIGITS, *_LOCAL)
"""By the names that Hubble has for them; those of RFC 3339 are in UTC, the others in this machine's time zone."""


def parse_ago(text: str) -> int:
    """Return the seconds of a time span: `90s`, `5m`, `1h30m`, `2d`. Raises click.BadParameter."""
    if not _AGO.fullmatch(text):
        raise click.BadParameter(f"{text!r} is no time span; write one like 90s, 5m, 1h30m, 2d")
    return sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def parse_when(text: str, now_ns: int) -> int:
    """Return nanoseconds since the epoch: of so long ago, or of a date and time. Raises click.BadParameter."""
    if _AGO.fullmatch(text):
        return max(0, now_ns - parse_ago(text) * _SECOND_NS)
    now = dt.datetime.fromtimestamp(now_ns // _SECOND_NS).astimezone()
    try:
        if _CLOCK.fullmatch(text):
            found = dt.datetime.combine(now.date(), dt.time.fromisoformat(text))
        else:
            found = dt.datetime.fromisoformat(text)
        when = found.astimezone() if found.tzinfo is None else found
        since_epoch = when - _EPOCH
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(
            f"{text!r} is no time; write a span (90s, 5m, 1h30m, 2d), a time of today (10:15), or a date like "
            "2026-01-31, 2026-01-31T10:15 or 2026-01-31T10:15:30Z"
        ) from None
    seconds = since_epoch.days * _SECONDS["d"] + since_epoch.seconds
    return min(max(0, seconds), _LAST_SECOND) * _SECOND_NS + since_epoch.microseconds * 1000


def shown_time(timestamp: str, form: str = DEFAULT_FORMAT) -> str:
    """Return the timestamp of a record in a format of TIME_FORMATS."""
    second, digits = timestamp[:19], timestamp[20:29]
    if form in _DIGITS:
        wanted = _DIGITS[form]
        return f"{second}.{digits[:wanted]}Z" if wanted else f"{second}Z"
    local = dt.datetime.fromisoformat(f"{second}+00:00").astimezone()
    found = local.strftime(_LOCAL[form])
    return f"{found}.{digits[:3]}" if form == "StampMilli" else found
