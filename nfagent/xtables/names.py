"""Names in iptables and ipset: bounded in length, stable across restarts, never equal for two different objects.

A name begins with `nfa-` and what fits of the nftables name, and ends in a digest of all that tells the object from
others. Chains of IPv4 and IPv6 may have equal names; sets have one name space, so the family is part of the digest.
"""

from __future__ import annotations

import re
from base64 import b32encode
from functools import lru_cache
from hashlib import blake2s
from typing import Literal, TypeAlias

from nfagent.model.netaddr import Family

PREFIX = "nfa-"
TEMPORARY_PREFIX = "nfx-"
"""The beginning of a set that only a change in progress uses; the rest is the name of the set that it stands for."""
SET_BYTES = 31
"""Longest name of an ipset (IPSET_MAXNAMELEN of linux/netfilter/ipset/ip_set.h, with a NUL: 32)."""
CHAIN_BYTES = 28
"""Longest name of a chain (XT_EXTENSION_MAXNAMELEN of linux/netfilter/x_tables.h is 29, with a NUL)."""
ACCOUNT_BYTES = 31
"""Longest name of an nfacct object (NFACCT_NAME_MAX of linux/netfilter/nfnetlink_acct.h, with a NUL: 32)."""
LOG_PREFIX_BYTES = 63
"""Longest prefix of NFLOG (nf_log.h: 64, with a NUL)."""
_DIGEST_BYTES = 8
_CUT = re.compile(r"~[a-z2-7]{13}\Z")
_MADE = re.compile(rf"(?:{PREFIX}|{TEMPORARY_PREFIX})(?:[a-z0-9-]+-)?[a-z2-7]{{13}}\Z")
_REMEMBERED = 4_096
"""Names that are kept: a digest costs more than a look-up. A node of a cluster of 150,000 Pods has 6,300, of which each
reading of counters asks for 2,300."""
_READABLE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")

ChainVariant: TypeAlias = Literal["", "reply"]
"""`reply`: the chain for packets in reply direction."""


def set_name(origin: str, family: Family, part: str = "") -> str:
    """Return the name of a set.

    origin: name of the nftables object that it comes from
    part:   what tells the sets of one origin apart: a target chain of a verdict map, a protocol, a kind of port
    """
    return _name(origin, SET_BYTES, "set", str(family), part)


def temporary(name: str, number: int = 0) -> str:
    """Return the name of the set that stands for another one during a change.

    number: tells it from the copies of earlier changes that were broken off
    """
    return TEMPORARY_PREFIX + (_name(name, SET_BYTES, "copy", str(number)) if number else name).removeprefix(PREFIX)


def chain_name(origin: str, variant: ChainVariant = "", part: str = "") -> str:
    """Return the name of a chain.

    part: what tells the chains of one origin apart, such as the groups of a verdict map
    """
    return _name(origin, CHAIN_BYTES, "chain", variant, part)


def account_name(counter: str, family: Family) -> str:
    """Return the name of the nfacct object of a named counter."""
    return _name(counter, ACCOUNT_BYTES, "counter", str(family))


def log_prefix(prefix: str) -> str:
    """Return the NFLOG prefix of a rule: as it is, or cut and ended by a digest where it is too long."""
    if len(prefix.encode()) <= LOG_PREFIX_BYTES:
        return prefix
    digest = _digest("prefix", prefix)
    head = prefix.encode()[: LOG_PREFIX_BYTES - len(digest) - 1].decode("utf-8", "ignore")
    return f"{head}~{digest}"  # a policy's name has no tilde


def is_cut(prefix: str) -> bool:
    """Return whether a prefix has the form of one that was cut."""
    return len(prefix.encode()) <= LOG_PREFIX_BYTES and _CUT.search(prefix) is not None


def is_made(name: str) -> bool:
    """Return whether a name of a chain, set or counter has the form of those made here."""
    return _MADE.match(name) is not None


@lru_cache(maxsize=_REMEMBERED)
def _name(origin: str, longest: int, *parts: str) -> str:
    digest = _digest(origin, *parts)
    clean = "".join(char if char in _READABLE else "-" for char in origin.lower())
    kept = clean[: longest - len(PREFIX) - len(digest) - 1].strip("-")
    return f"{PREFIX}{kept}-{digest}" if kept else f"{PREFIX}{digest}"


def _digest(*parts: str) -> str:
    content = b"\0".join(part.encode() for part in parts)
    return b32encode(blake2s(content, digest_size=_DIGEST_BYTES).digest()).decode().rstrip("=").lower()
