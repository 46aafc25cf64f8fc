"""Totals over rule changes, flushed tables and restarts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.metrics.packet_totals import CountKey, PacketTotals

NAMES = ("deny/ingress/a", "deny/ingress/b", "drop/spoofed")


def add(
    totals: PacketTotals,
    counters: Mapping[str, int],
    keys: Callable[[str], Iterable[CountKey]],
    *,
    is_whole: bool = True,
    table: int = 0,
    handles: Mapping[str, int] | None = None,
) -> None:
    for _ in totals.add(counters, keys, is_whole=is_whole, table=table, handles=handles or {}):
        pass


def keys_of(counter: str) -> tuple[CountKey, ...]:
    """Return the keys of a counter: one of its own, and one that all share."""
    return ((counter,), ("all",))


class Kernel:
    """Counters that count, vanish, and are made anew at 0; and what of it an agent can't miss."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}
        self.read: Counter[CountKey] = Counter()
        self.unread: Counter[str] = Counter()

    def count(self, name: str, packets: int) -> None:
        self.counters[name] = self.counters.get(name, 0) + packets
        self.unread[name] += packets

    def flush(self) -> None:
        """Make all counters anew: what wasn't read is lost."""
        self.counters = dict.fromkeys(self.counters, 0)
        self.unread.clear()

    def note_reading(self) -> None:
        for name, packets in self.unread.items():
            for key in keys_of(name):
                self.read[key] += packets
        self.unread.clear()


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("count"), st.sampled_from(NAMES), st.integers(0, 1000)),
        st.tuples(st.sampled_from(["read", "kill", "flush", "delete", "reboot"]), st.just(""), st.just(0)),
    ),
    max_size=40,
)


@given(EVENTS)
def test_totals_never_decrease_and_never_exceed_what_was_counted(events: list[tuple[str, str, int]]) -> None:
    kernel, boot, saved = Kernel(), 0, PacketTotals("0").encode()
    totals, counted = PacketTotals("0"), Counter[CountKey]()
    served: Counter[CountKey] = Counter()
    for event, name, packets in events:
        if event == "count":
            kernel.count(name, packets)
            counted.update(dict.fromkeys(keys_of(name), packets))
        elif event == "read":
            add(totals, kernel.counters, keys_of)
            saved = totals.encode()
            assert all(totals.totals[key] >= value for key, value in served.items())
            served = Counter(totals.totals)
            assert all(value <= counted[key] for key, value in served.items())
        elif event == "delete":
            kernel.counters.clear()
        elif event == "flush":
            kernel.flush()
        else:
            if event == "reboot":
                kernel.counters, boot = {}, boot + 1
            totals = PacketTotals(str(boot))
            assert totals.decode(saved)


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 1000), st.sampled_from(["", "read", "flush", "kill"])))
)
def test_what_is_read_before_each_flush_is_counted_exactly(events: list[tuple[str, int, str]]) -> None:
    kernel, totals = Kernel(), PacketTotals("boot")
    for name, packets, then in events:
        kernel.count(name, packets)
        if then:
            add(totals, kernel.counters, keys_of)
            kernel.note_reading()
        if then == "flush":
            kernel.flush()
            add(totals, kernel.counters, keys_of)
        if then == "kill":
            kept, totals = totals.encode(), PacketTotals("boot")
            assert totals.decode(kept)
    add(totals, kernel.counters, keys_of)
    kernel.note_reading()
    assert {key: value for key, value in totals.totals.items() if value} == {
        key: value for key, value in kernel.read.items() if value
    }


def test_readings_of_an_earlier_boot_do_not_hide_packets_of_this_one() -> None:
    totals = PacketTotals("monday")
    add(totals, {"drop/spoofed": 10}, keys_of)
    again = PacketTotals("tuesday")
    assert again.decode(totals.encode())
    add(again, {"drop/spoofed": 12}, keys_of)
    assert again.totals["drop/spoofed",] == 22


def test_a_counter_that_a_reading_lacks_by_chance_does_not_count_twice() -> None:
    totals = PacketTotals("boot")
    add(totals, {"a": 5, "b": 1}, keys_of)
    add(totals, {"b": 2}, keys_of, is_whole=False)
    add(totals, {"a": 6, "b": 3}, keys_of)
    assert (totals.totals["a",], totals.totals["b",]) == (6, 3)


def test_a_key_without_packets_has_a_total_and_one_that_is_gone_has_none() -> None:
    totals = PacketTotals("boot")
    add(totals, {"drop/spoofed": 0, "deny/ingress/a": 3}, lambda name: [(name,)])
    assert dict(totals.totals) == {("drop/spoofed",): 0, ("deny/ingress/a",): 3}
    list(totals.keep(lambda key: key != ("deny/ingress/a",)))
    assert dict(totals.totals) == {("drop/spoofed",): 0}


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b'{"boot":"b","readings":{},"totals":[[["a"],-1]]}', id="a total below 0"),
        pytest.param(b'{"boot":"b","readings":{"a":-1},"totals":[]}', id="a reading below 0"),
        pytest.param(b'{"boot":"b","readings":{}}', id="a field is missing"),
        pytest.param(b'{"boot":"b","readings":{"a":1},"totals":[[["a"],1]]', id="a torn file"),
    ],
)
def test_a_damaged_file_begins_at_0(kept: bytes) -> None:
    totals = PacketTotals("b")
    assert not totals.decode(kept)
    add(totals, {"a": 5}, lambda name: [(name,)])
    assert totals.totals["a",] == 5


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(kept: bytes) -> None:
    assert PacketTotals("b").decode(kept) in {True, False}


def test_counters_of_another_table_began_at_0_also_where_they_have_counted_more_since() -> None:
    totals = PacketTotals("boot")
    add(totals, {"drop/spoofed": 10}, keys_of, table=1)
    again = PacketTotals("boot")
    assert again.decode(totals.encode())
    add(again, {"drop/spoofed": 12}, keys_of, table=2)
    assert again.totals["drop/spoofed",] == 22
    add(again, {"drop/spoofed": 13}, keys_of, table=2)
    assert again.totals["drop/spoofed",] == 23


def test_what_a_counter_counted_for_another_is_not_its_new_owners() -> None:
    totals = PacketTotals("boot")
    add(totals, {"counted4 10.0.0.1": 1, "counted6 fd00::1": 1}, lambda _: [("pod", "old")])
    add(totals, {"counted4 10.0.0.1": 5, "counted6 fd00::1": 5}, lambda _: [("pod", "new")])
    list(totals.keep(lambda key: key == ("pod", "new")))
    assert totals.totals == {("pod", "new"): 0}
    add(totals, {"counted4 10.0.0.1": 7, "counted6 fd00::1": 5}, lambda _: [("pod", "new")])
    assert totals.totals == {("pod", "new"): 2}


def test_a_counter_made_anew_counts_for_its_new_owner() -> None:
    totals = PacketTotals("boot")
    add(totals, {"counted4 10.0.0.1": 9}, lambda _: [("pod", "old")])
    add(totals, {"counted4 10.0.0.1": 2}, lambda _: [("pod", "new")])
    assert totals.totals == {("pod", "old"): 9, ("pod", "new"): 2}


def test_a_counter_with_another_handle_began_at_0_also_where_it_has_counted_more_since() -> None:
    totals = PacketTotals("boot")
    add(totals, {"deny/ingress/a": 10}, keys_of, handles={"deny/ingress/a": 3})
    again = PacketTotals("boot")
    assert again.decode(totals.encode())
    add(again, {"deny/ingress/a": 12}, keys_of, handles={"deny/ingress/a": 8})
    assert again.totals["deny/ingress/a",] == 22
    assert again.resets == 0


def test_a_counter_that_was_deleted_after_its_last_reading_begins_at_0() -> None:
    totals = PacketTotals("boot")
    add(totals, {"counted4 10.0.0.1": 5}, keys_of)
    totals.forget_counters(["counted4 10.0.0.1"])
    add(totals, {"counted4 10.0.0.1": 7}, keys_of)
    assert totals.totals["all",] == 12


def test_what_was_read_during_a_reading_of_all_counts_once() -> None:
    totals = PacketTotals("boot")
    counter = "counted4 10.0.0.1"
    add(totals, {counter: 5}, lambda _: [("pod", "old")])
    totals.begin_reading()
    totals.add_newer({counter: 9}, lambda _: [("pod", "old")])
    totals.begin_totals([("pod", "new")])
    add(totals, {counter: 7}, lambda _: [("pod", "new")])  # read before the one above
    assert totals.totals == {("pod", "old"): 9, ("pod", "new"): 0}
    totals.begin_reading()
    add(totals, {counter: 10}, lambda _: [("pod", "new")])
    assert totals.totals == {("pod", "old"): 9, ("pod", "new"): 1}


def test_counters_that_another_program_reset_are_noticed_and_no_total_decreases() -> None:
    totals = PacketTotals("boot")
    add(totals, {"a": 5, "b": 0}, keys_of)
    add(totals, {"a": 1, "b": 1}, keys_of)
    assert (totals.totals["a",], totals.totals["b",], totals.resets) == (6, 1, 1)


def test_a_reading_of_many_counters_is_added_in_steps() -> None:
    totals = PacketTotals("boot")
    steps = sum(1 for _ in totals.add({f"c{number}": 1 for number in range(12_000)}, keys_of))
    assert steps >= 12_000 // 200
    assert totals.totals["all",] == 12_000
