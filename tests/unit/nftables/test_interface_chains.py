"""Rules on the incoming interface, interpreted, and their sets after changes of Nodes and interfaces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.desired.node_interfaces import NodeInterfaces, held_links
from nfagent.desired.state import DesiredState
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.model.netaddr import disjoint, parse_cidr
from nfagent.model.objects import Node, ObjectRef, Pod
from nfagent.nftables.interface_sets import FRAMES
from nfagent.nftables.matches import CtDirection
from nfagent.nftables.objects import Element, LinkName, ProtocolPort, Ruleset
from nfagent.nftables.transaction import ChangeElements, Transaction
from nfagent.policy.evaluator import Flow
from nfagent.policy.options import PolicyOptions
from tests.support.fake_nftables import FakeNftables
from tests.support.nft_interpreter import Conntrack, HookName, HookPacket, State, opening, run

VXLAN = ProtocolPort("udp", 8472)
LINKS = NodeInterfaces(frozenset({"cali1"}), frozenset({VXLAN}))
POD, FAR_POD = "10.64.0.10", "10.64.1.10"
NEAR, FAR = "192.168.0.1", "192.168.0.2"


def node(name: str, number: int) -> Node:
    ranges = (parse_cidr(f"10.64.{number}.0/24"), parse_cidr(f"2001:db8:0:{number:x}::/64"))
    return Node(name, addresses=(f"192.168.0.{number + 1}", f"fd00::{number + 1}"), pod_cidrs=ranges)


def wanted(links: NodeInterfaces = LINKS, policy_options: PolicyOptions | None = None) -> DesiredState:
    desired = DesiredState("a", policy_options=policy_options)
    desired.put(node("a", 0))
    desired.put(node("b", 1))
    desired.put(Pod("shop", "web", node="a", addresses=(POD,)))
    desired.follow_links(links)
    return desired


def changed(transaction: Transaction) -> set[str]:
    """Return the names of the sets whose elements a transaction changes."""
    return {command.set for command in transaction if isinstance(command, ChangeElements)}


def dropped(ruleset: Ruleset, hook: HookName, packet: HookPacket) -> str:
    """Return the counter of the drop that a packet meets; '' where it passes."""
    result = run(ruleset, hook, packet)
    return "" if result.accepted else result.counters[-1]


def packet(
    source: str, destination: str, protocol: str = "udp", port: int = 8472, *, link: str = "cali1"
) -> HookPacket:
    return opening(Flow(source, destination, protocol, port))._replace(link=link)


@pytest.mark.parametrize(
    ("hook", "seen", "counter"),
    [
        ("forward", packet(POD, FAR), "drop/tunnel"),
        ("forward", packet(POD, "10.64.1.0"), "drop/tunnel"),
        ("forward", packet(POD, "10.64.1.1"), "drop/tunnel"),
        ("forward", packet(POD, FAR, "47", 0), "drop/tunnel"),
        ("forward", packet(POD, FAR_POD), ""),
        ("forward", packet(POD, "203.0.113.9"), ""),
        ("forward", packet(POD, FAR, port=53), ""),
        ("forward", packet(POD, FAR, "tcp"), ""),
        ("forward", packet(FAR, POD, link="eth0"), ""),
        ("input", packet(POD, NEAR), "drop/tunnel"),
        ("input", packet("203.0.113.9", NEAR), "drop/tunnel"),
        ("input", packet(FAR_POD, NEAR, link="eth0"), "drop/tunnel"),
        ("input", packet(FAR_POD, NEAR, "4", 0, link="eth0"), "drop/tunnel"),
        ("input", packet(FAR, NEAR, link="eth0"), ""),
        ("input", packet(FAR, NEAR, "4", 0, link="eth0"), ""),
        ("input", packet("203.0.113.9", NEAR, link="eth0"), ""),
        ("input", packet(FAR_POD, NEAR, port=53, link="eth0"), ""),
    ],
    ids=[
        "a Pod to another Node",
        "to another node's tunnel address",
        "to another node's bridge",
        "by a protocol without ports",
        "to another Pod, which may have tunnels of its own",
        "to the world",
        "to another port",
        "by another protocol",
        "what another Node forwards",
        "a Pod to its node",
        "a Pod with a foreign source to its node",
        "another node's Pod",
        "another node's Pod by a protocol without ports",
        "another Node, which ends its tunnel here",
        "another Node without ports",
        "a host outside the cluster, which may be a Node by another name",
        "another node's Pod to another port",
    ],
)
def test_only_nodes_send_to_the_tunnels_of_nodes(hook: HookName, seen: HookPacket, counter: str) -> None:
    for policy_options in (PolicyOptions(), PolicyOptions(own_node="allowed")):
        assert dropped(wanted(policy_options=policy_options).ruleset(), hook, seen) == counter


@pytest.mark.parametrize("hook", ["forward", "input"])
@pytest.mark.parametrize(
    ("seen", "counter"),
    [
        (packet("8.8.8.8", FAR_POD, port=80)._replace(unrouted=True), "drop/unrouted"),
        (packet("8.8.8.8", FAR_POD, port=80)._replace(unrouted=True, conntrack=Conntrack("invalid")), "drop/unrouted"),
        (packet("8.8.8.8", FAR_POD, port=80)._replace(unrouted=True, conntrack=Conntrack("related")), "drop/unrouted"),
        (packet(POD, FAR_POD, port=80), ""),
        (packet("8.8.8.8", FAR_POD, port=80, link="eth0")._replace(unrouted=True), ""),
    ],
    ids=["from a Pod", "without a conntrack entry", "an error", "its own source", "from elsewhere"],
)
def test_a_source_is_held_against_a_pods_interface(hook: HookName, seen: HookPacket, counter: str) -> None:
    assert dropped(wanted().ruleset(), hook, seen) == counter
    assert dropped(wanted(policy_options=PolicyOptions(unrouted_sources="judged")).ruleset(), hook, seen) == ""


NODE_FE80, POD_FE80 = "fe80::1", "fe80::2"


def near(
    protocol: str = "tcp",
    port: int = 80,
    kind: str = "",
    hop_limit: int = 64,
    *,
    state: State = "new",
    way: CtDirection = "original",
) -> HookPacket:
    seen = packet(POD_FE80, NODE_FE80, protocol, port)._replace(icmpv6_type=kind, hop_limit=hop_limit)
    return seen._replace(conntrack=seen.conntrack._replace(state=state, way=way))


@pytest.mark.parametrize(
    ("seen", "passes"),
    [
        (near(), False),
        (near("udp", 53), False),
        (near("icmpv6", 0, "echo-request"), False),
        (near(state="established"), False),
        (near(state="untracked"), False),
        (near(state="established", way="reply"), True),
        (near("udp", 547), True),
        (near("icmpv6", 0, "nd-neighbor-solicit", 255), True),
        (near("icmpv6", 0, "nd-neighbor-advert", 255), True),
        (near("icmpv6", 0, "nd-router-solicit", 255), True),
        (near("icmpv6", 0, "nd-neighbor-solicit", 254), False),
        (near("icmpv6", 0, "nd-router-advert", 255), False),
        (near("icmpv6", 0, "nd-redirect", 255), False),
        (near("icmpv6", 0, "mld2-listener-report", 1), True),
        (near("icmpv6", 0, "mld2-listener-report", 64), False),
        (near()._replace(link="eth0"), True),
        (near()._replace(saddr="2001:db8::a"), True),
    ],
    ids=[
        "TCP",
        "UDP",
        "ping",
        "an established connection of its own",
        "untracked",
        "an answer to the node",
        "DHCPv6",
        "a solicitation",
        "an advertisement",
        "asking for a router",
        "a solicitation that was forwarded",
        "a Pod is no router of its node",
        "nor does it redirect it",
        "a listener's report",
        "a listener's report that was forwarded",
        "from elsewhere than a Pod",
        "from a source of its own",
    ],
)
def test_packets_that_the_node_accepts_from_link_local_sources_of_pods(seen: HookPacket, passes: bool) -> None:  # noqa: FBT001 - a column
    assert dropped(wanted().ruleset(), "input", seen) == ("" if passes else "drop/link-local")
    assert dropped(wanted(policy_options=PolicyOptions(own_node="allowed")).ruleset(), "input", seen) == ""


def elements(desired: DesiredState, name: str) -> frozenset[Element]:
    return desired.ruleset().sets[name].elements


def test_offline_nothing_is_known_of_interfaces() -> None:
    desired = wanted(NodeInterfaces())
    sets = ("podlinks", "tunnels", "nodes4", "nodes6", "podranges4", "podranges6")
    assert {name: elements(desired, name) for name in sets} == dict.fromkeys(sets, frozenset())


def test_nodes_and_their_ranges_are_known_while_the_node_has_tunnels() -> None:
    desired = wanted()
    assert elements(desired, "podlinks") == {LinkName("cali1")}
    assert elements(desired, "tunnels") == {VXLAN}
    assert elements(desired, "nodes4") == {NEAR, FAR, "10.64.0.0", "10.64.0.1", "10.64.1.0", "10.64.1.1"}
    assert elements(desired, "podranges4") == {parse_cidr("10.64.0.0/23")}
    desired.put(node("c", 2))
    desired.remove(ObjectRef("Node", "", "a"))
    assert elements(desired, "nodes6") == {
        *("fd00::2", "2001:db8:0:1::", "2001:db8:0:1::1"),
        *("fd00::3", "2001:db8:0:2::", "2001:db8:0:2::1"),
    }
    assert elements(desired, "podranges6") == set(disjoint(map(parse_cidr, ("2001:db8:0:1::/64", "2001:db8:0:2::/64"))))
    desired.follow_links(NodeInterfaces(LINKS.pod_links))
    assert elements(desired, "nodes4") == elements(desired, "podranges4") == frozenset()
    desired.follow_links(NodeInterfaces(portless=True))
    assert FAR in elements(desired, "nodes4")


@pytest.mark.parametrize(
    ("flow", "barred"),
    [
        (Flow(POD, FAR, "udp", 8472), True),
        (Flow(POD, "10.64.1.0", "udp", 8472), True),
        (Flow(POD, NEAR, "udp", 8472), True),
        (Flow(FAR_POD, NEAR, "udp", 8472), True),
        (Flow(FAR_POD, "10.64.0.0", "udp", 8472), True),
        (Flow(FAR_POD, FAR, "udp", 8472), False),
        (Flow(POD, FAR, "udp", 53), False),
        (Flow(POD, FAR, "tcp", 8472), False),
        (Flow(POD, FAR_POD, "udp", 8472), False),
        (Flow(NEAR, FAR, "udp", 8472), False),
        (Flow(FAR, NEAR, "udp", 8472), False),
    ],
    ids=[
        "a Pod of this node to another Node",
        "to another node's tunnel address",
        "to this node",
        "another node's Pod to this node",
        "to this node's tunnel address",
        "another node's Pod to its own node, which judges that",
        "to another port",
        "by another protocol",
        "to another Pod",
        "this node to another",
        "another node to this one",
    ],
)
def test_drops_of_these_rules_are_explained(flow: Flow, barred: bool) -> None:  # noqa: FBT001 - a column
    desired = wanted()
    desired.put(Pod("shop", "far", node="b", addresses=(FAR_POD,)))
    assert bool(desired.barred(flow)) == barred
    assert not wanted(NodeInterfaces()).barred(flow)


def test_without_masquerade_ranges_are_known_too_and_overlapping_ones_are_merged() -> None:
    desired = DesiredState("a", MasqueradeSettings(enabled=False))
    desired.follow_links(LINKS)
    desired.put(Node("b", pod_cidrs=(parse_cidr("10.0.0.0/8"),)))
    desired.put(Node("c", pod_cidrs=(parse_cidr("10.64.0.0/16"),)))
    assert elements(desired, "podranges4") == {parse_cidr("10.0.0.0/8")}


def test_what_a_table_holds_is_what_was_known() -> None:
    ruleset = wanted().ruleset()
    assert held_links(ruleset) == NodeInterfaces(LINKS.pod_links, LINKS.tunnels, portless=True)
    assert wanted(held_links(ruleset)).ruleset().sets == ruleset.sets
    assert held_links(Ruleset(exists=False)) == NodeInterfaces()


def test_an_address_that_a_new_tunnel_cuts_off_is_under_re_check_from_the_transaction_on_that_writes_the_tunnel() -> (
    None
):
    desired = wanted(NodeInterfaces(LINKS.pod_links))
    desired.drain_changes()
    desired.clear_recheck(desired.recheck_addresses)

    desired.follow_links(LINKS)
    desired.ruleset()
    assert desired.recheck_addresses == {}, "the kernel lacks the tunnel still: another commit has just ended"

    assert changed(desired.drain_changes()) >= {"tunnels", "recheck4", "rechecking"}
    assert desired.recheck_addresses.keys() == {POD}


def test_a_repair_of_the_table_re_checks_what_a_new_tunnel_cuts_off() -> None:
    desired = wanted(NodeInterfaces(LINKS.pod_links))
    desired.drain_changes()
    desired.clear_recheck(desired.recheck_addresses)

    desired.follow_links(LINKS)
    desired.ruleset()
    desired.mark_synced()
    desired.recheck_all()

    assert desired.recheck_addresses.keys() == {POD}


NAMES = st.frozensets(st.sampled_from(["cali1", "cali2", "cbr0"]))
PORTS = st.frozensets(st.sampled_from([VXLAN, ProtocolPort("udp", 6081)]))
CHANGES = st.lists(
    st.one_of(
        st.builds(NodeInterfaces, NAMES, PORTS, st.booleans()),
        st.builds(node, st.sampled_from("abc"), st.integers(0, 4)),
        st.builds(ObjectRef, st.just("Node"), st.just(""), st.sampled_from("abc")),
    ),
    max_size=8,
)


def test_the_chain_about_frames_is_there_where_pods_share_a_bridge_and_over_a_restart() -> None:
    desired = wanted(NodeInterfaces(frozenset({"cali1"})))
    assert FRAMES not in desired.ruleset().chains
    bridged = NodeInterfaces(frozenset({"cbr0"}), bridged=True)
    desired.follow_links(bridged)
    assert FRAMES in desired.ruleset().chains
    assert held_links(desired.ruleset()).bridged
    assert desired.rebuilt().ruleset() == desired.ruleset()
    desired.follow_links(NodeInterfaces(frozenset({"cali1"})))
    assert FRAMES not in desired.ruleset().chains


@given(CHANGES, st.booleans())
def test_after_any_change_the_kernel_has_the_ruleset_of_a_fresh_start(
    changes: list[NodeInterfaces | Node | ObjectRef],
    masquerade: bool,  # noqa: FBT001 - drawn
) -> None:
    desired = DesiredState("a", MasqueradeSettings(enabled=masquerade))
    kernel = FakeNftables(desired.ruleset())
    desired.mark_synced()
    for change in changes:
        match change:
            case NodeInterfaces():
                desired.follow_links(change)
            case ObjectRef():
                desired.remove(change)
            case _:
                desired.put(change)
        kernel.apply(desired.drain_changes())
        assert kernel.ruleset.sets == desired.ruleset().sets == desired.rebuilt().ruleset().sets
