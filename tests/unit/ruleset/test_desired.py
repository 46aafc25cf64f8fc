"""Objects in, rulesets out: what changes, and how long an NFLOG prefix keeps its meaning."""

from __future__ import annotations

from nfagent.cluster.model import Namespace, Node, Pod, Ref
from nfagent.egress.ip_masq import IpMasqConfig
from nfagent.policy.model import NetworkPolicy
from nfagent.ruleset.desired import Desired, Origin

WEB = Pod("shop", "web", node="a", addresses=("10.64.0.1",))
POLICY = NetworkPolicy(namespace="shop", name="p")
DENIED = "deny ingress shop/p"


def test_an_origin_outlives_its_ruleset_by_one_generation() -> None:
    desired = Desired("a")
    desired.put(WEB)
    desired.put(POLICY)
    origin = Origin("deny", "ingress", (POLICY.ref,))
    assert desired.compiled().origins == {DENIED: origin}
    desired.remove(POLICY.ref)
    assert desired.compiled().origins == {DENIED: origin}
    desired.put(Node("b"))
    assert desired.compiled().origins == {}


def test_asking_again_without_a_change_is_no_new_generation() -> None:
    desired = Desired("a")
    for item in (WEB, POLICY):
        desired.put(item)
    desired.compiled()
    desired.remove(POLICY.ref)
    assert desired.compiled() is desired.compiled()
    assert DENIED in desired.compiled().origins


def test_put_and_remove_tell_whether_anything_changed() -> None:
    desired = Desired("a")
    for item in (WEB, POLICY, Node("a", addresses=("192.168.0.1",)), IpMasqConfig(())):
        assert desired.put(item)
        assert not desired.put(item)
    assert not desired.put(Namespace("shop", (("kubernetes.io/metadata.name", "shop"),)))
    assert desired.remove(POLICY.ref)
    assert not desired.remove(POLICY.ref)
    assert desired.remove(IpMasqConfig().ref)
    assert not desired.remove(IpMasqConfig().ref)
    assert not desired.remove(Ref("NetworkLogging", "", "default"))


def test_removing_a_pod_that_is_not_there_changes_nothing() -> None:
    desired = Desired("a")
    assert not desired.remove(Ref("Pod", "shop", "none"))


def test_a_policy_that_selects_nobody_here_needs_no_chain() -> None:
    desired = Desired("a")
    desired.put(Pod("shop", "far", node="b", addresses=("10.64.1.1",)))
    desired.put(POLICY)
    ruleset = desired.compiled().ruleset
    assert (ruleset.sets, ruleset.counters) == ({}, frozenset())
    assert [name for name, chain in ruleset.chains.items() if chain.hook is None] == ["stray-egress", "stray-ingress"]
