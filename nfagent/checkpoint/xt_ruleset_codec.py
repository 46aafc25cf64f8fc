"""The saved ruleset where the backend is iptables: the sets, chains and jumps that are written, as JSON.

What is decoded has names of ours only, and words of one line: what a node restores of it adds to nothing else.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from typing import Annotated, Literal, TypeAlias, cast

import msgspec

from nfagent.errors import DecodeError, WireError
from nfagent.model.netaddr import Family
from nfagent.nftables.boot_rulesets import after_boot
from nfagent.nftables.objects import Ruleset
from nfagent.xtables.lowering import NameCollisionError, lower
from nfagent.xtables.names import PREFIX
from nfagent.xtables.objects import HookChain, IpSet, SetMember, SetType, TableName, XtChain, XtRule, XtRuleset
from nfagent.xtables.options import LoweringOptions

_LARGEST = 256 * 1024 * 1024
_COMPRESSION = 1
_NAME = re.compile(rf"{re.escape(PREFIX)}[A-Za-z0-9_.-]{{1,28}}")
_LINE = re.compile(r"[^\x00-\x1f\x7f]*")
Variant: TypeAlias = Literal["legacy", "nft"]
_U32: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_Scalar: TypeAlias = str | int
_Member: TypeAlias = _Scalar | list[_Scalar]


class SavedXtRuleset(msgspec.Struct, frozen=True):
    """A decoded ruleset, and the variant of iptables that it was in."""

    variant: Variant
    ruleset: XtRuleset


class _Set(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    type: SetType
    family: Family
    members: list[_Member]
    counters: bool
    timeout: _U32
    size: _U32
    origin: str


class _Chain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    family: Family
    table: TableName
    name: str
    rules: tuple[XtRule, ...]
    origin: str


class _Hook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    family: Family
    table: TableName
    hook: HookChain
    target: str


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    variant: Variant
    sets: list[_Set]
    chains: list[_Chain]
    hooks: list[_Hook]
    accounts: list[str]


def encode_xt_ruleset(
    ruleset: Ruleset, options: LoweringOptions, variant: Variant, pause: Callable[[], None] = lambda: None
) -> tuple[tuple[bytes, ...], str]:
    """Return what writes a ruleset where there are no rules, compressed, and the digest of its content.

    variant: of iptables, in which the rules are: another one would hold them twice
    pause:   called between parts, so that another thread can run
    Raises WireError.
    """
    try:
        lowered, _ = lower(after_boot(ruleset), options)
    except NameCollisionError as error:
        raise WireError(f"the rules can't be written to iptables: {error}") from None
    pause()
    content = msgspec.json.encode(
        _Content(
            variant,
            [_encoded_set(name, item) for name, item in sorted(lowered.sets.items())],
            [_Chain(*key, chain.rules, chain.origin) for key, chain in sorted(lowered.chains.items())],
            [_Hook(*key, target) for key, target in sorted(lowered.hooks.items())],
            sorted(lowered.accounts),
        )
    )
    pause()
    return (zlib.compress(content, _COMPRESSION),), blake2b(content, digest_size=16).hexdigest()


def decode_xt_ruleset(batches: tuple[bytes, ...]) -> SavedXtRuleset:
    """Return what `encode_xt_ruleset` has encoded. Raises DecodeError for any other bytes."""
    if len(batches) != 1:
        raise DecodeError(f"it has {len(batches)} parts, and rules of iptables are one")
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(batches[0], _LARGEST)
        if not stream.eof:
            raise DecodeError("its rules are cut short, or too large")
        found = msgspec.json.decode(content, type=_Content)
    except (zlib.error, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DecodeError(f"its rules can't be decoded: {error}") from None
    for text in _names(found):
        if not _NAME.fullmatch(text):
            raise DecodeError(f"it has an object that isn't nfagent's: {text[:40]!r}")
    for text in _words(found):
        if not _LINE.fullmatch(text):
            raise DecodeError("it has a rule of several lines")
    ruleset = XtRuleset(
        {item.name: _decoded_set(item) for item in found.sets},
        {(item.family, item.table, item.name): XtChain(item.rules, item.origin) for item in found.chains},
        {(item.family, item.table, item.hook): item.target for item in found.hooks},
        frozenset(found.accounts),
    )
    return SavedXtRuleset(found.variant, ruleset)


def _encoded_set(name: str, item: IpSet) -> _Set:
    # Members of a set with a timeout come from packets: none lives over a boot.
    members: list[_Member] = [
        list(member) if isinstance(member, tuple) else member
        for member in sorted(() if item.timeout else item.members, key=str)
    ]
    return _Set(name, item.type, item.family, members, item.counters, item.timeout, item.size, item.origin)


def _decoded_set(item: _Set) -> IpSet:
    members = frozenset(_decoded_member(member, item.type) for member in item.members)
    return IpSet(item.type, item.family, members, item.counters, item.timeout, item.size, item.origin)


_FORMS: Mapping[SetType, tuple[type, ...]] = {
    "hash:ip": (str,),
    "hash:net": (str, int),
    "hash:ip,port": (str, str, int),
    "hash:ip,port,ip": (str, str, int, str),
    "hash:net,iface": (str, int, str),
    "bitmap:port": (int,),
}


def _decoded_member(member: _Member, kind: SetType) -> SetMember:
    parts = member if isinstance(member, list) else [member]
    if tuple(map(type, parts)) != _FORMS[kind]:
        raise DecodeError(f"it has a member that no set of type {kind} has")
    # The form was compared.
    return cast("SetMember", tuple(parts) if isinstance(member, list) else member)


def _names(content: _Content) -> Iterator[str]:
    yield from (item.name for item in content.sets)
    yield from (item.name for item in content.chains)
    yield from (item.target for item in content.hooks)
    yield from content.accounts


def _words(content: _Content) -> Iterator[str]:
    for chain in content.chains:
        for rule in chain.rules:
            yield rule.comment
            yield from rule.target
            for match in rule.matches:
                yield from match
