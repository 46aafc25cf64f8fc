"""Addresses, rules and routes of a GatewayPlan in a real kernel: set, replaced, removed; those of others stay."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from nfagent.egress.gateways import GatewayPlan, GatewayRoute, MarkBits
from nfagent.egress.tunnel import TUNNEL_LINK
from nfagent.kernel.gateway_links import TABLE_BASE, GatewayLinks, Outcome, remove_gateway_links
from nfagent.lab import netns
from tests.support.steps import finished

pytestmark = pytest.mark.kernel

MARK = MarkBits(0x0FF00000)
OWN = ("192.0.2.1", "2001:db8::1")
FLOATING = ("192.0.2.100", "2001:db8::100")
ROUTES = (
    GatewayRoute(1, 4, "192.0.2.101", "n2", ("192.0.2.2",)),
    GatewayRoute(2, 6, "2001:db8::101", "n2", ("2001:db8::2",)),
)
Made = TypeVar("Made")


class NodeNamespace:
    """A network namespace that stands for a node."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.links = GatewayLinks(MARK)

    def ip(self, *lines: str) -> None:
        netns.ip_batch(lines, self.name)

    def apply(self, plan: GatewayPlan) -> Outcome:
        return self.inside(lambda: finished(self.links.apply(plan, OWN)))

    def inside(self, question: Callable[[], Made]) -> Made:
        return netns.inside(self.name, question)

    def listed(self, family: int, *words: str) -> list[dict[str, Any]]:
        # Without a route in a table, ip says that the table doesn't exist, and prints nothing.
        argv = ["ip", "-n", self.name, "-json", "-details", f"-{family}", *words]
        found: list[dict[str, Any]] = json.loads(subprocess.run(argv, capture_output=True, check=False).stdout or "[]")
        return found

    def addresses(self) -> set[str]:
        links = [link for family in (4, 6) for link in self.listed(family, "address", "show", "dev", "eth0")]
        found = [entry for link in links for entry in link.get("addr_info", []) if entry["scope"] == "global"]
        return {f"{entry['local']}/{entry['prefixlen']}" for entry in found}

    def rules(self) -> set[tuple[int, str, str]]:
        """Priority, mark and table of every rule that is not the system's."""
        found = [rule for family in (4, 6) for rule in self.listed(family, "rule")]
        return {
            (rule["priority"], rule.get("fwmark", ""), rule.get("table", rule.get("action", "")))
            for rule in found
            if rule["priority"] not in {0, 32766, 32767}
        }

    def tunnel(self) -> dict[int, tuple[str, str, int]]:
        """Source, destination and MTU of the route through the tunnel, of each family; none without the tunnel."""
        found = {}
        for family in (4, 6):
            for route in self.listed(family, "route", "show", "table", "all", "dev", TUNNEL_LINK, "proto", "78"):
                found[family] = (route["src"], route["dst"], route["metrics"][0]["mtu"])
        return found

    def has_tunnel(self) -> bool:
        return any(link["ifname"] == TUNNEL_LINK for link in self.listed(4, "link"))

    def route(self, address: str, number: int) -> str:
        """Return the next hop of a marked packet; '' where it has none."""
        words = ["route", "get", address, "mark", hex(MARK.of_routed(number) if number else 0)]
        done = subprocess.run(["ip", "-n", self.name, "-json", *words], capture_output=True, check=False)
        found = json.loads(done.stdout or "[]")
        return str(found[0].get("gateway", "")) if found else ""


@pytest.fixture
def node() -> Iterator[NodeNamespace]:
    made = NodeNamespace(f"{netns.prefix('tg', os.getpid())}node")
    netns.make([made.name])
    try:
        netns.write_sysctls(made.name, {"ipv6/conf/all/accept_dad": "0", "ipv6/conf/default/accept_dad": "0"})
        made.ip(
            "link set lo up",
            "link add eth0 type veth peer name far0",
            "link set eth0 up",
            "link set far0 up",
            "address add 192.0.2.1/24 dev eth0",
            "address add 2001:db8::1/64 dev eth0 nodad",
            "route add default via 192.0.2.254",
            "route add default via 2001:db8::254",
        )
        yield made
    finally:
        netns.remove([made.name])


PLAIN = {"192.0.2.1/24", "2001:db8::1/64"}


def test_a_plan_is_carried_out_and_given_up(node: NodeNamespace) -> None:
    outcome = node.apply(GatewayPlan(FLOATING, ROUTES))
    assert outcome.problems == ()
    assert [held.address for held in outcome.gained] == list(FLOATING)
    assert node.addresses() == PLAIN | {"192.0.2.100/32", "2001:db8::100/128"}
    assert node.route("203.0.113.7", 1) == "192.0.2.2"
    assert node.route("2001:db8:113::7", 2) == "2001:db8::2"
    assert node.route("203.0.113.7", 0) == "192.0.2.254"
    assert node.apply(GatewayPlan(FLOATING, ROUTES)) == Outcome()

    assert node.apply(GatewayPlan()) == Outcome()
    assert (node.addresses(), node.rules()) == (PLAIN, set())
    assert node.listed(4, "route", "show", "table", "all", "proto", "78") == []
    assert node.listed(6, "route", "show", "table", "all", "proto", "78") == []


def test_what_an_earlier_run_left_is_given_up(node: NodeNamespace) -> None:
    node.apply(GatewayPlan(FLOATING, ROUTES))
    node.links = GatewayLinks(MARK)
    assert node.apply(GatewayPlan(FLOATING[:1], ROUTES[1:])) == Outcome()
    assert node.addresses() == PLAIN | {"192.0.2.100/32"}
    assert node.route("203.0.113.7", 1) == "192.0.2.254"
    assert node.route("2001:db8:113::7", 2) == "2001:db8::2"


def test_cleanup_removes_ours_and_nothing_of_others(node: NodeNamespace) -> None:
    node.ip("rule add fwmark 0x4000 lookup 77 priority 5000", "address add 192.0.2.50/32 dev eth0")
    before = node.addresses(), node.rules()
    node.apply(GatewayPlan(FLOATING, ROUTES))
    # In each family a rule of the route, and one that discards other marks.
    assert node.inside(remove_gateway_links) == (2, 4)
    assert (node.addresses(), node.rules()) == before
    assert node.inside(remove_gateway_links) == (0, 0)


def test_an_address_is_recognised_where_the_kernel_keeps_no_protocol(node: NodeNamespace) -> None:
    node.ip(f"address add 192.0.2.100/32 dev eth0 metric {TABLE_BASE} noprefixroute")
    assert node.apply(GatewayPlan(FLOATING[:1])) == Outcome()
    assert node.apply(GatewayPlan()) == Outcome()
    assert node.addresses() == PLAIN


def test_a_route_moves_to_the_next_holder(node: NodeNamespace) -> None:
    node.apply(GatewayPlan((), ROUTES))
    moved = (
        GatewayRoute(1, 4, "192.0.2.101", "n3", ("192.0.2.3",)),
        GatewayRoute(2, 6, "2001:db8::101", "n3", ("2001:db8::3",)),
    )
    assert node.apply(GatewayPlan((), moved)) == Outcome()
    assert (node.route("203.0.113.7", 1), node.route("2001:db8:113::7", 2)) == ("192.0.2.3", "2001:db8::3")


def test_a_holder_that_is_no_neighbour_is_reached_through_a_tunnel(node: NodeNamespace) -> None:
    node.apply(GatewayPlan((), ROUTES))
    rules = node.rules()
    assert node.has_tunnel() is False
    far = (
        GatewayRoute(1, 4, "192.0.2.101", "n3", ("198.51.100.3",)),
        GatewayRoute(2, 6, "2001:db8::101", "n3", ("2001:db8:99::3",)),
    )
    assert node.apply(GatewayPlan((), far)).problems == ()
    assert node.tunnel() == {4: ("192.0.2.1", "198.51.100.3", 1464), 6: ("2001:db8::1", "2001:db8:99::3", 1444)}
    assert node.apply(GatewayPlan((), ROUTES)) == Outcome()
    assert (node.route("203.0.113.7", 1), node.route("2001:db8:113::7", 2)) == ("192.0.2.2", "2001:db8::2")
    assert (node.has_tunnel(), node.rules()) == (False, rules)


def test_packets_for_a_holder_without_a_route_are_dropped(node: NodeNamespace) -> None:
    node.apply(GatewayPlan((), ROUTES))
    node.ip("route del default via 192.0.2.254")
    far = (
        GatewayRoute(1, 4, "192.0.2.101", "n3", ("198.51.100.3",)),
        GatewayRoute(2, 6, "2001:db8::101", "n4", ()),
    )
    assert node.apply(GatewayPlan((), far)).problems == (
        "packets for gateway 192.0.2.101 are dropped: this node has no route to node n3 at 198.51.100.3",
        "packets for gateway 2001:db8::101 are dropped: node n4 has no address of IPv6",
    )
    assert (node.route("203.0.113.7", 1), node.route("2001:db8:113::7", 2)) == ("", "")
    assert node.apply(GatewayPlan((), ROUTES)) == Outcome()
    assert (node.route("203.0.113.7", 1), node.route("2001:db8:113::7", 2)) == ("192.0.2.2", "2001:db8::2")


@pytest.mark.parametrize("mask", [0x0FF00000, 0x000000FF], ids=["the same bits", "other bits by a new setting"])
def test_cleanup_removes_the_tunnel_and_its_rules(node: NodeNamespace, mask: int) -> None:
    node.ip("route add 198.51.100.0/24 via 192.0.2.254")
    far = GatewayPlan((), (GatewayRoute(1, 4, "192.0.2.101", "n3", ("198.51.100.3",)),))
    node.apply(far)
    node.links = GatewayLinks(MarkBits(mask))
    node.apply(far)
    node.inside(remove_gateway_links)
    assert (node.has_tunnel(), node.rules()) == (False, set())


def test_a_mark_without_a_route_leads_nowhere(node: NodeNamespace) -> None:
    node.apply(GatewayPlan((), ROUTES))
    assert (node.route("203.0.113.7", 9), node.route("2001:db8:113::7", 9)) == ("", "")
    assert node.route("203.0.113.7", 0) == "192.0.2.254"


def test_ways_are_open_before_anything_is_removed(node: NodeNamespace) -> None:
    node.apply(GatewayPlan(FLOATING, ROUTES[:1]))
    assert node.inside(lambda: finished(node.links.open_ways(GatewayPlan((), ROUTES[1:])))) == ()
    assert (node.route("203.0.113.7", 1), node.route("2001:db8:113::7", 2)) == ("192.0.2.2", "2001:db8::2")
    assert node.addresses() == PLAIN | {"192.0.2.100/32", "2001:db8::100/128"}


def test_an_address_that_another_program_has_set_is_left_alone(node: NodeNamespace) -> None:
    node.ip("address add 192.0.2.100/32 dev far0")
    assert node.apply(GatewayPlan(FLOATING)).problems == (
        "gateway 192.0.2.100 is not held: another program has set it on an interface",
    )
    node.apply(GatewayPlan())
    assert [link["ifname"] for link in node.listed(4, "address", "show", "to", "192.0.2.100")] == ["far0"]


def test_an_address_without_an_interface_is_named(node: NodeNamespace) -> None:
    outcome = node.inside(lambda: finished(node.links.apply(GatewayPlan(FLOATING), ("192.0.2.1",))))
    assert outcome.problems == ("gateway 2001:db8::100 is not held: no interface has the Node's address of its family",)


def test_the_node_itself_never_sends_from_a_floating_address(node: NodeNamespace) -> None:
    node.apply(GatewayPlan(FLOATING))
    for destination, own in (("203.0.113.7", OWN[0]), ("2001:db8::100:1", OWN[1])):
        family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        with node.inside(lambda family=family: socket.socket(family, socket.SOCK_DGRAM)) as opened:  # type: ignore[misc]
            opened.connect((destination, 9))
            assert opened.getsockname()[0] == own


@pytest.mark.parametrize("address", FLOATING, ids=["IPv4", "IPv6"])
def test_a_neighbour_learns_that_an_address_has_moved(node: NodeNamespace, address: str) -> None:
    peer = f"{netns.prefix('tg', os.getpid())}peer"
    netns.make([peer])
    try:
        node.ip(f"link set far0 netns {peer}")
        stale = "02:00:00:00:00:01"
        netns.ip_batch(
            [
                "link set far0 up",
                "address add 192.0.2.9/24 dev far0",
                "address add 2001:db8::9/64 dev far0 nodad",
                f"neighbour add {address} lladdr {stale} dev far0 nud reachable",
            ],
            peer,
        )
        netns.await_links(node.name, ["eth0"])
        outcome = node.apply(GatewayPlan((address,)))
        node.inside(lambda: node.links.announce(outcome.gained[0]))
        argv = ["ip", "-n", peer, "-json", "neighbour", "show", address]
        learnt = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)[0]["lladdr"]
        link = json.loads(
            subprocess.run(
                ["ip", "-n", node.name, "-json", "link", "show", "eth0"], capture_output=True, check=True
            ).stdout
        )
        assert learnt == link[0]["address"] != stale
    finally:
        netns.remove([peer])
