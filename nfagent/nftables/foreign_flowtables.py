"""Flowtables of other programs, whose connections pass no chain at hook forward."""

from __future__ import annotations

from typing import Any

import msgspec

from nfagent.nftables.foreign_json import objects


class Flowtable(msgspec.Struct, frozen=True):
    """A flowtable: its table, name, and the devices whose packets it takes."""

    table: str
    name: str
    devices: tuple[str, ...]

    def __str__(self) -> str:
        """Return it as nft names it, with its devices."""
        return f"flowtable {self.table} {self.name} ({', '.join(self.devices) or 'no devices'})"


def parse_flowtables(listing: str) -> list[Flowtable]:
    """Return the flowtables in `nft -j list flowtables`. Raises WireError."""
    return [
        Flowtable(f"{item.get('family', '?')} {item.get('table', '?')}", str(item.get("name", "?")), _devices(item))
        for item in objects(listing, "flowtable")
    ]


def _devices(item: dict[str, Any]) -> tuple[str, ...]:
    # nft writes one device as a string, several as a list.
    found = item.get("dev", [])
    return tuple(map(str, found)) if isinstance(found, list) else (str(found),)
