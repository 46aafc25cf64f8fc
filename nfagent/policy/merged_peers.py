"""Merges the peers of a rule, and its port numbers: P peers and Q ports cost P + Q rules, not P times Q."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from nfagent.decode.policy_limits import SINGLE_PORTS
from nfagent.model.admin_policy import NodePeer
from nfagent.model.networkpolicy import PodPeer, PolicyPort, PortProtocol


class AnyOf(msgspec.Struct, frozen=True, cache_hash=True):
    """The Pod and Node peers of one rule, two or more: it selects what any of them selects.

    peers: sorted, so that rules with the same peers share a set
    """

    peers: tuple[PodPeer | NodePeer, ...]

    def __str__(self) -> str:
        """Return it as text: `pods app=web in namespace shop; all nodes`."""
        return "; ".join(map(str, self.peers))


class PortNumbers(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """Many ports of one protocol: inclusive ranges, ascending, not adjacent."""

    protocol: PortProtocol
    ranges: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        """Return it as text: `80, 443, 8000-8080`."""
        return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges)


_T = TypeVar("_T", PodPeer, PodPeer | NodePeer)


def any_of(peers: Iterable[_T]) -> _T | AnyOf:
    """Return one peer that selects what any of these selects."""
    distinct: list[_T] = sorted(set(peers), key=msgspec.json.encode)
    return distinct[0] if len(distinct) == 1 else AnyOf(tuple(distinct))


def join_ports(ports: tuple[PolicyPort, ...]) -> Iterator[PolicyPort | PortNumbers | None]:
    """Yield named ports as they are, and the merged numbers of each protocol at its first one; None for no ports."""
    if not ports:
        yield None
    merged: set[PortProtocol] = set()
    for port in ports:
        if port.name:
            yield port
        elif port.protocol not in merged:
            merged.add(port.protocol)
            yield from _numbers(port.protocol, ports)


def _numbers(protocol: PortProtocol, ports: tuple[PolicyPort, ...]) -> Iterator[PolicyPort | PortNumbers]:
    """Merge a protocol's numbers and ranges that are adjacent or overlap."""
    ranges = sorted((port.first, port.last) for port in ports if port.protocol == protocol and not port.name)
    if not ranges[0][0]:
        yield PolicyPort(protocol)
        return
    merged: list[tuple[int, int]] = []
    for first, last in ranges:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    if len(merged) > SINGLE_PORTS:
        yield PortNumbers(protocol, tuple(merged))
        return
    for first, last in merged:
        yield PolicyPort(protocol, first, last)


def peers_of(content: object) -> tuple[PodPeer | NodePeer, ...]:
    """Return the Pod and Node peers whose members are a set's elements; none for ranges and ports."""
    if isinstance(content, AnyOf):
        return content.peers
    return (content,) if isinstance(content, PodPeer | NodePeer) else ()
