"""The table that `make faults` writes."""

from __future__ import annotations

import pytest

from tests.fault_injection.report import BEGIN, END, insert, markdown, rows_of
from tests.fault_injection.trial import Try

TRIES = [
    Try(fault="commit: refused by EBUSY", packets=1000, healed=0.2, cleared=0.4, hits=4, cpu=0.08),
    Try(
        fault="commit: refused by EBUSY",
        packets=1000,
        during=True,
        cleared=0.1,
        hits=7,
        wrong=["late"],
        wrong_packets=3,
    ),
    Try(fault="kill -9, Pod added: after netlink call 1", packets=10, healed=2.0),
    Try(fault="kill -9, Pod added: after netlink call 2", packets=10, healed=3.0),
]


def test_all_tries_of_a_fault_are_one_row_with_the_worst_of_each() -> None:
    row = rows_of(TRIES)[0]
    assert (row.fault, row.tries, row.wrong, row.failed, row.during) == ("commit: refused by EBUSY", 2, 3, 1, 1)
    assert (row.healed, row.cleared, row.calls, row.cpu) == ([0.2, 0.0], [0.4, 0.1], 7, 0.08)


def test_the_steps_of_one_kind_are_one_row() -> None:
    assert [(row.fault, row.tries) for row in rows_of(TRIES)[1:]] == [("kill -9, Pod added: after netlink call", 2)]


def test_the_report_has_the_totals_and_a_line_for_each_fault() -> None:
    text = markdown(rows_of(TRIES), TRIES, 90.0, ["--times", "2"])
    assert "`python -m tests.fault_injection --times 2`" in text
    assert "**4 tries of 2 faults, 2,020 packets, 3 wrong.**" in text
    assert "| commit: refused by EBUSY | 2 | 3 | 1 | 0.10 s, 0.20 s | 0.25 s, 0.40 s | 7 | 0.08 |" in text


def test_the_longest_gap_between_packets_is_that_of_the_worst_try() -> None:
    tries = [Try(fault="a", longest_gap=0.003), Try(fault="a", longest_gap=0.012)]
    assert "the longest gap: 12 ms" in markdown(rows_of(tries), tries, 1.0, [])


def test_parts_that_broke_off_are_named_above_the_table() -> None:
    text = markdown(rows_of(TRIES), TRIES, 90.0, [], ["netlink", "API server"])
    assert "**Broke off, so that faults are missing: netlink, API server.**" in text
    assert "Broke off" not in markdown(rows_of(TRIES), TRIES, 90.0, [])


def test_only_what_is_between_the_marks_of_a_page_is_written_anew() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = insert(page, "new\n")
    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert insert(once, "new\n") == once
    with pytest.raises(ValueError, match="the page has no lines"):
        insert("a page without marks", "new\n")
