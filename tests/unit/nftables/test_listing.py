"""A listing is split into the same values as by one JSON decoding, and no decoder call takes long for any set size."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.nftables import listing
from nfagent.nftables.listing import AT_ONCE, entries, pieces
from nfagent.nftables.objects import NamedSet, Ruleset, VerdictMap
from nfagent.nftables.parse import parse_listing

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(0, 999) | st.text('ab, "\\[]{}', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=12,
)
ADDRESSES = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(20_000)]
FLOWS = ["ipv4_addr", "inet_proto", "inet_service", "ipv4_addr", "inet_service"]
OURS = {"family": "inet", "table": "nfagent"}
TABLE: dict[str, Any] = {"table": {"family": "inet", "name": "nfagent"}}


def written(*items: dict[str, Any]) -> str:
    return json.dumps({"nftables": [TABLE, *items]})


@given(st.lists(ANYTHING, max_size=30), st.integers(4, 64))
def test_pieces_are_the_members_of_the_array_for_any_cut(members: list[object], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "AT_ONCE", size)
        assert list(pieces(json.dumps(members).encode())) == members


@pytest.mark.parametrize("text", ["", "{}", '"x"', "[1", "1]"], ids=["nothing", "an object", "a word", "cut", "begun"])
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(WireError, match="no array"):
        list(pieces(text.encode()))


def test_a_damaged_array_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        list(pieces(b"[1, 2, {]"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of all that the decoder gets, as they come."""
    sizes: list[int] = []

    def decode(text: bytes | msgspec.Raw) -> object:
        sizes.append(memoryview(text).nbytes)
        return msgspec.json.decode(text)

    monkeypatch.setattr(listing, "_decode", decode)
    return sizes


MEMBERS: dict[str, tuple[dict[str, Any], Ruleset]] = {
    "addresses": (
        {"set": {**OURS, "name": "peers4/x", "type": "ipv4_addr", "elem": ADDRESSES}},
        Ruleset(sets={"peers4/x": NamedSet("address", 4, frozenset(ADDRESSES))}),
    ),
    "named ports": (
        {
            "set": {
                **OURS,
                "name": "ports4/x",
                "type": FLOWS[:3],
                "elem": [{"concat": [address, "tcp", 80]} for address in ADDRESSES],
            }
        },
        Ruleset(sets={"ports4/x": NamedSet("port", 4, frozenset((address, "tcp", 80) for address in ADDRESSES))}),
    ),
    "verdicts": (
        {
            "map": {
                **OURS,
                "name": "egress4",
                "type": "ipv4_addr",
                "map": "verdict",
                "elem": [[address, {"goto": {"target": "egress/shop/web"}}] for address in ADDRESSES],
            }
        },
        Ruleset(maps={"egress4": VerdictMap(4, dict.fromkeys(ADDRESSES, "egress/shop/web"))}),
    ),
}


@pytest.mark.parametrize(("item", "expected"), MEMBERS.values(), ids=MEMBERS)
def test_a_large_sets_elements_are_decoded_some_at_a_time(
    item: dict[str, Any], expected: Ruleset, decoded: list[int]
) -> None:
    assert parse_listing(written(item)) == expected
    assert max(decoded) <= AT_ONCE + 2


def test_what_a_set_of_flows_remembers_is_never_decoded(decoded: list[int]) -> None:
    elements = [
        {"elem": {"val": {"concat": [address, "tcp", 80, "10.9.9.9", 5]}, "expires": 299}} for address in ADDRESSES
    ]
    item = {"set": {**OURS, "name": "revoked4", "type": FLOWS, "size": 262_144, "flags": ["timeout"], "timeout": 300}}
    item["set"]["elem"] = elements
    assert parse_listing(written(item)).sets == {"revoked4": NamedSet("flow", 4, size=262_144)}
    assert sum(decoded) < 1000


def test_a_large_object_of_another_form_is_decoded_at_once() -> None:
    odd = {"map": ["x" * AT_ONCE]}
    assert list(entries(json.dumps({"nftables": [odd]}))) == [odd]
