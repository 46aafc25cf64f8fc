"""Encodes matches of the header of ICMPv6: type and code, which nft compares at once where a rule has both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from nfagent.netlink import nft_expressions as nft
from nfagent.netlink.nft_anonymous import Part, icmpv6_type_set
from nfagent.netlink.nft_known import Known, family_check, transport_check
from nfagent.netlink.nft_names import icmpv6_type_number, protocol_number
from nfagent.nftables.matches import Icmpv6Code, Icmpv6Type, Match

_ICMPV6 = protocol_number("icmpv6")


class Icmpv6TypeAndCode(msgspec.Struct, frozen=True):
    """An Icmpv6Type of one type and an Icmpv6Code: one comparison of two bytes."""

    type: str
    code: int


class Icmpv6Packet(msgspec.Struct, frozen=True):
    """Only the checks that a match of ICMPv6 needs."""


Step: TypeAlias = Match | Icmpv6TypeAndCode | Icmpv6Packet


def steps(matches: tuple[Match, ...]) -> Sequence[Step]:
    """Return the matches, except that nft compares a type and a code of ICMPv6 at once, in the type's place.

    These bytes of the header follow each other. nft takes the last type and the first code of a rule.
    """
    codes = [index for index, match in enumerate(matches) if isinstance(match, Icmpv6Code)]
    if not codes:
        return matches
    types = [index for index, match in enumerate(matches) if isinstance(match, Icmpv6Type) and len(match.names) == 1]
    if not types:
        return matches
    found: list[Step] = list(matches)
    match matches[types[-1]], matches[codes[0]]:
        case Icmpv6Type(names), Icmpv6Code(code):
            found[types[-1]] = Icmpv6TypeAndCode(names[0], code)
            found[codes[0]] = Icmpv6Packet()
    return found


def icmpv6_parts(
    match: Icmpv6Type | Icmpv6Code | Icmpv6TypeAndCode | Icmpv6Packet, known: Known
) -> tuple[tuple[Part, ...], Known]:
    """Encode a match of the header of ICMPv6."""
    check, known = _icmpv6_check(known)
    match match:
        case Icmpv6Packet():
            return (check,), known
        case Icmpv6Code(code):
            return (check + nft.payload("transport", 1, 1) + nft.compare("==", bytes((code,))),), known
        case Icmpv6TypeAndCode(name, code):
            both = bytes((icmpv6_type_number(name), code))
            return (check + nft.payload("transport", 0, 2) + nft.compare("==", both),), known
        case Icmpv6Type(names):
            numbers = [icmpv6_type_number(name) for name in names]
            load = check + nft.payload("transport", 0, 1)
            if len(numbers) == 1:
                return (load + nft.compare("==", bytes(numbers)),), known
            return (load, icmpv6_type_set(numbers)), known


def _icmpv6_check(known: Known) -> tuple[bytes, Known]:
    """Return the checks that a match of ICMPv6 needs: of the family only where neither it nor the protocol is known."""
    if known.transport == _ICMPV6:
        return b"", known
    family, known = (b"", known) if known.network else family_check(6, known)
    protocol, known = transport_check(_ICMPV6, known)
    return family + protocol, known
