"""Requests of addresses, rules and routes by rtnetlink, in the network namespace of the calling thread."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Protocol, Self

from nfagent.kernel.rtnetlink import raise_refusal, rtnetlink_socket
from nfagent.kernel.sockets import DATAGRAM_BYTES, dump_replies
from nfagent.model.netaddr import Family
from nfagent.netlink import codec
from nfagent.netlink.rtnl_address import RTM_NEWADDR, InterfaceAddress, decode_address, encode_address_dump
from nfagent.netlink.rtnl_link import RTM_NEWLINK, Interface, decode_link
from nfagent.netlink.rtnl_route import RTM_NEWROUTE, decode_neighbour_link, decode_route, encode_route_request
from nfagent.netlink.rtnl_rule import RTM_NEWRULE, MarkRule, decode_rule, encode_rule_dump
from nfagent.netlink.rtnl_tunnel import decode_mtu, encode_link_request


class DumpEncoder(Protocol):
    """Encodes the request for a dump."""

    def __call__(self, sequence: int, family: Family) -> bytes:
        """Return the request."""
        ...


class RouteRequests:
    """A socket of rtnetlink for requests whose replies are read at once. Methods raise OSError, WireError."""

    def __init__(self) -> None:
        """Open the socket. Raises OSError."""
        self._socket = rtnetlink_socket()
        self._sequence = 0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket."""
        self._socket.close()

    def do(self, request: bytes, *accepted: int) -> int:
        """Send one request; return 0, or the errno of a refusal if it is among those accepted."""
        self._socket.send(request)
        for part in codec.messages(self._socket.recv(DATAGRAM_BYTES)):
            code = codec.ack_errno(part)
            if code and code not in accepted:
                raise OSError(code, os.strerror(code))
            return code
        raise OSError(errno.EIO, "no acknowledgement")

    def addresses(self, family: Family) -> Iterator[InterfaceAddress]:
        """List the addresses of a family."""
        return (decode_address(part) for part in self._dump(encode_address_dump, family, RTM_NEWADDR))

    def rules(self, family: Family) -> Iterator[MarkRule]:
        """List the rules of a family that have MarkRule's form."""
        decoded = (decode_rule(part) for part in self._dump(encode_rule_dump, family, RTM_NEWRULE))
        return (rule for rule in decoded if rule is not None)

    def neighbour_link(self, address: str) -> int:
        """Return the index of the interface on which an address is a neighbour; 0 where it is on none."""
        found = self._one(encode_route_request(0, address), RTM_NEWROUTE)
        return 0 if found is None else decode_neighbour_link(found)

    def outgoing_link(self, address: str) -> int:
        """Return the index of the first interface of the route to another machine's address; 0 without such a route."""
        found = self._one(encode_route_request(0, address), RTM_NEWROUTE)
        route = None if found is None else decode_route(found)
        return 0 if route is None else route.links[0]

    def interface(self, name: str) -> Interface | None:
        """Return an interface by its name, None where there is none."""
        found = self._one(encode_link_request(0, name), RTM_NEWLINK)
        return None if found is None else decode_link(found)

    def mtu(self, link: int) -> int:
        """Return the MTU of an interface in bytes, by its index; 0 where there is none."""
        found = self._one(encode_link_request(0, link), RTM_NEWLINK)
        return 0 if found is None else decode_mtu(found)

    def _one(self, request: bytes, kind: int) -> codec.Message | None:
        """Send a request for one object; return the reply, None for a refusal."""
        self._socket.send(request)
        parts = codec.messages(self._socket.recv(DATAGRAM_BYTES))
        return next((part for part in parts if part.type == kind), None)

    def _dump(self, encode: DumpEncoder, family: Family, kind: int) -> list[codec.Message]:
        self._sequence += 1
        self._socket.send(encode(self._sequence, family))
        found = []
        for part in dump_replies(self._socket, self._sequence):
            raise_refusal(part)
            if part.type == kind:
                found.append(part)
        return found
