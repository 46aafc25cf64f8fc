"""What was denied in the last minutes: counted while it is recent, and bounded."""

from __future__ import annotations

from nfagent.metrics.increase_window import IncreaseWindow
from nfagent.verdicts.denied_window import DeniedKey, DeniedWindow
from tests.unit.verdicts.test_record_filter import record

KEY = DeniedKey("shop/web", "data/db:5432/tcp", ("data/wall",))


def test_packets_count_for_five_minutes() -> None:
    window = DeniedWindow()
    window.add(record(), 100.0)
    window.add(record(), 250.0)
    window.add(record(verdict="allow"), 250.0)
    assert window.top(399.0, 3) == [(KEY, 2)]
    assert window.top(401.0, 3) == [(KEY, 1)]
    assert window.top(900.0, 3) == []


def test_beyond_the_number_of_keys_packets_are_not_named() -> None:
    window = DeniedWindow(most_keys=1)
    for port in (5432, 5433, 5432):
        window.add(record(ports=(1, port)), 0.0)
    assert window.top(1.0, 3) == [(KEY, 2)]
    window.add(record(ports=(1, 5433)), 301.0)
    assert len(window.top(301.0, 3)) == 1, "what is forgotten makes room"


def test_the_increase_of_totals_is_that_since_the_begin_of_the_window() -> None:
    window: IncreaseWindow[str] = IncreaseWindow(300.0)
    assert window.increase(0.0, {"a": 5}) == (0.0, {})
    for at in range(0, 601, 30):
        window.add(float(at), {"a": 5 + at})
    assert window.increase(615.0, {"a": 620, "b": 2}) == (315.0, {"a": 315, "b": 2})


def test_a_total_that_began_anew_or_is_gone_is_no_decrease() -> None:
    window: IncreaseWindow[str] = IncreaseWindow(300.0)
    window.add(0.0, {"a": 5, "gone": 7})
    assert window.increase(10.0, {"a": 4}) == (10.0, {})
