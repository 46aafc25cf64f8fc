"""Which addresses are the cluster's own: ranges where they hold, single addresses for Pods outside them.

Nodes name their Pods' ranges where Kubernetes hands out addresses; another IPAM may leave them empty, or name one
family. So a Pod whose address lies in no known range counts by itself. Pods are looked at one by one as they change,
and all of them only where a range went: in steps, since there may be 150,000.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from nfagent.model.netaddr import FAMILIES, Family, Range, family_of, join, number, single, subtract, text
from nfagent.model.objects import Node, Pod
from nfagent.state.cluster import ClusterDelta, ClusterState

_PART = 1_000
"""How many addresses, ranges or Nodes one step looks at."""
_SIFTED = 10_000
"""How many addresses one step looks at the beginning of."""
_MOST_PIECES = 16
_MOST_BLOCKS = 8_192
_HALF = 4
"""Groups of an IPv6 address that name its /64, and groups that name the address in there."""
_V4_BLOCK, _V6_BLOCK = (1 << 8) - 1, (1 << 64) - 1


class ClusterAddresses:
    """Follows a cluster's Nodes, Services' ranges and Pods.

    ranges:  disjoint ranges of Nodes, of Services, and of the settings
    outside: by family, the addresses that Pods hold and that lie in none of them
    """

    def __init__(self, cluster: ClusterState, given: Iterable[Range]) -> None:
        """Start with nothing looked at; `given` are the settings' ranges."""
        self._cluster = cluster
        self._given = tuple(given)
        self.ranges: tuple[Range, ...] = ()
        self.outside: dict[Family, set[str]] = {family: set() for family in FAMILIES}
        self._begun = False
        self._stale = True
        self._version = 0
        self._unchecked: list[str] = []
        # Addresses of which those are to be checked that begin so: they may lie in a range that came or went.
        self._unsifted: list[str] = []
        self._beginnings: tuple[str, ...] = ()
        self._firsts: dict[Family, list[int]] = {family: [] for family in FAMILIES}
        self._lasts: dict[Family, list[int]] = {family: [] for family in FAMILIES}
        # Block of addresses -> whether all of it lies in known ranges, or none; None where that differs.
        self._blocks: dict[str, bool | None] = {}
        self._named: dict[str, tuple[Node, tuple[Range, ...]]] = {}

    def follow(self, change: ClusterDelta) -> bool:
        """Note what an event changed; tell whether a range may have come or gone."""
        before, after = change.pod or (None, None)
        if self._begun and _held(before) != _held(after):
            self._unchecked += {*_held(before), *_held(after)}
        moved = change.service_range
        if change.node is not None:
            moved |= _named_by(change.node_was) != _named_by(self._cluster.nodes.get(change.node))
        if moved:
            self._stale = True
            self._version += 1
        return moved

    @property
    def settled(self) -> bool:
        """Return whether everything that was noted is worked off."""
        return not (self._stale or self._unsifted or self._unchecked)

    def steps(self) -> Iterator[list[str]]:
        """Work off what was noted; each step gives the addresses that are outside since, or no longer."""
        while not self.settled:
            if self._stale:
                for _ in self._find_ranges():
                    yield []
            if self._unsifted:
                self._sift()
                yield []
                continue
            part = self._unchecked[-_PART:]
            del self._unchecked[-_PART:]
            yield [address for address in part if self._moved(address)]

    def _sift(self) -> None:
        part = self._unsifted[-_SIFTED:]
        del self._unsifted[-_SIFTED:]
        self._unchecked += [address for address in part if address.startswith(self._beginnings)]

    def _moved(self, address: str) -> bool:
        known = self.outside[family_of(address)]
        is_outside = address in self._cluster.by_address and not self._covered(address)
        if is_outside == (address in known):
            return False
        (known.add if is_outside else known.discard)(address)
        return True

    def _covered(self, address: str) -> bool:
        """Return whether an address lies in a known range; asked of its block first, which it shares with many."""
        block = _block_of(address)
        covered = self._blocks.get(block)
        if covered is None and block not in self._blocks:
            if len(self._blocks) >= _MOST_BLOCKS:
                self._blocks.clear()
            covered = self._blocks[block] = self._block_covered(block)
        if covered is None:
            value = number(address)
            covered = self._hit(family_of(address), value, value)
        return bool(covered)

    def _block_covered(self, block: str) -> bool | None:
        if block.endswith("::"):
            first = number(block)
            return self._hit(6, first, first | _V6_BLOCK)
        if block.endswith("."):
            first = number(block + "0")
            return self._hit(4, first, first | _V4_BLOCK)
        return None

    def _hit(self, family: Family, first: int, last: int) -> bool | None:
        """Return whether all of first..last lies in one known range; None where a part of it does."""
        firsts, lasts = self._firsts[family], self._lasts[family]
        place = bisect_right(firsts, last) - 1
        if place < 0 or lasts[place] < first:
            return False
        return True if firsts[place] <= first and last <= lasts[place] else None

    def _find_ranges(self) -> Iterator[None]:
        """Merge all ranges anew, in steps; a Node that changes in between has it begun anew."""
        version, merged = -1, list[Range]()
        while version != self._version:
            version = self._version
            runs: list[list[Range]] = [sorted(self._given)]
            runs.append(sorted(part for item in self._cluster.service_ranges.values() for part in item.cidrs))
            nodes = list(self._cluster.nodes.values())
            for start in range(0, len(nodes), _PART // 4):
                runs.append(sorted(part for node in nodes[start : start + _PART // 4] for part in self._named_by(node)))
                yield
            merged = []
            for count, item in enumerate(heapq.merge(*runs), 1):
                join(merged, item)
                if count % _PART == 0:
                    yield
        if self._stale:
            self._use(tuple(merged))

    def _named_by(self, node: Node) -> tuple[Range, ...]:
        """Return a Node's ranges and addresses; worked out once, for all times that all Nodes' are merged."""
        known = self._named.get(node.name)
        if known is None or known[0] is not node:
            known = self._named[node.name] = (node, _named_by(node))
        return known[1]

    def _use(self, ranges: tuple[Range, ...]) -> None:
        """Take in what the ranges are now; note which addresses may lie elsewhere since."""
        before, self.ranges = self.ranges, ranges
        for family in FAMILIES:
            own = [item for item in ranges if item.family == family]
            self._firsts[family] = [item.first for item in own]
            self._lasts[family] = [item.last for item in own]
        self._blocks.clear()
        for name in self._named.keys() - self._cluster.nodes.keys():
            del self._named[name]
        lost, gained = set(before) - set(ranges), set(ranges) - set(before)
        every = bool(self._unsifted) or not self._begun
        self._beginnings = ("",) if every else tuple(_beginnings_of(lost, gained))
        if every or lost:
            self._unsifted = list(self._cluster.by_address)
        elif gained:
            # Whoever lies in no range: nobody else can lie in one more.
            self._unsifted = [address for family in FAMILIES for address in self.outside[family]]
        self._begun, self._stale = True, False


def _beginnings_of(lost: set[Range], gained: set[Range]) -> set[str]:
    """Return what the text of every address begins with that lies in one set of ranges, and not in the other."""
    if len(lost) + len(gained) > _MOST_PIECES:
        return {""}
    pieces = [piece for item in lost for piece in subtract(item, gained)]
    pieces += [piece for item in gained for piece in subtract(item, lost)]
    found = set(map(_beginning, pieces))
    return found if len(found) <= _MOST_PIECES else {""}


def _beginning(piece: Range) -> str:
    """Return whole groups that the text of all its addresses begins with."""
    first, last = (ip_address(text(piece.family, value)).exploded for value in (piece.first, piece.last))
    mark = "." if piece.family == 4 else ":"
    groups: list[str] = []
    for group, other in zip(first.split(mark), last.split(mark), strict=True):
        # From the first zero group on, `::` may stand for some.
        if group != other or (mark == ":" and not int(group, 16)):
            break
        groups.append(group if mark == "." else group.lstrip("0"))
    whole = len(groups) == len(first.split(mark))
    return mark.join(groups) + (mark if groups and not whole else "")


def _held(pod: Pod | None) -> tuple[str, ...]:
    return pod.addresses if pod is not None and pod.holds_addresses else ()


def _named_by(node: Node | None) -> tuple[Range, ...]:
    return () if node is None else (*node.pod_cidrs, *(single(address) for address in node.addresses))


def _block_of(address: str) -> str:
    """Return what the addresses of a /24 begin with, or of a /64, and no others; the address where that can't be seen."""
    left, gap, right = address.partition("::")
    if gap:
        return left + gap if left.count(":") < _HALF and right.count(":") < _HALF else address
    return address if ":" in address else address[: address.rfind(".") + 1]
