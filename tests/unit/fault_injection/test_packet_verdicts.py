"""Which packets count as wrong, by when they were sent and whether they arrived."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from tests.fault_injection.packet_verdicts import (
    Change,
    Verdict,
    WrongPackets,
    describe,
    last_of_old,
    longest_gap,
    wrong_packets,
)

SENT_AT = tuple(float(number) for number in range(1, 11))
"""Packet 1 at 1.0, packet 10 at 10.0."""
CHANGE = Change(begun=3.5, ended=7.5)
EVERY = frozenset(range(1, 11))


@pytest.mark.parametrize(
    ("verdict", "arrived", "expected"),
    [
        pytest.param("allowed", EVERY, WrongPackets(), id="all that is allowed arrives"),
        pytest.param("allowed", EVERY - {5}, WrongPackets(missing=(5,)), id="one that is allowed is missing"),
        pytest.param("forbidden", (), WrongPackets(), id="nothing that is forbidden arrives"),
        pytest.param("forbidden", {5}, WrongPackets(passed=(5,)), id="one that is forbidden arrives"),
        pytest.param("closing", {1, 2, 3, 4, 5}, WrongPackets(), id="it closes during the change"),
        pytest.param("closing", {1, 3, 4}, WrongPackets(missing=(2,)), id="it is closed before the change"),
        pytest.param("closing", {1, 2, 3, 4, 8}, WrongPackets(passed=(8,)), id="it is open after the change"),
        pytest.param(
            "closing", {1, 2, 3, 4, 6}, WrongPackets(returned=(6,)), id="it closes, and opens during the change"
        ),
        pytest.param("opening", EVERY - {1, 2, 3, 4}, WrongPackets(), id="it opens during the change"),
        pytest.param("opening", EVERY - {1, 3}, WrongPackets(passed=(2,)), id="it is open before the change"),
        pytest.param("opening", {5, 6, 7, 9, 10}, WrongPackets(missing=(8,)), id="it is closed after the change"),
        pytest.param(
            "opening", {4, 7, 8, 9, 10}, WrongPackets(returned=(5, 6)), id="it opens, and closes during the change"
        ),
    ],
)
def test_packets_are_wrong_when(verdict: Verdict, arrived: Collection[int], expected: WrongPackets) -> None:
    assert wrong_packets(verdict, SENT_AT, arrived, CHANGE) == expected


def test_without_a_change_the_old_verdicts_are_right() -> None:
    never = Change(begun=float("inf"), ended=float("inf"))
    assert wrong_packets("closing", SENT_AT, EVERY, never) == WrongPackets()
    assert wrong_packets("opening", SENT_AT, (), never) == WrongPackets()


def test_a_description_has_number_and_times_of_each_kind() -> None:
    wrong = WrongPackets(passed=(8, 9), missing=(1,), returned=(6,))
    assert describe(wrong, SENT_AT, CHANGE) == (
        "2 passed, sent +4.500 to +5.500 s from the change; 1 missing, sent -2.500 to -2.500 s from the change; "
        "1 with the old verdict after the new one, sent +2.500 to +2.500 s from the change"
    )
    assert wrong.count == 4
    assert describe(WrongPackets(), SENT_AT, CHANGE) == ""


@pytest.mark.parametrize(
    ("verdict", "arrived", "expected"),
    [
        pytest.param("closing", {1, 2, 3, 4, 5}, 5.0, id="of a closing connection the last that arrived"),
        pytest.param("opening", {7, 8, 9, 10}, 6.0, id="of an opening connection the last that did not"),
        pytest.param("allowed", EVERY, 0.0, id="of a connection that the change leaves alone none"),
    ],
)
def test_the_last_packet_with_the_old_verdict_is(verdict: Verdict, arrived: Collection[int], expected: float) -> None:
    assert last_of_old(verdict, SENT_AT, arrived) == expected


@pytest.mark.parametrize(
    ("sent_at", "until", "expected"),
    [
        pytest.param((1.0, 1.5, 3.0), 3.1, 1.5, id="between two packets"),
        pytest.param((1.0, 1.5), 9.0, 7.5, id="after the last one, when sending ended early"),
        pytest.param((), 9.0, 0.0, id="of no packets"),
    ],
)
def test_the_longest_gap_is(sent_at: tuple[float, ...], until: float, expected: float) -> None:
    assert longest_gap(sent_at, until) == expected
