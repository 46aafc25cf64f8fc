"""Packet counters that are read while the table changes."""

from __future__ import annotations

import pytest

from nfagent.kernel import packet_counters
from nfagent.kernel.packet_counters import CounterReading


def test_a_reading_is_of_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    handles = iter((1, 2, 2, 2))  # made anew between its handle and its counters
    monkeypatch.setattr(packet_counters, "_handle", lambda: next(handles))
    monkeypatch.setattr(packet_counters, "read_named_counters", lambda: CounterReading({"deny/ingress/a": 5}))
    monkeypatch.setattr(packet_counters, "read_address_counters", lambda _: CounterReading({}))
    assert packet_counters.read_counters() == CounterReading({"deny/ingress/a": 5}, table=2)
