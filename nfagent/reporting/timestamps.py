"""Wall time as the API writes it (RFC 3339, UTC): meta/v1 Time and MicroTime."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_seconds(now_ns: int) -> str:
    """Write nanoseconds since 1970 as a Time: `2026-11-23T07:37:31Z`."""
    return datetime.fromtimestamp(now_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_microseconds(now_ns: int) -> str:
    """Write nanoseconds since 1970 as a MicroTime: `2026-11-23T07:37:31.000000Z`."""
    seconds, rest = divmod(now_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC).strftime('%Y-%m-%dT%H:%M:%S')}.{rest // 1000:06d}Z"


def to_nanoseconds(written: str) -> int | None:
    """Read a Time or MicroTime: nanoseconds since 1970; None where it can't be read."""
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        return None
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000 if moment.tzinfo is not None else None
