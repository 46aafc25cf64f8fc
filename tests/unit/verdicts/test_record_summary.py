"""Sums of records: who talks to whom, what is denied most, and what is forgotten where there are too many names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nfagent.verdicts.record_summary import KeyCounts, RecordSummary, TopDenied
from tests.unit.verdicts.test_record_filter import record


def test_pairs_are_counted_by_verdict_the_busiest_first() -> None:
    found = RecordSummary()
    for second, verdict in enumerate(["allow", "deny", "deny"]):
        found.add(record(verdict=verdict, timestamp=f"2026-01-02T03:04:0{second}.000000000Z"))
    view = found.view(10)
    assert [(pair.source, pair.destination, pair.verdict, pair.records) for pair in view.pairs] == [
        ("shop/web", "data/db:5432/tcp", "deny", 2),
        ("shop/web", "data/db:5432/tcp", "allow", 1),
    ]
    assert (view.records, view.verdicts, view.pairs_in_all) == (3, {"allow": 1, "deny": 2}, 2)
    assert (view.first[17:19], view.last[17:19], view.pairs[0].latest[17:19]) == ("00", "02", "02")


def test_what_is_denied_most_is_by_source_destination_port_and_policy() -> None:
    found = TopDenied()
    for item in (record(), record("203.0.113.9", ports=(None, None), protocol="icmp"), record(verdict="allow")):
        found.add(item)
    view = found.view(1)
    assert view.denied == 2
    assert [item.name for item in (*view.destinations, *view.policies)] == ["data/db", "data/wall"]
    assert {item.name for item in found.view(5).ports} == {"5432/tcp", "icmp"}
    assert {item.name for item in found.view(5).sources} == {"shop/web", "203.0.113.9"}


@given(st.lists(st.integers(0, 30), max_size=300))
def test_of_too_many_names_the_frequent_stay_and_no_count_is_off_by_more_than_it_says(names: list[int]) -> None:
    counts: KeyCounts[int] = KeyCounts(most=4)
    for name in names:
        counts.add(name, record())
    assert len(counts.found) <= 8
    for name in set(names):
        shown = counts.found[name].packets if name in counts.found else 0
        assert names.count(name) - counts.error <= shown <= names.count(name)
