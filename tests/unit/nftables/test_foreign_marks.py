"""Which bits of the packet mark the rules of other programs use."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.nftables.foreign_marks import MarkUse, marks_in_listing, marks_in_save, overlapping

MARK = {"meta": {"key": "mark"}}
EVERY = 0xFFFFFFFF
CHAIN = "table ip theirs, chain pre"


def listing(*expressions: object, table: str = "theirs", family: str = "ip") -> str:
    rule = {"family": family, "table": table, "chain": "pre", "handle": 7, "expr": list(expressions)}
    return json.dumps({"nftables": [{"metainfo": {}}, {"rule": rule}]})


def sets(value: object) -> dict[str, object]:
    return {"mangle": {"key": MARK, "value": value}}


def matches(left: object, right: object = 1) -> dict[str, object]:
    return {"match": {"op": "==", "left": left, "right": right}}


@pytest.mark.parametrize(
    ("expression", "bits"),
    [
        pytest.param(sets(5), EVERY, id="a number replaces every bit"),
        pytest.param(sets({"|": [MARK, 0x4000]}), 0x4000, id="bits that are added"),
        pytest.param(sets({"&": [MARK, 0xFFFF0000]}), 0x0000FFFF, id="bits that are cleared"),
        pytest.param(sets({"^": [MARK, 0x10]}), 0x10, id="bits that are turned"),
        pytest.param(sets({"|": [{"&": [MARK, 0xFFFFFF00]}, 0x7]}), 0xFF, id="bits of a mask that are replaced"),
        pytest.param(sets({"ct": {"key": "mark"}}), EVERY, id="the connection's mark replaces every bit"),
        pytest.param(sets({"|": [MARK, {"ct": {"key": "mark"}}]}), EVERY, id="a form that isn't known"),
        pytest.param(matches(MARK), EVERY, id="a match of the whole mark"),
        pytest.param(matches({"&": [MARK, 0xF000]}), 0xF000, id="a match of some bits"),
        pytest.param(matches({"&": [MARK, {"ct": {"key": "mark"}}]}), EVERY, id="a match of unknown bits"),
        pytest.param(matches({"meta": {"key": "iif"}}), None, id="another match"),
        pytest.param({"mangle": {"key": {"ct": {"key": "mark"}}, "value": 1}}, None, id="the connection's mark is set"),
        pytest.param({"accept": None}, None, id="a verdict"),
    ],
)
def test_bits_that_a_rule_of_nft_uses(expression: dict[str, object], bits: int | None) -> None:
    found = list(marks_in_listing(listing(expression)))
    assert found == ([] if bits is None else [MarkUse(CHAIN, "handle 7", bits, sets="mangle" in expression)])


def test_the_rules_of_nfagent_itself_do_not_count() -> None:
    assert not list(marks_in_listing(listing(sets(5), table="nfagent", family="inet")))
    assert list(marks_in_listing(listing(sets(5), table="nfagent", family="ip")))


_KEYS = st.sampled_from(["mangle", "match", "key", "value", "left", "right", "meta", "&", "|", "mark"])
EXPRESSIONS = st.recursive(
    st.none() | st.integers() | st.just("mark"), lambda inner: st.lists(inner) | st.dictionaries(_KEYS, inner)
)


@given(EXPRESSIONS)
def test_any_rule_gives_uses_or_a_typed_error(expression: object) -> None:
    try:
        found = list(marks_in_listing(listing(expression)))
    except WireError:
        return
    assert all(0 <= use.bits <= EVERY for use in found)


@pytest.mark.parametrize(
    ("rule", "bits"),
    [
        pytest.param("-j MARK --set-xmark 0x4000/0x4000", 0x4000, id="kube-proxy marks for masquerade"),
        pytest.param("-j MARK --set-xmark 0x0/0xf0000000", 0xF0000000, id="bits that are cleared"),
        pytest.param("-j MARK --set-mark 7", EVERY, id="the whole mark"),
        pytest.param("-j MARK --or-mark 0x8", 0x8, id="bits that are added"),
        pytest.param("-j MARK --and-mark 0xfffffff0", 0xF, id="bits that and-mark clears"),
        pytest.param("-m mark --mark 0x10000/0x10000 -j ACCEPT", 0x10000, id="a match"),
        pytest.param("-m mark ! --mark 0x2/0x2 -j ACCEPT", 0x2, id="a negated match"),
        pytest.param("-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff", 0xFF, id="restored from the connection"),
        pytest.param("-j CONNMARK --restore-mark", EVERY, id="all of it restored"),
        pytest.param("-j CONNMARK --save-mark", None, id="the connection's mark is saved"),
        pytest.param("-m connmark --mark 0x1/0x1 -j ACCEPT", None, id="a match of the connection's mark"),
        pytest.param('-m comment --comment "a --mark unknown" -j ACCEPT', EVERY, id="what can't be read"),
        pytest.param("-j MASQUERADE --random-fully", None, id="another target"),
    ],
)
def test_bits_that_a_rule_of_iptables_uses(rule: str, bits: int | None) -> None:
    saved = f"# Generated\n*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {rule}\nCOMMIT\n"
    found = list(marks_in_save(saved, "iptables-legacy"))
    assert [(use.place, use.bits) for use in found] == (
        [] if bits is None else [("iptables-legacy, table mangle, chain PREROUTING", bits)]
    )


def test_only_uses_of_the_masks_bits_overlap() -> None:
    kube_proxy, calico = (MarkUse("a", "r", bits, sets=True) for bits in (0x4000, 0xFFFF0000))
    assert overlapping(iter([kube_proxy, calico, calico]), 0x0FF00000) == [calico]
    assert str(calico) == "a: `r` sets the bits 0xffff0000"
