"""Mutations of documents beyond the strategies of `tests/properties`: any networks, ports at edges, unusual names.

The strategies' spaces are small, so that objects often match each other. These are large, and exercise text, netlink
and the kernel's intervals: one policy in two has some of it.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.case import Document
from tests.fuzz.document_parts import paths, replaced, without
from tests.fuzz.topology import AT

_LONG = ".long" * 35
_RULE_NAMES = st.sampled_from(
    [
        *('say "yes"', "back\\slash", "two\nlines", "# no comment", "a; drop", "$variable {", "'", "tab\there", " "),
        *("x" * 100, "ü" * 100, "\N{PILE OF POO}" * 100, "e\N{COMBINING ACUTE ACCENT}" * 50, "\N{RIGHT-TO-LEFT MARK}a"),
    ]
)
_EDGES = st.sampled_from([1, 2, 52, 53, 54, 79, 80, 81, 98, 99, 100, 8079, 8080, 8081, 65534, 65535])
_WRONG: st.SearchStrategy[Any] = st.sampled_from(
    [None, [], {}, [{}], "", "x", "80", 0, 80, -1, 1 << 40, 1.5, True, ["x"], {"x": "y"}]
)
_ENDS = [str(ipaddress.ip_network(everything)[end]) for everything in ("0.0.0.0/0", "::/0") for end in (0, -1)]
_SOMEWHERE = st.sampled_from([*AT, *AT, *_ENDS, "127.0.0.1", "fe80::1"])
_PREFIXES = {4: st.integers(0, 32), 6: st.sampled_from([0, 1, 16, 32, 48, 63, 64, 65, 112, 120, 125, 126, 127, 128])}


@st.composite
def networks(draw: st.DrawFn) -> str:
    """Draw a network around a place, or at an end of the address space."""
    address = ipaddress.ip_address(draw(_SOMEWHERE))
    return str(ipaddress.ip_network((address, draw(_PREFIXES[address.version])), strict=False))


@st.composite
def blocks(draw: st.DrawFn) -> Document:
    """Draw an ipBlock with exceptions, adjacent or nested; one that equals the block is invalid."""
    whole = ipaddress.ip_network(draw(networks()))
    around = [address for address in map(ipaddress.ip_address, AT) if address in whole]
    centres = st.sampled_from([*around, *around, whole[0], whole[-1]])
    lengths = st.integers(min(whole.prefixlen + 1, whole.max_prefixlen), whole.max_prefixlen)
    drawn = draw(st.lists(st.tuples(centres, lengths), max_size=4))
    holes = {str(ipaddress.ip_network(hole, strict=False)): None for hole in drawn}
    return {"cidr": str(whole), **({"except": list(holes)} if holes else {})}


@st.composite
def mutated(draw: st.DrawFn, document: Document) -> Document:
    """Draw a policy unchanged, or with other networks, ports and names; one in eight is invalid."""
    if draw(st.booleans()):
        return document
    changed: Document = _mutated_part(draw, document)
    if draw(st.integers(0, 7)) == 7:
        spec = changed["spec"]
        path = draw(st.sampled_from(paths(spec)))
        changed["spec"] = without(spec, path) if draw(st.booleans()) else replaced(spec, path, draw(_WRONG))
    if draw(st.integers(0, 3)) == 3:
        metadata = changed["metadata"]
        changed["metadata"] = {**metadata, "name": f"{metadata['name']}{_LONG}"}
    return changed


def _mutated_part(draw: st.DrawFn, value: Any) -> Any:  # noqa: ANN401 - any part of a document
    """Draw again all parts with a large space."""
    if isinstance(value, list):
        return [_mutated_part(draw, part) for part in value]
    if not isinstance(value, dict):
        return value
    found = {key: _mutated_part(draw, part) for key, part in value.items()}
    if "cidr" in found:
        return draw(blocks())
    if isinstance(found.get("networks"), list):
        found["networks"] = draw(st.lists(networks(), min_size=1, max_size=4, unique=True))
    if "action" in found and draw(st.booleans()):
        found["name"] = draw(_RULE_NAMES)
    if "start" in found or "endPort" in found:
        first, last = sorted((draw(_EDGES), draw(_EDGES)))
        found |= {"port": first, "endPort": last} if "endPort" in found else {"start": first, "end": last}
    return found
