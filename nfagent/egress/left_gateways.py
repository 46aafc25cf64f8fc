"""What Pods of this node reached by a gateway before, and reach without one now.

Where another node translated, this node's conntrack entries have no translation, and keep having none: their packets
would leave with the Pod's address for as long as a connection lives.
"""

from __future__ import annotations

from bisect import bisect_right

from nfagent.model.netaddr import Family, Range, family_of, number


class LeftGateways:
    """Destinations by the address of a Pod; what ends the connections takes them."""

    def __init__(self) -> None:
        """Start without any."""
        self._ranges: dict[str, tuple[tuple[Range, ...], ...]] = {}

    def __bool__(self) -> bool:
        """Return whether anything is noted."""
        return bool(self._ranges)

    def add(self, address: str, ranges: tuple[Range, ...]) -> None:
        """Note disjoint, sorted destinations that a Pod may no longer reach by a gateway."""
        noted = self._ranges.get(address, ())
        if ranges not in noted:
            self._ranges[address] = (*noted, ranges)

    def restore(self, other: LeftGateways) -> None:
        """Note what another one has."""
        for address, noted in other._ranges.items():
            for ranges in noted:
                self.add(address, ranges)

    def take(self) -> LeftGateways:
        """Return all that is noted, and note nothing any longer."""
        taken = LeftGateways()
        taken._ranges, self._ranges = self._ranges, {}
        return taken

    def has(self, address: str, destination: str) -> bool:
        """Return whether a Pod reached a destination by a gateway."""
        noted = self._ranges.get(address)
        if noted is None:
            return False
        value = (family_of(destination), number(destination))
        places = ((ranges, bisect_right(ranges, value, key=_start) - 1) for ranges in noted)
        return any(place >= 0 and ranges[place].contains(destination) for ranges, place in places)


def _start(item: Range) -> tuple[Family, int]:
    return item.family, item.first
