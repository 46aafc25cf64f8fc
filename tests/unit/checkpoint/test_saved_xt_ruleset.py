"""The saved ruleset of iptables: what is decoded is what was encoded, or an error."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.checkpoint.xt_ruleset_codec import decode_xt_ruleset, encode_xt_ruleset
from nfagent.errors import DecodeError
from nfagent.nftables.boot_rulesets import after_boot
from nfagent.xtables.lowering import lower
from nfagent.xtables.options import LoweringOptions
from tests.support.two_node_cluster import TwoNodeCluster, namespace, pod, policy

OPTIONS = LoweringOptions()
SHOP = (
    TwoNodeCluster(
        namespace("shop"),
        pod("shop/db", "a", 1),
        policy("shop/db", types=["Ingress"], ingress=[{"ports": [{"port": 80}]}]),
    )
    .views["a"]
    .ruleset()
)
BATCHES, CONTENT = encode_xt_ruleset(SHOP, OPTIONS, "legacy")


def changed(**parts: object) -> tuple[bytes, ...]:
    """Return the file's content with other values."""
    content = msgspec.json.decode(zlib.decompress(BATCHES[0]))
    for name, value in parts.items():
        content[name] = value(content[name]) if callable(value) else value
    return (zlib.compress(msgspec.json.encode(content)),)


def test_what_is_decoded_is_what_holds_over_a_boot() -> None:
    found = decode_xt_ruleset(BATCHES)
    assert found.variant == "legacy"
    assert found.ruleset == lower(after_boot(SHOP), OPTIONS)[0]


def test_equal_rulesets_have_one_digest_and_the_variant_counts() -> None:
    assert encode_xt_ruleset(SHOP, OPTIONS, "legacy") == (BATCHES, CONTENT)
    assert encode_xt_ruleset(SHOP, OPTIONS, "nft")[1] != CONTENT


@given(st.binary(max_size=200))
def test_any_bytes_are_a_ruleset_or_an_error(content: bytes) -> None:
    for batches in ((content,), (zlib.compress(content),), (content, content), ()):
        with pytest.raises(DecodeError):
            decode_xt_ruleset(batches)


def with_rule(words: list[str]) -> tuple[bytes, ...]:
    chain = {
        "family": 4,
        "table": "mangle",
        "name": "nfa-x",
        "origin": "",
        "rules": [{"matches": [], "target": words, "comment": ""}],
    }
    return changed(chains=[chain])


@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        pytest.param(changed(accounts=["stranger"]), "isn't nfagent's", id="a counter of another program"),
        pytest.param(
            changed(hooks=[{"family": 4, "table": "mangle", "hook": "FORWARD", "target": "KUBE-X"}]),
            "isn't nfagent's",
            id="a jump to another program's chain",
        ),
        pytest.param(with_rule(["-j", "DROP\n-F FORWARD"]), "several lines", id="a rule of two lines"),
        pytest.param(changed(variant="other"), "can't be decoded", id="an unknown variant"),
        pytest.param(
            changed(sets=lambda sets: [{**item, "members": [["10.0.0.1", 1, 2, 3, 4]]} for item in sets]),
            "no set of type",
            id="a member of another form",
        ),
        pytest.param((zlib.compress(b"{")[:-2],), "cut short", id="content that is cut short"),
    ],
)
def test_what_no_agent_writes_is_refused(batches: tuple[bytes, ...], reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode_xt_ruleset(batches)
