"""Selectors match labels; policies, peers and ports as text."""

from __future__ import annotations

import pytest

from nfagent.model.netaddr import parse_cidr
from nfagent.model.networkpolicy import IpBlock, NetworkPolicyRule, PodPeer, PolicyPort
from nfagent.model.selectors import Operator, Requirement, Selector
from nfagent.policy.evaluator import Flow

LABELS = {"app": "web", "zone": ""}


@pytest.mark.parametrize(
    ("key", "operator", "values", "matches"),
    [
        pytest.param("app", "In", ("db", "web"), True, id="In holds for a value of the list"),
        pytest.param("app", "In", ("db",), False, id="In fails for another value"),
        pytest.param("tier", "In", ("",), False, id="In fails for a missing label, the empty value included"),
        pytest.param("zone", "In", ("",), True, id="In holds for an empty value"),
        pytest.param("app", "NotIn", ("web",), False, id="NotIn fails for a value of the list"),
        pytest.param("tier", "NotIn", ("web",), True, id="[16] NotIn holds for a missing label"),
        pytest.param("zone", "Exists", (), True, id="Exists holds for an empty value"),
        pytest.param("tier", "Exists", (), False, id="Exists fails for a missing label"),
        pytest.param("tier", "DoesNotExist", (), True, id="[16] DoesNotExist holds for a missing label"),
        pytest.param("zone", "DoesNotExist", (), False, id="DoesNotExist fails for an empty value"),
    ],
)
def test_requirement(key: str, operator: Operator, values: tuple[str, ...], matches: bool) -> None:  # noqa: FBT001 - a table's column
    assert Requirement(key, operator, values).matches(LABELS) is matches


def test_all_requirements_of_a_selector_hold_together_and_an_empty_one_selects_all() -> None:
    app, tier = Requirement("app", "Exists"), Requirement("tier", "Exists")
    assert Selector((app,)).matches(LABELS)
    assert not Selector((app, tier)).matches(LABELS)
    assert Selector().matches({})


WEB = Selector((Requirement("app", "In", ("web",)),))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Selector(), "all"),
        (Selector((Requirement("a", "In", ("x", "y")), Requirement("b", "DoesNotExist"))), "a in (x,y),!b"),
        (Selector((Requirement("a", "NotIn", ("x",)), Requirement("b", "Exists"))), "a!=x,b"),
        (Selector((Requirement("a", "NotIn", ("x", "y")),)), "a notin (x,y)"),
        (PodPeer(WEB, namespace="shop"), "pods app=web in namespace shop"),
        (PodPeer(Selector(), namespaces=Selector()), "all pods in all namespaces"),
        (PodPeer(WEB, namespaces=WEB), "pods app=web in namespaces app=web"),
        (IpBlock(parse_cidr("10.0.0.0/8"), (parse_cidr("10.1.0.0/16"),)), "10.0.0.0/8 except 10.1.0.0/16"),
        (PolicyPort("tcp", 80, 80), "80/tcp"),
        (PolicyPort("udp", 80, 90), "80-90/udp"),
        (PolicyPort("sctp"), "any/sctp"),
        (PolicyPort("tcp", name="http"), "http/tcp"),
        (NetworkPolicyRule(), "anywhere"),
        (
            NetworkPolicyRule((PodPeer(WEB, namespace="shop"),), (PolicyPort("tcp", 80, 80), PolicyPort("udp"))),
            "pods app=web in namespace shop on 80/tcp, any/udp",
        ),
        (Flow("10.0.0.1", "10.0.0.2", "tcp", 80), "10.0.0.1 -> 10.0.0.2:80/tcp"),
        (Flow("fd00::1", "fd00::2", "udp", 53), "fd00::1 -> [fd00::2]:53/udp"),
        (Flow("10.0.0.1", "10.0.0.2", "icmp"), "10.0.0.1 -> 10.0.0.2/icmp"),
    ],
    ids=str,
)
def test_words(value: object, words: str) -> None:
    assert str(value) == words
