"""Which changes are made in place, member by member, and which by copies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nfagent.xtables.lowering import lower
from nfagent.xtables.names import TEMPORARY_PREFIX, set_name
from nfagent.xtables.objects import EMPTY, XtRuleset
from nfagent.xtables.options import LoweringOptions
from nfagent.xtables.order import steps
from nfagent.xtables.steps import AddMember, CreateSet, DeleteMember, DestroySet, Restore, Step, SwapSets
from tests.properties.strategies import flows
from tests.support.fake_xtables import FakeXtables
from tests.support.nft_interpreter import opening
from tests.support.two_node_cluster import Document, TwoNodeCluster, labelled, namespace, pod, policy
from tests.support.xtables_interpreter import XtMachine

PEER = {"podSelector": labelled(app="web")}
DB = policy("shop/db", labelled(app="db"), types=["Ingress"], ingress=[{"from": [PEER]}])
BASE = (namespace("shop"), pod("shop/db", "a", 1, app="db"), pod("shop/web", "b", 1, app="web"), DB)


def lowered(*documents: Document) -> XtRuleset:
    view = TwoNodeCluster(*documents).views["a"]
    view.clear_recheck(view.recheck_addresses)
    return lower(view.ruleset(), LoweringOptions())[0]


def between(before: XtRuleset, after: XtRuleset) -> tuple[Step, ...]:
    """Return the steps, which lead from one to the other."""
    found = steps(before, after)
    kernel = FakeXtables(before)
    for step in found:
        kernel.apply(step)
    assert kernel.ruleset == after
    return found


def copies(found: tuple[Step, ...]) -> list[str]:
    return [step.name for step in found if isinstance(step, CreateSet) and step.name.startswith(TEMPORARY_PREFIX)]


def test_equal_rulesets_need_no_step() -> None:
    assert between(lowered(*BASE), lowered(*BASE)) == ()


def test_a_whole_ruleset_is_sets_first_and_one_restore_for_each_table_and_family() -> None:
    found = between(EMPTY, lowered(*BASE))
    kinds = [type(step).__name__ for step in found]
    assert kinds == sorted(kinds, key=["AddAccounts", "CreateSet", "Restore"].index)
    restored = [(step.family, step.table) for step in found if isinstance(step, Restore)]
    assert restored == [(family, table) for family in (4, 6) for table in ("mangle", "nat")]


def test_all_that_is_removed_leaves_before_the_sets_that_it_refers_to() -> None:
    found = between(lowered(*BASE), EMPTY)
    kinds = [type(step).__name__ for step in found]
    assert kinds == sorted(kinds, key=["Restore", "DestroySet", "DeleteAccounts"].index)


def test_a_peer_more_is_one_member_for_each_family_and_no_rule() -> None:
    found = between(lowered(*BASE), lowered(*BASE, pod("shop/web-2", "b", 2, app="web")))
    assert [step.member for step in found if isinstance(step, AddMember)] == ["10.64.1.2", "2001:db8:0:b::2"]
    assert len(found) == 2


def test_a_peer_that_is_relabelled_joins_before_it_leaves() -> None:
    other = policy(
        "shop/other", labelled(app="db"), types=["Ingress"], ingress=[{"from": [{"podSelector": labelled(app="x")}]}]
    )
    x = pod("shop/x", "b", 3, app="x")
    found = between(lowered(*BASE, other, x), lowered(*BASE, other, x, pod("shop/web", "b", 1, app="x")))
    assert [type(step) for step in found] == [AddMember, DeleteMember] * 2


def test_a_pod_that_begins_to_be_isolated_needs_one_restore_of_a_table_at_most() -> None:
    found = between(lowered(*BASE), lowered(*BASE, pod("shop/db-2", "a", 2, app="db")))
    restored = [(step.family, step.table) for step in found if isinstance(step, Restore)]
    assert len(restored) == len(set(restored))
    last = next(step for step in reversed(found) if isinstance(step, AddMember | SwapSets) and "pairs4" in str(step))
    judged = max(found.index(step) for step in found if isinstance(step, AddMember) and step.member == "10.64.0.2")
    assert isinstance(last, SwapSets)
    assert last.other == set_name("podpairs4", 4)
    assert found.index(last) > judged, "exceptions from early accepts begin last"


NARROWED = policy("shop/db", labelled(app="db"), types=["Ingress"], ingress=[{"from": [PEER], "ports": [{"port": 80}]}])
MOVED = (policy("shop/quiet", labelled(app="web"), types=["Egress"]), pod("shop/db-2", "a", 2, app="web"))


@pytest.mark.parametrize(
    "change",
    [(NARROWED,), (pod("shop/web", "b", 1, app="x"),), MOVED],
    ids=["a policy's rules", "a peer", "rules, peers and a Pod that moves"],
)
def test_addresses_under_re_check_cannot_be_refused_after_the_new_rules_are_in_force(
    change: tuple[Document, ...],
) -> None:
    """Otherwise established connections would go on by the old rules until the next try."""
    cluster = TwoNodeCluster(*BASE, pod("shop/db-2", "a", 2, app="db"))
    view = cluster.views["a"]
    view.drain_changes()
    view.clear_recheck(view.recheck_addresses)
    view.drain_changes()
    before = lower(view.ruleset(), LoweringOptions())[0]
    for document in change:
        cluster.put(document)
    view.drain_changes()
    after = lower(view.ruleset(), LoweringOptions())[0]
    found = between(before, after)
    rechecked = {name for name, item in after.sets.items() if item.origin.startswith("recheck") and item.members}
    begin = [step.other for step in found if isinstance(step, SwapSets)]
    assert rechecked
    assert rechecked <= set(begin)
    assert not any(isinstance(step, AddMember) and step.set in rechecked for step in found)
    for family in (4, 6):
        own = [
            place
            for place, step in enumerate(found)
            if isinstance(step, SwapSets) and after.sets[step.other].family == family
        ]
        verdicts = [
            place
            for place, step in enumerate(found)
            if isinstance(step, Restore) and (step.family, step.table) == (family, "mangle")
        ]
        assert not verdicts or verdicts[0] < own[0], "first the new rules"
        between_them = found[verdicts[0] + 1 : own[0]] if verdicts else ()
        assert not any(isinstance(step, Restore | CreateSet) for step in between_them)


def test_a_pod_that_ends_needs_no_copy() -> None:
    found = between(lowered(*BASE, pod("shop/db-2", "a", 2, app="db")), lowered(*BASE))
    assert copies(found) == []


def test_a_first_policy_isolates_by_members_behind_one_restore() -> None:
    more = policy("shop/web", labelled(app="front"), types=["Ingress"])
    front = pod("shop/front", "a", 5, app="front")
    found = between(lowered(*BASE, front), lowered(*BASE, front, more))
    assert copies(found) == []
    assert not any(isinstance(step, DestroySet) for step in found)


def moves() -> tuple[XtRuleset, XtRuleset]:
    """Return the rules before and after a Pod has other labels: it is judged by others, and leaves and joins peers."""
    peers = [{"from": [{"podSelector": labelled(app="db")}]}]
    more = policy("shop/more", labelled(tier="x"), types=["Ingress"], ingress=peers)
    rest = (*BASE, more, pod("shop/db-2", "a", 2, app="db"), pod("shop/y", "a", 3, tier="x"))
    return (
        lowered(*rest, pod("shop/z", "a", 4, app="db")),
        lowered(*rest, pod("shop/z", "a", 4, tier="x", app="web")),
    )


def test_a_pod_that_moves_to_other_policies_and_peers_is_changed_at_once_by_copies() -> None:
    assert copies(between(*moves())) != []


@pytest.mark.parametrize("family", [4, 6])
def test_one_restore_leads_to_copies_and_one_back(family: int) -> None:
    restores = [step for step in between(*moves()) if isinstance(step, Restore) and step.family == family]
    there, back = ([name for name, chain in step.chains.items() if chain is not None] for step in restores)
    assert set(back) <= set(there)


def becomes_judged() -> tuple[XtRuleset, XtRuleset]:
    """Return the rules before and after a Pod joins the peers of another, and may send nothing itself any more."""
    rest = (*BASE, policy("shop/quiet", labelled(app="web"), types=["Egress"]))
    near = pod("shop/near", "a", 6, app="web")
    return lowered(*rest, near, pod("shop/w", "a", 2)), lowered(*rest, near, pod("shop/w", "a", 2, app="web"))


_Change = Callable[[], tuple[XtRuleset, XtRuleset]]
FRONT = [{"from": [{"podSelector": labelled(app="front")}]}]


def isolated(count: int, tier: str = "y") -> list[Document]:
    """Return Pods that a policy isolates: some of them are in one group of addresses, others are not."""
    return [pod(f"shop/db-{number}", "a", number, app="db", tier=tier) for number in range(2, 2 + count)]


def another_policy(of: str, name: str = "more", *, count: int = 9) -> _Change:
    """Return the change by which isolated Pods get a second policy: one that is alone, one of several, or all."""

    def change() -> tuple[XtRuleset, XtRuleset]:
        pods = isolated(1 if of == "alone" else count, tier="x" if of == "all" else "y")
        if of == "some":
            pods[::3] = isolated(count, tier="x")[::3]
        rest = (*BASE[:1], *BASE[2:], *pods, pod("shop/x", "a", 40, app="z", tier="x"))
        of_some = {"tier": "y"} if of == "alone" else {"tier": "x"}
        more = policy(f"shop/{name}", labelled(**of_some), types=["Ingress", "Egress"], ingress=FRONT)
        return lowered(*rest), lowered(*rest, more)

    return change


ANOTHER = {
    f"{of} of them, {name}": another_policy(of, name)
    for of in ("alone", "some", "all")
    for name in ("a-policy", "policy-z")
}
"""The second policy is named before the first one, or behind it: so is the rule for the chain of both."""


def two_pods_move() -> tuple[XtRuleset, XtRuleset]:
    """Return the rules before and after two Pods exchange their policies, whose chains are there for others."""
    other = policy("shop/other", labelled(app="other"), types=["Ingress"], ingress=FRONT)
    rest = (
        *BASE,
        other,
        *isolated(8),
        *(pod(f"shop/o-{number}", "a", number, app="other") for number in range(12, 20)),
    )
    one, two = ("shop/one", "a", 30), ("shop/two", "a", 31)
    return (
        lowered(*rest, pod(*one, app="db"), pod(*two, app="other")),
        lowered(*rest, pod(*one, app="other"), pod(*two, app="db")),
    )


def one_is_isolated_and_another_allows_more() -> tuple[XtRuleset, XtRuleset]:
    """Return the rules before and after a Pod may send nothing any more, and another one would receive from it.

    No chain of a map of IPv4 changes: other Pods, whose addresses are in the same groups, have these policies.
    """
    front, back = ("shop/front", "a", 2), ("shop/back", "a", 3)
    quiet = policy("shop/quiet", labelled(tier="quiet"), types=["Egress"])
    more = policy("shop/a-policy", labelled(tier="x"), types=["Ingress"], ingress=FRONT)
    there = (
        pod("shop/quiet", "a", 19, tier="quiet"),
        pod("shop/more", "a", 18, app="db", tier="x"),
        pod("shop/less", "a", 33, app="db"),
    )
    rest = (*BASE, quiet, more, *there)
    return (
        lowered(*rest, pod(*front, app="front"), pod(*back, app="db")),
        lowered(*rest, pod(*front, app="front", tier="quiet"), pod(*back, app="db", tier="x")),
    )


@pytest.mark.parametrize("backwards", [False, True], ids=["there", "back"])
def test_what_takes_away_comes_before_what_gives_where_no_restore_leads_to_other_chains(*, backwards: bool) -> None:
    before, after = one_is_isolated_and_another_allows_more()
    found = between(after, before) if backwards else between(before, after)
    assert copies(found) == []
    restored = {name for step in found if isinstance(step, Restore) and step.family == 4 for name in step.chains}
    assert not any(name.startswith(("nfa-egress4", "nfa-ingress4")) for name in restored)


@pytest.mark.parametrize("backwards", [False, True], ids=["there", "back"])
@pytest.mark.parametrize("change", ANOTHER.values(), ids=list(ANOTHER))
def test_pods_that_get_another_policy_need_one_restore_of_a_family_and_no_copy(
    change: _Change, *, backwards: bool
) -> None:
    before, after = reversed(change()) if backwards else change()
    found = between(before, after)
    assert copies(found) == []
    assert [step.family for step in found if isinstance(step, Restore)] == [4, 6]


def test_pods_that_exchange_their_policies_change_at_once_by_copies() -> None:
    assert copies(between(*two_pods_move())) != []


@pytest.mark.parametrize("backwards", [False, True], ids=["there", "back"])
@pytest.mark.parametrize(
    "change",
    [becomes_judged, moves, two_pods_move, one_is_isolated_and_another_allows_more, *ANOTHER.values()],
    ids=["a Pod becomes judged and a peer", "a Pod moves", "two Pods move", "one takes and one gives", *ANOTHER],
)
def test_between_the_steps_each_packet_has_the_verdict_before_or_the_one_after(
    change: _Change, *, backwards: bool
) -> None:
    before, after = reversed(change()) if backwards else change()
    addresses = [f"10.64.{end}" for end in ("0.1", "0.2", "0.3", "0.4", "0.6", "0.30", "0.31", "0.40", "1.1")]
    packets = [opening(flow) for flow in flows(addresses, "tcp", 80)]
    machine, kernel = XtMachine(before), FakeXtables(before)

    def verdicts(ruleset: XtRuleset) -> list[str]:
        machine.ruleset = ruleset
        return [machine.run("forward", packet).verdict for packet in packets]

    was, will = verdicts(before), verdicts(after)
    for step in steps(before, after):
        now = verdicts(kernel.apply(step))
        assert all(found in (one, other) for found, one, other in zip(now, was, will, strict=True)), step
    assert kernel.ruleset == after


def test_a_change_that_was_broken_off_at_any_step_is_made_by_the_next_one() -> None:
    """An agent that is killed between both restores leaves rules that lead to copies, which can't be destroyed."""
    narrowed = policy("shop/db", labelled(app="db"), ingress=[{"from": [PEER], "ports": [{"port": 80}]}])
    further = (pod("shop/more", "a", 2, app="db"), pod("shop/front", "b", 2, app="web"))
    before, after, last = lowered(*BASE), lowered(*BASE, narrowed, *further), lowered(*BASE, narrowed)
    kernel, cuts = FakeXtables(before), 0
    for step in between(before, after):
        now = kernel.apply(step)
        if not any(name.startswith(TEMPORARY_PREFIX) for name in now.sets):
            continue
        cuts += 1
        assert not set(copies(between(now, after))) & now.sets.keys()
        # The second try is broken off too, behind its first restore.
        again = FakeXtables(now)
        for other in between(now, last):
            again.apply(other)
            if isinstance(other, Restore):
                break
        between(again.ruleset, after)
    assert cuts > 1


def test_copies_that_no_rule_refers_to_are_destroyed_first() -> None:
    before = lowered(*BASE)
    name = next(name for name in before.sets if "peers4" in name)
    left = f"{TEMPORARY_PREFIX}{name[4:]}"
    cut = XtRuleset({**before.sets, left: before.sets[name]}, before.chains, before.hooks, before.accounts)
    assert between(cut, before) == (DestroySet(left),)
