"""How full conntrack's table is, and what is logged of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nfagent.kernel.conntrack_usage import ConntrackUsage, ConntrackUsageWatch, read_conntrack_usage

FULL = "the table is full, and packets of new connections are dropped"


@pytest.mark.parametrize(
    ("entries", "limit", "text", "nearly", "full"),
    [
        pytest.param(84, 100, "84 of at most 100 connections", False, False, id="there is room"),
        pytest.param(85, 100, "85 of at most 100 connections", True, False, id="nearly full"),
        pytest.param(100, 100, f"100 of at most 100 connections: {FULL}", True, True, id="full"),
        pytest.param(101, 100, f"101 of at most 100 connections: {FULL}", True, True, id="over a limit set later"),
        pytest.param(5000, 0, "5,000 connections", False, False, id="without a limit"),
    ],
)
def test_a_table_with_these_entries(entries: int, limit: int, text: str, *, nearly: bool, full: bool) -> None:
    usage = ConntrackUsage(entries, limit)
    assert (str(usage), usage.is_nearly_full, usage.is_full) == (text, nearly, full)


@pytest.mark.parametrize(
    ("files", "usage"),
    [
        pytest.param({"count": "7\n", "max": "100\n"}, ConntrackUsage(7, 100), id="both numbers"),
        pytest.param({"count": "7\n"}, None, id="no limit to be read"),
        pytest.param({"count": "x", "max": "100"}, None, id="no number"),
        pytest.param({}, None, id="no conntrack"),
    ],
)
def test_what_proc_says(files: dict[str, str], usage: ConntrackUsage | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read_conntrack_usage((tmp_path / "count", tmp_path / "max")) == usage


def test_a_table_that_fills_is_logged_twice_and_once_when_it_has_room_again(caplog: pytest.LogCaptureFixture) -> None:
    entries = (10, 86, 90, None, 100, 100, 99, 100, 20, 10)
    readings = [None if number is None else ConntrackUsage(number, 100) for number in entries]
    watch = ConntrackUsageWatch(iter(readings).__next__)
    with caplog.at_level("INFO"):
        for _ in range(len(readings)):
            watch.look()
    fix = "raise the limit: sysctl -w net.netfilter.nf_conntrack_max=N"
    full = f"conntrack has 100 of at most 100 connections: {FULL}; {fix}"
    assert caplog.messages == [
        f"conntrack has 86 of at most 100 connections; {fix}",
        full,
        "resolved: conntrack has room again: 20 of at most 100 connections",
    ]
