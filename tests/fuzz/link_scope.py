"""UDP to addresses of the link only: link-local, broadcast, multicast. They are in no dispatch map.

A flow that is denied to its own address must not pass to these either. One that is allowed need not pass.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from nfagent.lab.topology import netns
from nfagent.lab.topology.ip_commands import UPLINK, mac_of
from nfagent.lab.topology.plan import Attachment
from nfagent.model.netaddr import Family, family_of
from nfagent.policy.evaluator import Flow
from tests.fuzz.case import LinkDestination
from tests.fuzz.topology import AT, GATEWAYS, Place
from tests.properties.objects import NODE_CIDRS

LINK_DESTINATIONS: dict[Family, tuple[LinkDestination, ...]] = {
    4: ("broadcast", "subnet broadcast", "multicast"),
    6: ("link-local", "from link-local", "multicast"),
}
PORT = 5353
"""Port at which all places listen on every address: the lab's own servers have other ports."""

GROUPS: dict[Family, str] = {4: "224.0.0.1", 6: "ff02::1"}
_ROUTED_GATEWAY = "fe80::1"
_NUMBER = struct.Struct("!I")
_IN6_PKTINFO = struct.Struct("=16sI")  # linux/ipv6.h: struct in6_pktinfo
_ANYWHERE: dict[Family, tuple[str, socket.AddressFamily]] = {4: ("", socket.AF_INET), 6: ("::", socket.AF_INET6)}
_NUMBERS = itertools.count(1)


def link_flows() -> tuple[Flow, ...]:
    """Return every UDP flow from a slot to another place on its link: the node's other slots, and the node itself."""
    families: tuple[Family, Family] = (4, 6)
    return tuple(
        Flow(source, to, "udp", PORT)
        for family in families
        for source in AT
        for to in AT
        if source != to and family_of(source) == family_of(to) == family
        if AT[source].slot and AT[source].node == AT[to].node
    )


def destination_address(flow: Flow, to: LinkDestination) -> str:
    """Return the address that a flow is sent to; its own destination for unicast."""
    match to:
        case "broadcast":
            return "255.255.255.255"
        case "subnet broadcast":
            return next(str(ipaddress.ip_network(cidr)[-1]) for cidr in NODE_CIDRS[AT[flow.source].node])
        case "multicast":
            return GROUPS[family_of(flow.source)]
    return flow.destination


class LinkScope:
    """A socket of each family in every slot and on both nodes, which sends to and receives at every address."""

    def __init__(self, namespace_of: Callable[[Place], str], attachment: Attachment) -> None:
        """Open nothing yet; `namespace_of` returns a place's network namespace."""
        self._namespace_of = namespace_of
        self._attachment = attachment
        self._sockets: dict[tuple[Place, Family], socket.socket] = {}
        self._uplinks: dict[Place, int] = {}

    def open(self, *places: Place) -> None:
        """Open the sockets of places. Raises KernelError, OSError."""
        for place in places:
            if not place.node:
                continue
            for family in LINK_DESTINATIONS:
                opened = functools.partial(_open, family, multicast=place.slot)
                self._sockets[place, family], self._uplinks[place] = netns.inside(self._namespace_of(place), opened)

    def close(self, *places: Place) -> None:
        """Close the sockets of places."""
        for key in [key for key in self._sockets if key[0] in places]:
            self._sockets.pop(key).close()

    def reached(
        self, calls: Iterable[tuple[Flow, LinkDestination]], seconds: float
    ) -> Sequence[tuple[Flow, LinkDestination]]:
        """Send flows to these addresses; return those that arrived at their destination within so many seconds."""
        sent = {next(_NUMBERS): question for question in calls}
        for number, (flow, to) in sent.items():
            self._send(number, flow, to)
        listening = {sock.fileno(): place for (place, _), sock in self._sockets.items()}
        reached: dict[tuple[Flow, LinkDestination], None] = {}
        with select.epoll() as epoll:
            for descriptor in listening:
                epoll.register(descriptor, select.EPOLLIN)
            end, left = time.monotonic() + seconds, seconds
            while left > 0:
                # What has arrived is read also where the time is over: another process may have had the processor.
                left = end - time.monotonic()
                for descriptor, _mask in epoll.poll(max(0.0, left)):
                    for number in _received(descriptor):
                        question = sent.get(number)
                        if question is not None and AT[question[0].destination] == listening[descriptor]:
                            reached[question] = None
        return tuple(reached)

    def _send(self, number: int, flow: Flow, to: LinkDestination) -> None:
        place, family = AT[flow.source], family_of(flow.source)
        sock, uplink = self._sockets[place, family], self._uplinks[place]
        payload = [_NUMBER.pack(number)]
        own = self._link_local(place, place)
        try:
            if family == 4:
                sock.sendto(payload[0], (self._to(flow, to), PORT))
            elif to == "from link-local":
                sock.sendmsg(payload, [_source(own, uplink)], 0, (flow.destination, PORT, 0, 0))
            else:
                sock.sendto(payload[0], (self._to(flow, to), PORT, 0, uplink))
        except OSError:
            # An error of sending: it doesn't arrive.
            return

    def _to(self, flow: Flow, to: LinkDestination) -> str:
        return (
            self._link_local(AT[flow.destination], AT[flow.source])
            if to == "link-local"
            else destination_address(flow, to)
        )

    def _link_local(self, place: Place, seen_from: Place) -> str:
        """Return a place's link-local address on the link of a slot, from its MAC (RFC 4291, appendix A)."""
        if not place.slot and self._attachment == "routed":
            return _ROUTED_GATEWAY
        addresses = place.addresses if place.slot else GATEWAYS[seen_from.node]
        mac = bytes.fromhex(mac_of(addresses).replace(":", ""))
        identifier = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
        return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


def _open(family: Family, *, multicast: bool) -> tuple[socket.socket, int]:
    """Open a socket at every address, in the thread's network namespace; return it, and the uplink's index."""
    address, domain = _ANYWHERE[family]
    uplink = socket.if_nametoindex(UPLINK)
    sock = socket.socket(domain, socket.SOCK_DGRAM)
    sock.setblocking(False)  # noqa: FBT003 - socket's own signature
    if family == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, uplink)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if multicast:
            sock.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), uplink)
            )
    sock.bind((address, PORT))
    return sock, uplink


def _source(address: str, uplink: int) -> tuple[int, int, bytes]:
    packed = ipaddress.IPv6Address(address).packed
    return (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(packed, uplink))


def _received(descriptor: int) -> Iterator[int]:
    with socket.socket(fileno=descriptor) as sock:
        try:
            while True:
                payload = sock.recv(64)
                if len(payload) == _NUMBER.size:
                    yield _NUMBER.unpack(payload)[0]
        except BlockingIOError:
            pass
        finally:
            sock.detach()
