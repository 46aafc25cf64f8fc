"""The terms of a record filter, as they are written: one end of a connection, a port, a policy.

    shop                 a namespace             app=web,tier!=db    a label selector, of Pods of all namespaces
    shop/web, shop/web-* a Pod, Pods by prefix   node                an address of a Node
    10.0.0.0/8, ::1      addresses               world               an address outside the cluster

Where a text may mean two of them, a prefix says which: namespace:node, pod:, label:app, ip:.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import UsageError
from nfagent.model.netaddr import AddressError, Range, canonical, parse_cidr, single
from nfagent.model.selector_text import parse_selector
from nfagent.model.selectors import Selector

_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_LAST_PORT = 65_535
_KINDS = ("namespace", "pod", "label", "ip")
_OF_SELECTOR = re.compile(r"[=!( ]")
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?", re.ASCII)
_OF_ADDRESS = re.compile(r"[.:]")
"""What the name of a namespace never has: a mistyped address must not become one, which no record matches."""
_POD_NAME = re.compile(r"[a-z0-9][-a-z0-9.]*\*?|\*", re.ASCII)


class NamespaceTerm(msgspec.Struct, frozen=True):
    """Pods of a namespace."""

    name: str


class PodTerm(msgspec.Struct, frozen=True):
    """A Pod; prefix: all Pods of the namespace whose names begin so."""

    path: str
    prefix: bool = False


class LabelTerm(msgspec.Struct, frozen=True):
    """Pods by their labels."""

    selector: Selector


class AddressTerm(msgspec.Struct, frozen=True):
    """Addresses."""

    range: Range


class PlaceTerm(msgspec.Struct, frozen=True):
    """An address of a Node, or one outside the cluster."""

    place: Literal["node", "world"]


_PLACES = {"node": PlaceTerm("node"), "world": PlaceTerm("world")}
PeerTerm: TypeAlias = NamespaceTerm | PodTerm | LabelTerm | AddressTerm | PlaceTerm


def parse_peer(text: str) -> PeerTerm:
    """Return the end of a connection that a text means. Raises UsageError."""
    kind, colon, rest = text.partition(":")
    if colon and kind in _KINDS:
        return _of_kind(kind, rest)
    if text in _PLACES:
        return _PLACES[text]
    if _OF_SELECTOR.search(text):
        return _of_kind("label", text)
    try:
        return AddressTerm(address_range(text))
    except AddressError as error:
        if _OF_ADDRESS.search(text.partition("/")[0]):
            raise UsageError(f"{text!r} {error}") from None
        return _of_kind("pod" if "/" in text else "namespace", text)


def _of_kind(kind: str, text: str) -> PeerTerm:
    match kind:
        case "label":
            return LabelTerm(parse_selector(text))
        case "ip":
            try:
                return AddressTerm(address_range(text))
            except AddressError as error:
                raise UsageError(f"{text!r} {error}") from None
        case "pod":
            return _pod(text)
    if not _NAMESPACE.fullmatch(text):
        raise UsageError(
            f"{text!r} is no end of a connection; write a Pod (shop/web), a namespace (shop), a label selector "
            "(app=web), an address or CIDR (10.0.0.0/8), node or world"
        )
    return NamespaceTerm(text)


def address_range(text: str) -> Range:
    """Return the addresses of a CIDR or an address. Raises AddressError."""
    return parse_cidr(text) if "/" in text else single(canonical(text))


def _pod(text: str) -> PodTerm:
    namespace, _, name = text.partition("/")
    if not (_NAMESPACE.fullmatch(namespace) and _POD_NAME.fullmatch(name)):
        raise UsageError(f"{text!r} is no Pod; write NAMESPACE/NAME, like shop/web, or a prefix, like 'shop/web-*'")
    return PodTerm(text.removesuffix("*"), prefix=text.endswith("*"))


def parse_ports(text: str) -> tuple[int, int]:
    """Return the first and last port of `80` or `8000-8100`. Raises UsageError."""
    found = _PORTS.fullmatch(text)
    first = int(found[1]) if found else -1
    last = int(found[2] or found[1]) if found else -1
    if not 0 <= first <= last <= _LAST_PORT:
        raise UsageError(f"{text!r} is no port; write one like 80, or a range like 8000-8100")
    return first, last


def parse_policy(text: str) -> str:
    """Return a policy's qualified name. Raises UsageError."""
    if not text or text.count("/") > 1 or not text.strip("/"):
        raise UsageError(f"{text!r} is no policy; write NAMESPACE/NAME, or the name of a policy of the tiers")
    return text
