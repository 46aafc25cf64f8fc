"""Reads the matches of xtables that iptables-nft keeps in rules, from the structures that the kernel holds.

Read are addrtype, mark and connmark, each of one size in every kernel since 2.6.39. Total: any other one narrows its
rule.
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

from nfagent.nftables.foreign_rules import ForeignRule

_ADDRTYPE = struct.Struct("=HHI")  # struct xt_addrtype_info_v1: types of the source, of the destination, flags
_INVERTED = (1, 2)  # XT_ADDRTYPE_INVERT_SOURCE, _DEST
_ONE_INTERFACE = 4 | 8  # XT_ADDRTYPE_LIMIT_IFACE_IN, _OUT
_LOCAL = 1 << 2  # XT_ADDRTYPE_LOCAL
_MARK = struct.Struct("=IIB")  # struct xt_mark_mtinfo1, struct xt_connmark_mtinfo1: value, mask, inverted


class XtMatch(msgspec.Struct, frozen=True):
    """One match: its name and revision, and its structure, which the kernel pads with zeros."""

    name: str
    revision: int
    info: bytes


def with_xt_match(rule: ForeignRule, name: str, match: XtMatch | None) -> ForeignRule:
    """Return the rule with a match of this name; match: None where its structure isn't known."""
    if name == "comment":
        return rule
    if match is not None and (match.name, match.revision) == (name, 1):
        if name == "addrtype" and len(match.info) >= _ADDRTYPE.size:
            return _with_types(rule, match.info)
        if name in {"mark", "connmark"} and len(match.info) >= _MARK.size:
            value, _, inverted = _MARK.unpack_from(match.info)
            wants: Literal["set", "unset"] = "unset" if (value == 0) != bool(inverted) else "set"
            return msgspec.structs.replace(rule, mark=wants)
    return msgspec.structs.replace(rule, narrowed=True)


def _with_types(rule: ForeignRule, info: bytes) -> ForeignRule:
    """Return the rule for these types of addresses: Pods' traffic that is forwarded has none of the node itself."""
    *ends, flags = _ADDRTYPE.unpack_from(info)
    narrowed = never = False
    for types, inverted in zip(ends, _INVERTED, strict=True):
        if types & ~_LOCAL or (types and flags & _ONE_INTERFACE):
            narrowed = True
        elif types and not flags & inverted:
            never = True
    return msgspec.structs.replace(rule, narrowed=rule.narrowed or narrowed, never=rule.never or never)
