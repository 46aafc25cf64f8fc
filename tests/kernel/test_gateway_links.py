"""Addresses, rules and routes of a GatewayPlan in a real kernel: set, replaced, removed; those of others stay."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from nfagent.clock import SystemClock
from nfagent.controllers.gateway_controller import GatewayController
from nfagent.egress.gateways import GatewayPlan, GatewayRoute, MarkBits
from nfagent.egress.tunnel import TUNNEL_LINK, TUNNEL_PORT
from nfagent.kernel import route_events
from nfagent.kernel.gateway_links import TABLE_BASE, GatewayLinks, Outcome, remove_gateway_links
from nfagent.kernel.sockets import DATAGRAM_BYTES
from nfagent.lab.topology import netns
from nfagent.lab.topology.ip_commands import FORWARDING
from nfagent.netlink import codec
from nfagent.netlink.rtnl_address import RTM_NEWADDR, decode_address
from tests.support.packet_labs import wait_until
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

    def neighbours(self) -> set[str]:
        found = [entry for family in (4, 6) for entry in self.listed(family, "neighbour", "show", "dev", "eth0")]
        return {entry["dst"] for entry in found if "lladdr" in entry}

    def marked_hop(self, family: int) -> str:
        """Return the next hop in the table of the family's first route."""
        (route,) = self.listed(family, "route", "show", "table", "all", "proto", "78")
        return str(route["gateway"])

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
        netns.write_sysctls(made.name, FORWARDING)
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
        # Else the kernel would set up IPv6 on them, and notify of it, some time later.
        netns.await_links(made.name, ("eth0", "far0"))
        yield made
    finally:
        netns.remove([made.name])


PLAIN = {"192.0.2.1/24", "2001:db8::1/64"}


def test_a_plan_is_carried_out_and_given_up(node: NodeNamespace) -> None:
    outcome = node.apply(GatewayPlan(FLOATING, ROUTES))
    assert outcome.problems == ()
    assert [held.address for held in outcome.gained] == list(FLOATING)
    assert node.addresses() == PLAIN | {"192.0.2.100/32", "2001:db8::100/128"}
    assert node.route("203.0.113.7", 1) == "192.0.2.101"
    assert node.route("2001:db8:113::7", 2) == "2001:db8::101"
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
    assert node.route("203.0.113.7", 1) == ""
    assert node.route("2001:db8:113::7", 2) == "2001:db8::101"


def notified(events: socket.socket) -> list[str]:
    """Return the addresses that the kernel says were added, and the types of other messages."""
    found: list[str] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found += (
                decode_address(part).address if part.type == RTM_NEWADDR else f"message {part.type}"
                for part in codec.messages(events.recv(DATAGRAM_BYTES))
            )
    return found


def test_a_restart_takes_over_what_is_in_force(node: NodeNamespace) -> None:
    """No address and no rule is set again: none is notified."""
    with node.inside(lambda: route_events.event_socket(route_events.ADDRESSES | route_events.RULES)) as events:
        node.apply(GatewayPlan(FLOATING, ROUTES))
        # A worker of the kernel notifies of IPv6 addresses, later; of all else it is notified within the call.
        wait_until(lambda: FLOATING[1] in notified(events))
        notified(events)
        node.links = GatewayLinks(MARK)
        assert node.apply(GatewayPlan(FLOATING, ROUTES)) == Outcome()
        own = {*OWN, "::1"}
        assert [words for words in notified(events) if not (words in own or words.startswith("fe80:"))] == []


def test_rules_of_an_earlier_setting_of_the_mark_are_removed(node: NodeNamespace) -> None:
    node.links = GatewayLinks(MarkBits(0x000FF000))
    node.apply(GatewayPlan(FLOATING, ROUTES))
    node.links = GatewayLinks(MARK)
    assert node.apply(GatewayPlan(FLOATING, ROUTES)) == Outcome()
    assert {mark for _, mark, _ in node.rules()} == {"0x8100000", "0x8200000", "0x8000000"}
    assert node.route("203.0.113.7", 1) == "192.0.2.101"


def test_a_held_address_of_ipv6_answers_at_once(node: NodeNamespace) -> None:
    """The kernel would probe for a second or more whether another node has it: the old holder may have it still."""
    netns.write_sysctls(node.name, {"ipv6/conf/eth0/accept_dad": "1", "ipv6/conf/all/accept_dad": "1"})
    node.apply(GatewayPlan(FLOATING))
    listed = node.listed(6, "address", "show", "to", FLOATING[1])
    (held,) = [entry for link in listed for entry in link["addr_info"] if entry.get("local") == FLOATING[1]]
    assert "tentative" not in held


def test_an_address_follows_the_address_of_the_node_to_another_interface(node: NodeNamespace) -> None:
    node.apply(GatewayPlan(FLOATING))
    node.ip(
        "address del 192.0.2.1/24 dev eth0",
        "address del 2001:db8::1/64 dev eth0",
        "address add 192.0.2.1/24 dev far0",
        "address add 2001:db8::1/64 dev far0 nodad",
    )
    assert node.apply(GatewayPlan(FLOATING)).problems == ()
    for family, address in ((4, FLOATING[0]), (6, FLOATING[1])):
        assert [link["ifname"] for link in node.listed(family, "address", "show", "to", address)] == ["far0"]


@pytest.mark.parametrize(("second", "on"), [("lo", "eth0"), ("far0", "far0")])
def test_of_two_interfaces_with_the_address_of_the_node_one_has_the_floating_address(
    node: NodeNamespace, second: str, on: str
) -> None:
    """That of the lower index, but rarely lo."""
    node.ip(f"address add 192.0.2.1/32 dev {second}")
    assert node.apply(GatewayPlan(FLOATING[:1])).problems == ()
    assert [link["ifname"] for link in node.listed(4, "address", "show", "to", FLOATING[0])] == [on]


def test_a_held_address_stays_where_it_is_when_another_interface_gets_the_address_of_the_node(
    node: NodeNamespace,
) -> None:
    """Moving it would interrupt its connections."""
    node.apply(GatewayPlan(FLOATING[:1]))
    node.ip("address add 192.0.2.1/32 dev far0")
    assert node.apply(GatewayPlan(FLOATING[:1])) == Outcome()
    assert [link["ifname"] for link in node.listed(4, "address", "show", "to", FLOATING[0])] == ["eth0"]


@pytest.fixture
def followed(node: NodeNamespace) -> Iterator[NodeNamespace]:
    """Return a node whose controller carries out a plan, and follows what others change."""
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    async def run() -> None:
        wanted = PlannedForNode()
        controller = GatewayController(node.links, ClockOfNotifications(), wanted)
        groups = route_events.LINKS | route_events.ADDRESSES | route_events.RULES
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(controller.run())
            following = tasks.create_task(route_events.RouteEvents(groups, controller.links_changed).run())
            running.add_done_callback(lambda _: following.cancel())
            controller.committed()
            started.append((asyncio.get_running_loop(), running))

    thread = threading.Thread(target=lambda: node.inside(lambda: asyncio.run(run())))
    thread.start()
    try:
        wait_until(lambda: state(node) == WHOLE)
        yield node
    finally:
        loop, running = started[0]
        loop.call_soon_threadsafe(running.cancel)
        thread.join()


class ClockOfNotifications(SystemClock):
    """Time in which the controller compares after a notification or a failure, and never because ten seconds passed."""

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        return await event.wait() if seconds >= 10 else await super().wait(event, seconds)


class PlannedForNode:
    """A plan for gateway_controller."""

    gateway_plan = GatewayPlan(FLOATING, ROUTES)
    node_addresses = OWN


def state(node: NodeNamespace) -> tuple[set[str], str, str]:
    """Return the addresses of a node, and the next hops of packets with the marks of ROUTES."""
    return node.addresses(), node.route("203.0.113.7", 1), node.route("2001:db8:113::7", 2)


WHOLE = (PLAIN | {"192.0.2.100/32", "2001:db8::100/128"}, "192.0.2.101", "2001:db8::101")


def test_addresses_and_ways_are_back_after_an_interface_was_down(followed: NodeNamespace) -> None:
    followed.ip("link set eth0 down")
    assert (followed.route("203.0.113.7", 1), followed.route("2001:db8:113::7", 2)) == ("", "")
    followed.ip("link set eth0 up", "address add 2001:db8::1/64 dev eth0 nodad")
    wait_until(lambda: state(followed) == WHOLE)


def test_what_another_program_removes_is_set_again(followed: NodeNamespace) -> None:
    (rule,) = [rule for rule in followed.listed(4, "rule") if rule.get("fwmark") == "0x8100000"]
    followed.ip(
        f"rule del priority {rule['priority']} fwmark 0x8100000/0xff00000", "address del 192.0.2.100/32 dev eth0"
    )
    wait_until(lambda: state(followed) == WHOLE)


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


def test_the_neighbour_entry_of_the_holder_before_is_forgotten(node: NodeNamespace) -> None:
    node.apply(GatewayPlan((), ROUTES))
    for address in ("192.0.2.101", "2001:db8::101"):
        node.ip(f"neighbour add {address} lladdr 02:00:00:00:00:01 dev eth0 nud reachable")
    node.apply(GatewayPlan((), ROUTES))
    assert node.neighbours() == {"192.0.2.101", "2001:db8::101"}, "the holders are the same"
    moved = (
        GatewayRoute(1, 4, "192.0.2.101", "n3", ("192.0.2.3",)),
        GatewayRoute(2, 6, "2001:db8::101", "n3", ("2001:db8::3",)),
    )
    assert node.apply(GatewayPlan((), moved)) == Outcome()
    assert (node.route("203.0.113.7", 1), node.route("2001:db8:113::7", 2)) == ("192.0.2.101", "2001:db8::101")
    assert node.neighbours() == set()


def test_a_route_to_an_address_that_this_node_still_has_leads_to_the_holders_own(node: NodeNamespace) -> None:
    node.apply(GatewayPlan(("192.0.2.101", "2001:db8::101")))
    assert node.inside(lambda: finished(node.links.add_routes(GatewayPlan((), ROUTES)))) == ()
    assert (node.marked_hop(4), node.marked_hop(6)) == ("192.0.2.2", "2001:db8::2")
    node.apply(GatewayPlan((), ROUTES))
    assert node.apply(GatewayPlan((), ROUTES)) == Outcome()
    assert (node.marked_hop(4), node.marked_hop(6)) == ("192.0.2.101", "2001:db8::101")


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
    assert (node.route("203.0.113.7", 1), node.route("2001:db8:113::7", 2)) == ("192.0.2.101", "2001:db8::101")
    assert (node.has_tunnel(), node.rules()) == (False, rules)


def test_the_tunnel_sends_from_an_address_of_the_node_that_is_on_an_interface(node: NodeNamespace) -> None:
    node.inside(lambda: finished(node.links.apply(FAR, ("198.51.100.200", *OWN))))
    assert node.tunnel()[4] == ("192.0.2.1", "198.51.100.3", 1464)


def test_the_tunnel_takes_packets_that_fit_into_those_of_the_link(node: NodeNamespace) -> None:
    node.ip("link set eth0 mtu 1400")
    node.apply(FAR)
    assert node.tunnel()[4] == ("192.0.2.1", "198.51.100.3", 1364)
    node.ip("link set eth0 mtu 9000")
    node.apply(FAR)
    assert node.tunnel()[4] == ("192.0.2.1", "198.51.100.3", 1500)


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
    assert (node.route("203.0.113.7", 1), node.route("2001:db8:113::7", 2)) == ("192.0.2.101", "2001:db8::101")


STRICT = (
    "packets of other nodes' Pods that come in by {0} are dropped{1}: the reverse path filter is strict there; "
    "write `net/ipv4/conf/{0}/rp_filter = 2` into a file of /etc/sysctl.d, and set it"
)


@pytest.mark.parametrize(
    ("link", "condition"),
    [("eth0", " whose answers leave by another interface"), (TUNNEL_LINK, "")],
    ids=["of the link", "of the tunnel"],
)
@pytest.mark.parametrize(("everywhere", "value"), [("0", "1"), ("1", "0")], ids=["by its own", "by that of all"])
def test_a_strict_reverse_path_filter_is_told(
    node: NodeNamespace, link: str, condition: str, everywhere: str, value: str
) -> None:
    assert node.apply(GatewayPlan(FLOATING)).lasting == ()
    loose = {f"ipv4/conf/{name}/rp_filter": "2" for name in ("eth0", TUNNEL_LINK)}
    strict = {"ipv4/conf/all/rp_filter": everywhere, f"ipv4/conf/{link}/rp_filter": value}
    netns.write_sysctls(node.name, loose | strict)
    assert node.apply(GatewayPlan(FLOATING)) == Outcome(lasting=(STRICT.format(link, condition),))
    netns.write_sysctls(node.name, {f"ipv4/conf/{link}/rp_filter": "2"})
    assert node.apply(GatewayPlan(FLOATING)) == Outcome()


def test_an_interface_that_does_not_forward_is_told(node: NodeNamespace) -> None:
    node.apply(GatewayPlan(FLOATING))
    netns.write_sysctls(node.name, {f"ipv4/conf/{TUNNEL_LINK}/forwarding": "0"})
    (problem,) = node.apply(GatewayPlan(FLOATING)).lasting
    assert problem.startswith(
        f"packets of other nodes' Pods that come in by {TUNNEL_LINK} are dropped: it doesn't forward"
    )


FAR = GatewayPlan((), (GatewayRoute(1, 4, "192.0.2.101", "n3", ("198.51.100.3",)),))


def test_a_port_that_another_program_has_is_told(node: NodeNamespace) -> None:
    with node.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as taken:
        taken.bind(("", TUNNEL_PORT))
        (problem,) = node.apply(FAR).lasting
        assert problem == (
            "packets for gateway 192.0.2.101 are dropped: node n3 at 198.51.100.3 is not on a link of this node, "
            f"and there is no tunnel: another program has UDP port {TUNNEL_PORT}"
        )
        assert node.route("203.0.113.7", 1) == ""
        (problem,) = node.apply(GatewayPlan(FLOATING)).lasting
        lost = "packets from nodes that are on no link of this node are dropped"
        assert problem == f"{lost}: another program has UDP port {TUNNEL_PORT}"
    assert node.apply(FAR) == Outcome()


def test_an_interface_of_another_program_with_the_tunnels_name_stays(node: NodeNamespace) -> None:
    node.ip(f"link add {TUNNEL_LINK} type veth peer name far1")
    (problem,) = node.apply(FAR).lasting
    assert problem.endswith(
        f"another interface has the name {TUNNEL_LINK}: remove it with `ip link delete {TUNNEL_LINK}`"
    )
    node.apply(GatewayPlan())
    assert node.has_tunnel()


def test_ways_before_a_commit_use_the_tunnel_that_exists_and_make_none(node: NodeNamespace) -> None:
    def add_routes() -> tuple[str, ...]:
        return finished(node.links.add_routes(FAR))

    (problem,) = node.inside(add_routes)
    assert problem.endswith("there is no tunnel: it is made after the next commit")
    assert (node.has_tunnel(), node.route("203.0.113.7", 1)) == (False, "")
    node.apply(FAR)
    assert node.inside(add_routes) == ()
    assert node.tunnel()[4] == ("192.0.2.1", "198.51.100.3", 1464)


@pytest.mark.parametrize("mask", [0x0FF00000, 0x000000FF], ids=["the same bits", "other bits by a new setting"])
def test_cleanup_removes_the_tunnel_and_its_rules(node: NodeNamespace, mask: int) -> None:
    node.ip("route add 198.51.100.0/24 via 192.0.2.254")
    far = GatewayPlan((), (GatewayRoute(1, 4, "192.0.2.101", "n3", ("198.51.100.3",)),))
    node.apply(far)
    node.links = GatewayLinks(MarkBits(mask))
    node.apply(far)
    node.inside(remove_gateway_links)
    assert (node.has_tunnel(), node.rules()) == (False, set())


def test_a_mark_leads_nowhere_where_this_node_holds_all_addresses(node: NodeNamespace) -> None:
    """A packet was marked for another node's address, and is routed after that address moved here."""
    node.apply(GatewayPlan((), ROUTES))
    assert (node.route("203.0.113.7", 1), node.route("2001:db8:113::7", 2)) == ("192.0.2.101", "2001:db8::101")
    node.apply(GatewayPlan(FLOATING))
    assert (node.route("203.0.113.7", 1), node.route("2001:db8:113::7", 2)) == ("", "")


def test_a_mark_without_a_route_leads_nowhere(node: NodeNamespace) -> None:
    node.apply(GatewayPlan((), ROUTES))
    assert (node.route("203.0.113.7", 9), node.route("2001:db8:113::7", 9)) == ("", "")
    assert node.route("203.0.113.7", 0) == "192.0.2.254"


def test_ways_are_open_before_anything_is_removed(node: NodeNamespace) -> None:
    node.apply(GatewayPlan(FLOATING, ROUTES[:1]))
    assert node.inside(lambda: finished(node.links.add_routes(GatewayPlan((), ROUTES[1:])))) == ()
    assert (node.route("203.0.113.7", 1), node.route("2001:db8:113::7", 2)) == ("192.0.2.101", "2001:db8::101")
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
