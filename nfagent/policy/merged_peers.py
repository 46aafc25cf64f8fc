"""Peers of one rule as one, and its port numbers as few: what P peers and Q ports cost is P + Q, not P times Q."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from nfagent.decode.policy_limits import SINGLE_PORTS
from nfagent.model.admin_policy import NodePeer
from nfagent.model.networkpolicy import PodPeer, PolicyPort, PortProtocol


class AnyOf(msgspec.Struct, frozen=True, cache_hash=True):
    """All Pod and Node peers of one rule, two or more: who is meant by any of them is meant.

    peers: in an order of their own, so that rules which list the same peers mean the same set
    """

    peers: tuple[PodPeer | NodePeer, ...]

    def __str__(self) -> str:
        """Say it in words: `pods app=web in namespace shop; all nodes`."""
        return "; ".join(map(str, self.peers))


class PortNumbers(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """Many ports of one protocol: inclusive ranges, rising, with gaps between them."""

    protocol: PortProtocol
    ranges: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        """Say which ports: `80, 443, 8000-8080`."""
        return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges)


_T = TypeVar("_T", PodPeer, PodPeer | NodePeer)


def any_of(peers: Iterable[_T]) -> _T | AnyOf:
    """Give one peer that means what any of these does."""
    distinct: list[_T] = sorted(set(peers), key=msgspec.json.encode)
    return distinct[0] if len(distinct) == 1 else AnyOf(tuple(distinct))


def join_ports(ports: tuple[PolicyPort, ...]) -> Iterator[PolicyPort | PortNumbers | None]:
    """Give names as they are, and each protocol's numbers in the place of the first of them; None for no ports."""
    if not ports:
        yield None
    joined: set[PortProtocol] = set()
    for port in ports:
        if port.name:
            yield port
        elif port.protocol not in joined:
            joined.add(port.protocol)
            yield from _numbers(port.protocol, ports)


def _numbers(protocol: PortProtocol, ports: tuple[PolicyPort, ...]) -> Iterator[PolicyPort | PortNumbers]:
    """Join a protocol's numbers and ranges where they meet or overlap."""
    given = sorted((port.first, port.last) for port in ports if port.protocol == protocol and not port.name)
    if not given[0][0]:
        yield PolicyPort(protocol)
        return
    joined: list[tuple[int, int]] = []
    for first, last in given:
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(joined[-1][1], last)
        else:
            joined.append((first, last))
    if len(joined) > SINGLE_PORTS:
        yield PortNumbers(protocol, tuple(joined))
        return
    for first, last in joined:
        yield PolicyPort(protocol, first, last)


def peers_of(content: object) -> tuple[PodPeer | NodePeer, ...]:
    """Give the peers whose Pods or Nodes bring a set's elements: none of ranges, ports, and whatever is no peer."""
    if isinstance(content, AnyOf):
        return content.peers
    return (content,) if isinstance(content, PodPeer | NodePeer) else ()
