"""Packets of addresses in the node's Pod ranges that no known Pod has: rules and evaluator."""

from __future__ import annotations

import pytest

from nfagent.desired.node_guard import UnknownNodeGuard
from nfagent.desired.state import DesiredState
from nfagent.explain.explanation import explain
from nfagent.model.objects import ObjectRef
from nfagent.nftables.boot_rulesets import after_boot, hold_ruleset
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT
from nfagent.nftables.unknown_pods import UNKNOWN_POD_COUNTER, holds_unknown_pods, known_pods_set
from nfagent.policy.evaluator import Flow, evaluate
from nfagent.policy.options import PolicyOptions
from tests.support.nft_interpreter import HookPacket, later, opening, run, stray
from tests.support.two_node_cluster import OUTSIDE, decoded, node, pod, policy

HELD = PolicyOptions(unknown_pods="held")
WEB, FAR = pod("shop/web", "a", 10), pod("shop/far", "b", 11)
KNOWN, KNOWN_FAR, UNKNOWN, UNKNOWN_FAR = "10.64.0.10", "10.64.1.11", "10.64.0.99", "10.64.1.99"


def wanted(options: PolicyOptions = HELD) -> DesiredState:
    desired = DesiredState("a", policy_options=options)
    for document in (node("a"), node("b"), WEB, FAR):
        desired.put(decoded(document))
    return desired


def dropped_by(desired: DesiredState, packet: HookPacket) -> str:
    result = run(desired.ruleset(), "forward", packet)
    return "" if result.accepted else result.counters[-1]


ENDS = {
    "an unknown Pod to a known one": (UNKNOWN, KNOWN, True),
    "a known Pod to an unknown one": (KNOWN, UNKNOWN, True),
    "an unknown Pod to a host outside": (UNKNOWN, OUTSIDE[0], True),
    "a host outside to an unknown Pod": (OUTSIDE[0], UNKNOWN, True),
    "an unknown Pod to a Pod of another node": (UNKNOWN, KNOWN_FAR, True),
    "an unknown Pod to another Node": (UNKNOWN, "192.168.0.2", True),
    "two known Pods": (KNOWN, KNOWN_FAR, False),
    "a known Pod to a host outside": (KNOWN, OUTSIDE[0], False),
    "a known Pod to an unknown address of another node": (KNOWN, UNKNOWN_FAR, False),
    "an unknown Pod by IPv6": ("2001:db8:0:a::99", "2001:db8:0:b::11", True),
    "to an unknown Pod by IPv6": (OUTSIDE[1], "2001:db8:0:a::99", True),
    "two known Pods by IPv6": ("2001:db8:0:a::10", "2001:db8:0:b::11", False),
}


@pytest.mark.parametrize(("source", "destination", "held"), ENDS.values(), ids=ENDS)
def test_rules_and_evaluator_hold_the_same_flows(source: str, destination: str, held: bool) -> None:  # noqa: FBT001 - a column
    desired, flow = wanted(), Flow(source, destination, "tcp", 80)
    verdict = evaluate(desired.cluster, (), flow, HELD)
    assert (verdict.allowed, desired.is_allowed(flow)) == (not held, not held)
    assert bool(verdict.barred) == held
    for packet in (opening(flow), stray(flow, "untracked"), stray(flow, "invalid")):
        counter = dropped_by(desired, packet)
        assert (counter == UNKNOWN_POD_COUNTER) == held, packet
    assert dropped_by(desired, later(flow)) == ""  # established: it was allowed


def test_the_reason_names_the_address_and_the_setting() -> None:
    flow = Flow(KNOWN, UNKNOWN, "tcp", 80)
    reason = f"no known Pod has {UNKNOWN}, which is in the Pod ranges of node a: unknown_pods = held"
    assert evaluate(wanted().cluster, (), flow, HELD).barred == reason


@pytest.mark.parametrize("address", ["192.168.0.1", "10.64.0.1", "10.64.0.0"], ids=["node", "bridge", "tunnel"])
def test_what_an_unknown_pod_exchanges_with_its_own_node_is_not_held(address: str) -> None:
    for ends in ((UNKNOWN, address), (address, UNKNOWN)):
        assert evaluate(wanted().cluster, (), Flow(*ends, "tcp", 80), HELD).allowed
    to_node, from_node = opening(Flow(UNKNOWN, address, "tcp", 80)), opening(Flow(address, UNKNOWN, "tcp", 80))
    assert run(wanted().ruleset(), "input", to_node).accepted
    assert run(wanted().ruleset(), "output", from_node._replace(local_source=True)).accepted


def test_neighbour_discovery_of_an_unknown_pod_passes_within_its_bridge() -> None:
    flow = Flow("2001:db8:0:a::99", "2001:db8:0:a::10", "icmpv6")
    assert dropped_by(wanted(), stray(flow, "untracked", "nd-neighbor-solicit")) == ""
    assert dropped_by(wanted(), stray(flow, "untracked", "echo-request")) == UNKNOWN_POD_COUNTER


def test_by_default_nothing_of_it_is_in_the_ruleset() -> None:
    ruleset = wanted(PolicyOptions()).ruleset()
    found = (*ruleset.sets, *ruleset.chains, *ruleset.counters)
    assert [name for name in found if "unknown" in name or "knownpods" in name] == []
    assert dropped_by(wanted(PolicyOptions()), opening(Flow(UNKNOWN, KNOWN, "tcp", 80))) == ""


def known(desired: DesiredState) -> set[object]:
    return set(desired.ruleset().sets[known_pods_set(4)].elements)


def test_a_pod_is_held_until_its_address_is_known_and_again_when_it_has_gone() -> None:
    desired = wanted()
    late = pod("shop/late", "a", 99)
    waiting = {**late, "status": {"phase": "Pending"}}
    assert known(desired) == {KNOWN}
    desired.put(decoded(waiting))
    assert known(desired) == {KNOWN}
    desired.put(decoded(late))
    assert known(desired) == {KNOWN, UNKNOWN}
    desired.drain_changes()
    desired.clear_recheck(desired.recheck_addresses)
    desired.remove(ObjectRef("Pod", "shop", "late"))
    assert known(desired) == {KNOWN}
    assert UNKNOWN not in desired.recheck_addresses, "the kernel knows it still"
    desired.drain_changes()
    assert known(desired) == {KNOWN}
    assert UNKNOWN in desired.recheck_addresses, "its connections end"


def test_a_pod_of_another_node_with_an_address_of_this_one_is_known() -> None:
    desired = wanted()
    borrowed = {**pod("shop/borrowed", "b", 12), "status": {"phase": "Running", "podIPs": [{"ip": UNKNOWN}]}}
    desired.put(decoded(borrowed))
    assert known(desired) == {KNOWN, UNKNOWN}


def test_any_order_of_node_and_pods_gives_the_ruleset_of_a_full_compile() -> None:
    desired = DesiredState("a", policy_options=HELD)
    for document in (WEB, FAR, pod("shop/db", "a", 12), node("b")):
        desired.put(decoded(document))
        desired.drain_changes()
    assert not holds_unknown_pods(desired.ruleset()), "without ranges nothing is held"
    desired.put(decoded(node("a")))
    transaction = desired.drain_changes()
    assert known(desired) == {KNOWN, "10.64.0.12"}
    assert desired.ruleset() == desired.rebuilt().ruleset()
    moved = {**node("a"), "spec": {"podCIDRs": ["10.64.1.0/24"]}}
    desired.put(decoded(moved))
    assert transaction
    assert desired.drain_changes()
    assert known(desired) == {KNOWN_FAR}
    assert desired.ruleset() == desired.rebuilt().ruleset()


def test_while_no_node_has_the_name_the_hold_is_kept() -> None:
    held, nameless = wanted().ruleset(), DesiredState("c", policy_options=HELD)
    for document in (node("a"), node("b"), WEB):
        nameless.put(decoded(document))
    guard = UnknownNodeGuard(nameless.cluster, allowed=False, own=lambda _: "")
    assert guard.must_check
    assert guard.hold_reason(held, nameless.ruleset())
    switched_off = DesiredState("c")
    switched_off.put(decoded(node("a")))
    guard = UnknownNodeGuard(switched_off.cluster, allowed=False, own=lambda _: "")
    assert guard.must_check
    assert guard.hold_reason(held, switched_off.ruleset()) == "", "it isolates no Pod, and the setting is off"


def test_after_a_boot_no_pod_is_known_and_nothing_is_to_be_rechecked() -> None:
    desired = wanted()
    desired.put(decoded(policy("shop/closed")))
    desired.drain_changes()
    assert desired.recheck_addresses
    booted = after_boot(desired.ruleset())
    assert booted.sets[known_pods_set(4)].elements == frozenset()
    assert booted.sets["recheck4"].elements == booted.sets["rechecking"].elements == frozenset()
    assert booted.maps == desired.ruleset().maps
    flow = Flow(KNOWN, OUTSIDE[0], "tcp", 80)
    assert run(booted, "forward", opening(flow)).counters == (UNKNOWN_POD_COUNTER,)


def test_rules_that_only_hold_drop_every_pod_s_packets_and_go_with_the_first_commit_of_an_agent() -> None:
    desired = wanted()
    ranges = next(each for name, each in desired.cluster.nodes.items() if name == "a").pod_cidrs
    alone = hold_ruleset(ranges)
    for source, destination in ((KNOWN, OUTSIDE[0]), (OUTSIDE[0], KNOWN), (KNOWN, UNKNOWN)):
        assert run(alone, "forward", opening(Flow(source, destination, "tcp", 80))).verdict == "drop"
    assert run(alone, "forward", opening(Flow(KNOWN_FAR, OUTSIDE[0], "tcp", 80))).accepted
    assert diff(ABSENT, alone)
    left = desired.ruleset()
    assert not (alone.chains.keys() - left.chains.keys()) - {"forward-hold"}


def test_explain_says_that_a_packet_is_held() -> None:
    desired = wanted()
    found = explain(desired.cluster, desired.index, "shop/web", f"{UNKNOWN}:80/tcp", HELD)
    assert not found.allowed
    assert (
        f"dropped: no known Pod has {UNKNOWN}, which is in the Pod ranges of node a: unknown_pods = held"
        in "\n".join(found.lines)
    )
