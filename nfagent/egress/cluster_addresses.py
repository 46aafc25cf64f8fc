"""The cluster's own addresses: known ranges, and single addresses of Pods outside them.

Nodes have Pod CIDRs if Kubernetes assigns addresses; with another IPAM they may be missing, or of one family. So a Pod
address outside all known ranges is kept as a single address. Pods are checked one by one as they change, and all of
them only after a range is removed: in steps, since there may be 150,000.
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
"""Addresses, ranges or Nodes that one step checks."""
_PREFIX_PART = 10_000
"""Addresses whose text prefix one step checks."""
_MOST_PIECES = 16
_MOST_BLOCKS = 8_192
_HALF = 4
"""Groups of an IPv6 address in its /64 prefix, and groups after it."""
_V4_BLOCK, _V6_BLOCK = (1 << 8) - 1, (1 << 64) - 1


class ClusterAddresses:
    """Tracks the addresses of Nodes, ServiceCIDRs and Pods.

    ranges:  disjoint ranges of Nodes, of Services, and of the settings
    outside: by family, Pod addresses in none of these ranges
    """

    def __init__(self, cluster: ClusterState, given: Iterable[Range]) -> None:
        """Start without any address; `given` are the ranges in the settings."""
        self._cluster = cluster
        self._given = tuple(given)
        self.ranges: tuple[Range, ...] = ()
        self.outside: dict[Family, set[str]] = {family: set() for family in FAMILIES}
        self._begun = False
        self._stale = True
        self._version = 0
        self._unchecked: list[str] = []
        # Addresses to check if their text begins with one of `_prefixes`: their range may have been added or removed.
        self._candidates: list[str] = []
        self._prefixes: tuple[str, ...] = ()
        self._firsts: dict[Family, list[int]] = {family: [] for family in FAMILIES}
        self._lasts: dict[Family, list[int]] = {family: [] for family in FAMILIES}
        # Block of addresses -> whether all of it lies in known ranges, or none; None if it differs.
        self._blocks: dict[str, bool | None] = {}
        self._named: dict[str, tuple[Node, tuple[Range, ...]]] = {}

    def apply(self, change: ClusterDelta) -> bool:
        """Add a change to the pending work; return whether a range may have been added or removed."""
        before, after = change.pod or (None, None)
        if self._begun and _pod_addresses(before) != _pod_addresses(after):
            self._unchecked += {*_pod_addresses(before), *_pod_addresses(after)}
        moved = change.service_range
        if change.node is not None:
            moved |= _ranges_of_node(change.node_was) != _ranges_of_node(self._cluster.nodes.get(change.node))
        if moved:
            self._stale = True
            self._version += 1
        return moved

    def contain(self, address: str) -> bool:
        """Return whether a canonical address is in the cluster; as of the last `steps`."""
        return address in self._cluster.by_address or self._covered(address)

    @property
    def up_to_date(self) -> bool:
        """Return whether no work is pending."""
        return not (self._stale or self._candidates or self._unchecked)

    def steps(self) -> Iterator[list[str]]:
        """Apply pending changes; each step yields the addresses that were added to `outside` or removed from it."""
        while not self.up_to_date:
            if self._stale:
                for _ in self._find_ranges():
                    yield []
            if self._candidates:
                self._select_by_prefix()
                yield []
                continue
            part = self._unchecked[-_PART:]
            del self._unchecked[-_PART:]
            yield [address for address in part if self._moved(address)]

    def _select_by_prefix(self) -> None:
        part = self._candidates[-_PREFIX_PART:]
        del self._candidates[-_PREFIX_PART:]
        self._unchecked += [address for address in part if address.startswith(self._prefixes)]

    def _moved(self, address: str) -> bool:
        known = self.outside[family_of(address)]
        is_outside = address in self._cluster.by_address and not self._covered(address)
        if is_outside == (address in known):
            return False
        (known.add if is_outside else known.discard)(address)
        return True

    def _covered(self, address: str) -> bool:
        """Return whether an address is in a known range; the result is cached for its /24 or /64, if it is uniform."""
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
        """Return whether all of first..last is in one known range; None if only a part is."""
        firsts, lasts = self._firsts[family], self._lasts[family]
        place = bisect_right(firsts, last) - 1
        if place < 0 or lasts[place] < first:
            return False
        return True if firsts[place] <= first and last <= lasts[place] else None

    def _find_ranges(self) -> Iterator[None]:
        """Merge all ranges in steps, from the start again if a range changes meanwhile."""
        version, merged = -1, list[Range]()
        while version != self._version:
            version = self._version
            runs: list[list[Range]] = [sorted(self._given)]
            runs.append(sorted(part for item in self._cluster.service_ranges.values() for part in item.cidrs))
            nodes = list(self._cluster.nodes.values())
            for start in range(0, len(nodes), _PART // 4):
                runs.append(
                    sorted(part for node in nodes[start : start + _PART // 4] for part in self._ranges_of_node(node))
                )
                yield
            merged = []
            for count, item in enumerate(heapq.merge(*runs), 1):
                join(merged, item)
                if count % _PART == 0:
                    yield
        if self._stale:
            self._use(tuple(merged))

    def _ranges_of_node(self, node: Node) -> tuple[Range, ...]:
        """Return ranges and addresses of a Node, cached for later merges."""
        known = self._named.get(node.name)
        if known is None or known[0] is not node:
            known = self._named[node.name] = (node, _ranges_of_node(node))
        return known[1]

    def _use(self, ranges: tuple[Range, ...]) -> None:
        """Set the ranges; add addresses whose result may change to the pending work."""
        before, self.ranges = self.ranges, ranges
        for family in FAMILIES:
            own = [item for item in ranges if item.family == family]
            self._firsts[family] = [item.first for item in own]
            self._lasts[family] = [item.last for item in own]
        self._blocks.clear()
        for name in self._named.keys() - self._cluster.nodes.keys():
            del self._named[name]
        lost, gained = set(before) - set(ranges), set(ranges) - set(before)
        every = bool(self._candidates) or not self._begun
        self._prefixes = ("",) if every else tuple(_prefixes_of(lost, gained))
        if every or lost:
            self._candidates = list(self._cluster.by_address)
        elif gained:
            # Only addresses outside all ranges can be in an added one.
            self._candidates = [address for family in FAMILIES for address in self.outside[family]]
        self._begun, self._stale = True, False


def _prefixes_of(lost: set[Range], gained: set[Range]) -> set[str]:
    """Return text prefixes that cover all addresses in exactly one of two sets of ranges."""
    if len(lost) + len(gained) > _MOST_PIECES:
        return {""}
    pieces = [piece for item in lost for piece in subtract(item, gained)]
    pieces += [piece for item in gained for piece in subtract(item, lost)]
    found = set(map(_prefix, pieces))
    return found if len(found) <= _MOST_PIECES else {""}


def _prefix(piece: Range) -> str:
    """Return the common text prefix of all addresses in a range, in whole groups."""
    first, last = (ip_address(text(piece.family, value)).exploded for value in (piece.first, piece.last))
    mark = "." if piece.family == 4 else ":"
    groups: list[str] = []
    for group, other in zip(first.split(mark), last.split(mark), strict=True):
        # From the first zero group on, the text may have `::`.
        if group != other or (mark == ":" and not int(group, 16)):
            break
        groups.append(group if mark == "." else group.lstrip("0"))
    whole = len(groups) == len(first.split(mark))
    return mark.join(groups) + (mark if groups and not whole else "")


def _pod_addresses(pod: Pod | None) -> tuple[str, ...]:
    return pod.addresses if pod is not None and pod.holds_addresses else ()


def _ranges_of_node(node: Node | None) -> tuple[Range, ...]:
    return () if node is None else (*node.pod_cidrs, *(single(address) for address in node.addresses))


def _block_of(address: str) -> str:
    """Return the text prefix of exactly the /24 or /64 of an address; the address itself if there is none."""
    left, gap, right = address.partition("::")
    if gap:
        return left + gap if left.count(":") < _HALF and right.count(":") < _HALF else address
    return address if ":" in address else address[: address.rfind(".") + 1]
