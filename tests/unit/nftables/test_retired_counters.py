"""Deletions of counters wait: what is committed at once, what is deleted later, what a listing shows meanwhile."""

from __future__ import annotations

import pytest

from nfagent.nftables.diff import diff
from nfagent.nftables.objects import NamedSet, Ruleset
from nfagent.nftables.pod_counts import counted_set
from nfagent.nftables.retired_counters import GRACE_SECONDS, RetiredCounters, element_counter
from nfagent.nftables.transaction import AddCounter, ChangeElements, Command, Delete, Transaction

DENIED = counted_set("deny", "ingress", 4)
WEB = "10.0.0.1"
ELEMENT = element_counter(DENIED, WEB)
GONE: Transaction = (Delete("counter", "deny/ingress/a/b"), ChangeElements("delete", DENIED, (WEB,)))
LATER = GRACE_SECONDS * 2


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def retired(clock: Clock) -> RetiredCounters:
    return RetiredCounters(clock)


def commit(retired: RetiredCounters, *commands: Command) -> Transaction:
    plan = retired.plan(commands)
    retired.committed(plan)
    return plan.at_once


def test_deletions_of_counters_alone_wait(retired: RetiredCounters) -> None:
    others: Transaction = (
        Delete("chain", "deny/ingress/a/b"),
        ChangeElements("delete", "peers4/1", (WEB,)),
        ChangeElements("add", DENIED, ("10.0.0.2",)),
        AddCounter("deny/ingress/a/c"),
    )
    assert commit(retired, *GONE, *others) == others
    assert len(retired) == 2
    assert retired.added == ["deny/ingress/a/c"]


def test_a_reading_is_the_last_one_only_where_no_packet_can_be_under_way_any_more(
    retired: RetiredCounters, clock: Clock
) -> None:
    commit(retired, *GONE)
    assert not retired.due()
    clock.now += LATER
    assert retired.due().keys() == {"deny/ingress/a/b", ELEMENT}
    assert set(retired.deletions(retired.due())[0]) == set(GONE)


@pytest.mark.parametrize(
    "again",
    [
        pytest.param((), id="and still is"),
        pytest.param(GONE, id="and retired once more since"),
    ],
)
def test_a_counter_that_is_in_use_again_since_its_reading_is_not_deleted(
    retired: RetiredCounters, clock: Clock, again: Transaction
) -> None:
    commit(retired, *GONE)
    clock.now += LATER
    due = retired.due()
    commit(retired, AddCounter("deny/ingress/a/b"), ChangeElements("add", DENIED, (WEB,)))
    commit(retired, *again)
    assert retired.deletions(due) == ((), [])


def test_a_listing_shows_waiting_counters_as_deleted_unless_they_are_wanted(retired: RetiredCounters) -> None:
    commit(retired, *GONE)
    listed = Ruleset({DENIED: NamedSet("counted", 4, frozenset({WEB}))}, counters=frozenset({"deny/ingress/a/b"}))
    without = Ruleset({DENIED: NamedSet("counted", 4)})
    assert diff(retired.as_deleted(listed, without), without) == ()
    assert diff(retired.as_deleted(listed, listed), listed) == ()


def test_what_another_program_added_is_still_a_difference(retired: RetiredCounters) -> None:
    commit(retired, *GONE)
    listed = Ruleset({DENIED: NamedSet("counted", 4, frozenset({"10.0.0.9"}))}, counters=frozenset({"other"}))
    assert len(diff(retired.as_deleted(listed, Ruleset()), Ruleset({DENIED: NamedSet("counted", 4)}))) == 2


def test_a_deletion_that_was_done_or_refused_waits_no_more(retired: RetiredCounters) -> None:
    commit(retired, *GONE)
    retired.forget(["deny/ingress/a/b"])
    assert len(retired) == 1


def test_a_listing_from_before_a_deletion_shows_the_counter_as_deleted_for_a_while(
    retired: RetiredCounters, clock: Clock
) -> None:
    commit(retired, *GONE)
    retired.deleted(["deny/ingress/a/b", ELEMENT])
    listed = Ruleset({DENIED: NamedSet("counted", 4, frozenset({WEB}))}, counters=frozenset({"deny/ingress/a/b"}))
    without = Ruleset({DENIED: NamedSet("counted", 4)})
    assert len(retired) == 0
    assert diff(retired.as_deleted(listed, without), without) == ()
    clock.now += 3600
    assert len(diff(retired.as_deleted(listed, without), without)) == 2, "another program has made it"


def test_a_counter_that_was_added_again_after_its_deletion_is_a_difference_once_nothing_wants_it(
    retired: RetiredCounters,
) -> None:
    commit(retired, *GONE)
    retired.deleted(["deny/ingress/a/b", ELEMENT])
    commit(retired, AddCounter("deny/ingress/a/b"), ChangeElements("add", DENIED, (WEB,)))
    listed = Ruleset({DENIED: NamedSet("counted", 4, frozenset({WEB}))}, counters=frozenset({"deny/ingress/a/b"}))
    without = Ruleset({DENIED: NamedSet("counted", 4)})
    assert len(diff(retired.as_deleted(listed, without), without)) == 2


def test_a_ruleset_is_compared_as_if_the_waiting_counters_were_wanted(retired: RetiredCounters) -> None:
    wanted = Ruleset(sets={DENIED: NamedSet("counted", 4, frozenset(("10.0.0.2",)))}, counters=frozenset(("drop/x",)))
    assert retired.with_waiting(wanted) is wanted
    commit(retired, *GONE)
    kept = retired.with_waiting(wanted)
    assert kept.counters == {"drop/x", "deny/ingress/a/b"}
    assert kept.sets[DENIED].elements == {"10.0.0.2", WEB}
    assert retired.as_deleted(kept, wanted) == wanted


def test_a_counter_that_a_comparison_found_in_use_again_is_not_deleted(retired: RetiredCounters, clock: Clock) -> None:
    commit(retired, *GONE)
    used = Ruleset({DENIED: NamedSet("counted", 4, frozenset({WEB}))}, counters=frozenset({"deny/ingress/a/b"}))
    retired.compared(Ruleset({DENIED: NamedSet("counted", 4)}))
    assert len(retired) == 2
    assert diff(retired.as_deleted(used, used), used) == (), "no command adds what is there"
    retired.compared(used)
    clock.now += LATER
    assert retired.deletions(retired.due()) == ((), [])
