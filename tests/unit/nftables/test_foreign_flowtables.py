"""Flowtables in nft's JSON, as nft 1.0.6 writes them."""

from __future__ import annotations

import json

import pytest

from nfagent.errors import WireError
from nfagent.nftables.foreign_flowtables import parse_flowtables

ONE = {"family": "inet", "name": "fast", "table": "other", "handle": 1, "hook": "ingress", "prio": 0}


def listing(*flowtables: object) -> str:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *({"flowtable": each} for each in flowtables)]})


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        pytest.param({"dev": ["eth1", "veth0"]}, "flowtable inet other fast (eth1, veth0)", id="two devices"),
        pytest.param(
            {"dev": "eth1"}, "flowtable inet other fast (eth1)", id="one device, which nft writes as a string"
        ),
        pytest.param({}, "flowtable inet other fast (no devices)", id="no device any more"),
    ],
)
def test_a_flowtable_is_named_with_its_devices(more: dict[str, object], shown: str) -> None:
    assert [str(each) for each in parse_flowtables(listing({**ONE, **more}))] == [shown]


def test_a_listing_without_flowtables_has_none() -> None:
    assert parse_flowtables(listing()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"nftables": [1]}', '{"x": 1}'])
def test_a_listing_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(WireError, match="not a listing of nft"):
        parse_flowtables(text)
