"""Encodes the checks that nft puts before a match: a header is read only from packets that have it.

A match of a header needs the packet's family (`meta nfproto`) or protocol (`meta l4proto`) checked first, unless an
earlier match of the same rule has: `Known` is what was checked.
"""

from __future__ import annotations

from typing import NamedTuple

from nfagent.model.netaddr import Family
from nfagent.netlink import nft_expressions as nft
from nfagent.netlink.nft_messages import NFPROTO_INET, NFPROTO_IP
from nfagent.nftables.matches import CtAddress, IpAddress


class Known(NamedTuple):
    """What earlier matches of a rule have checked.

    hooks:     NFPROTO_* of the table
    network:   the packet's family; 0 if unchecked
    transport: the packet's protocol, by its IANA number; -1 if unchecked
    """

    hooks: int = NFPROTO_INET
    network: int = 0
    transport: int = -1


def address_check(key: CtAddress | IpAddress, known: Known) -> tuple[bytes, Known]:
    """Return the check of the packet's family that an address of its header needs; conntrack's needs none."""
    return family_check(key.family, known) if isinstance(key, IpAddress) else (b"", known)


def family_check(family: Family, known: Known) -> tuple[bytes, Known]:
    """Return the check that a match of a header of IPv4 or IPv6 needs, and what is known after it.

    Raises ValueError in a table of another family than inet.
    """
    if known.network == family:
        return b"", known
    if known.hooks != NFPROTO_INET:
        raise ValueError("a header of IP in a table of another family than inet")
    return family_comparison(family), known._replace(network=family)


def family_comparison(family: Family) -> bytes:
    """Compare the packet's family."""
    return nft.meta(nft.META_NFPROTO) + nft.compare("==", bytes((NFPROTO_IP[family],)))


def transport_check(protocol: int, known: Known) -> tuple[bytes, Known]:
    """Return the check that a match of a protocol's header needs, and what is known after it."""
    if known.transport == protocol:
        return b"", known
    return protocol_comparison(protocol), known._replace(transport=protocol)


def protocol_comparison(protocol: int) -> bytes:
    """Compare the packet's protocol, an IANA number."""
    return nft.meta(nft.META_L4PROTO) + nft.compare("==", bytes((protocol,)))
