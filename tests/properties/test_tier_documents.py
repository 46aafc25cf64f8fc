"""Random policies of the tiers, read: good ones whole, flawed ones closed where the flaw is."""

from __future__ import annotations

from hypothesis import given

from tests.properties.objects import Document
from tests.properties.tier_strategies import decode, flawed_documents, good_documents


@given(good_documents())
def test_a_good_policy_is_read_whole(document: Document) -> None:
    policy, spec = decode(document), document["spec"]
    assert policy.problems == ()
    for rules, peers, found in (
        (spec.get("ingress", []), "from", policy.ingress),
        (spec.get("egress", []), "to", policy.egress),
    ):
        assert [rule.action for rule in found] == [
            {"Accept": "allow"}.get(r["action"], r["action"].lower()) for r in rules
        ]
        assert [rule.name for rule in found] == [rule.get("name", "") for rule in rules]
        for rule, written in zip(found, rules, strict=True):
            assert 1 <= len(rule.peers) <= sum(len(peer.get("networks", "1")) for peer in written[peers])
            assert bool(rule.ports) == ("ports" in written or "protocols" in written)


@given(flawed_documents())
def test_a_flawed_policy_says_so_and_allows_no_more(document: Document) -> None:
    policy = decode(document)
    assert policy.problems
    if policy.problem is not None:
        assert all(rule.action == "deny" and not rule.peers for rule in (*policy.ingress, *policy.egress))
        return
    (closed,) = [rule for rule in (*policy.ingress, *policy.egress) if rule.problem is not None]
    assert (closed.peers, closed.ports) == ((), ())
    written = [rule for direction in ("ingress", "egress") for rule in document["spec"].get(direction, [])]
    assert len(written) == len(policy.ingress) + len(policy.egress)
