"""Decoding of NetworkPolicies: defaults, error messages, and the effect of a policy with an error."""

from __future__ import annotations

from typing import Any

import pytest

from nfagent.decode.networkpolicy import decode_network_policy
from nfagent.errors import ObjectError
from nfagent.model.netaddr import parse_cidr
from nfagent.model.networkpolicy import IpBlock, NetworkPolicy, NetworkPolicyRule, PodPeer, PolicyPort
from nfagent.model.selectors import Requirement, Selector

Document = dict[str, Any]
WEB = Selector((Requirement("app", "In", ("web",)),))


def decode(**spec: Any) -> NetworkPolicy:  # noqa: ANN401 - a document's own fields
    return decode_network_policy({"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec})


def test_a_whole_policy_is_read() -> None:
    found = decode(
        podSelector={"matchLabels": {"app": "web"}},
        policyTypes=["Egress", "Ingress"],
        ingress=[
            {
                "from": [{"podSelector": {}}, {"namespaceSelector": {}}],
                "ports": [{"port": 80, "endPort": 90}, {"port": "http"}],
            }
        ],
        egress=[
            {"to": [{"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.9.0.0/16"]}}], "ports": [{"protocol": "UDP"}]}
        ],
    )
    assert found == NetworkPolicy(
        namespace="default",
        name="p",
        pods=WEB,
        isolates=("ingress", "egress"),
        ingress=(
            NetworkPolicyRule(
                (PodPeer(Selector(), namespace="default"), PodPeer(Selector(), namespaces=Selector())),
                (PolicyPort("tcp", 80, 90), PolicyPort("tcp", name="http")),
            ),
        ),
        egress=(
            NetworkPolicyRule((IpBlock(parse_cidr("10.0.0.0/8"), (parse_cidr("10.9.0.0/16"),)),), (PolicyPort("udp"),)),
        ),
    )


def test_a_policy_whose_spec_is_misspelt_closes_its_namespace_in_both_directions() -> None:
    found = decode_network_policy(
        {"kind": "NetworkPolicy", "metadata": {"name": "p"}, "sepc": {"policyTypes": ["Egress"]}}
    )
    assert (found.pods, found.isolates, found.rules("ingress"), found.rules("egress")) == (
        Selector(),
        ("ingress", "egress"),
        (),
        (),
    )
    assert found.problem is not None
    assert str(found.problem).startswith("NetworkPolicy p: sepc: is not a field here; write only apiVersion, kind,")


def test_selectors_that_say_the_same_are_equal() -> None:
    spelt = [
        {"matchLabels": {"app": "web"}},
        {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]},
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "web"]}],
        },
    ]
    assert {decode(podSelector=selector).pods for selector in spelt} == {WEB}


def expression(**requirement: Any) -> Document:  # noqa: ANN401 - a document's own fields
    return {"podSelector": {"matchExpressions": [requirement]}}


def rule(**rule: Any) -> Document:  # noqa: ANN401 - a document's own fields
    return {"ingress": [rule]}


BAD: dict[str, tuple[Document, str]] = {
    "an unknown operator": (
        expression(key="app", operator="Like", values=["x"]),
        "spec.podSelector.matchExpressions[0].operator 'Like': is not an operator",
    ),
    "an operator of another type": (expression(key="app", operator=["In"]), "operator: is not an operator"),
    "In without values": (expression(key="app", operator="In"), "values: needs at least one entry with operator In"),
    "Exists with values": (expression(key="app", operator="Exists", values=["x"]), "values: must be empty"),
    "a bad label key": (expression(key="a b", operator="Exists"), "key 'a b': is not a label key"),
    "an unknown policy type": ({"policyTypes": ["Inwards"]}, "spec.policyTypes[0] 'Inwards': is not a policy type"),
    "a bad CIDR": (
        rule(**{"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]}),
        "spec.ingress[0].from[0].ipBlock.cidr '10.0.0.0': is not a CIDR",
    ),
    "an except outside": (
        rule(**{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}),
        "spec.ingress[0].from[0].ipBlock.except[0] '11.0.0.0/16': is not inside the block's cidr 10.0.0.0/8",
    ),
    "an except of the other family": (
        rule(**{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["::/0"]}}]}),
        "except[0] '::/0': is not inside",
    ),
    "a block beside a selector": (
        rule(**{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}),
        "spec.ingress[0].from[0]: has ipBlock beside a selector",
    ),
    "an empty peer": (rule(**{"from": [{}]}), "spec.ingress[0].from[0]: has no known peer"),
    "an unknown kind of peer": (rule(**{"from": [{"hostSelector": {}}]}), "from[0].hostSelector: is not a field here"),
    "an endPort without port": (rule(ports=[{"endPort": 90}]), "ports[0].endPort '90': needs a number in `port`"),
    "an endPort beside a name": (
        rule(ports=[{"port": "http", "endPort": 90}]),
        "endPort '90': needs a number in `port`",
    ),
    "[15] an endPort below port": (
        rule(ports=[{"port": 80, "endPort": 79}]),
        "endPort '79': is below port 80; write 80 or more",
    ),
    "port 0": (rule(ports=[{"port": 0}]), "ports[0].port '0': is not a port number"),
    "port 65536": (rule(ports=[{"port": 65536}]), "port '65536': is not a port number"),
    "a number in quotes": (rule(ports=[{"port": "80"}]), "port '80': is not a port name"),
    "a boolean as port": (rule(ports=[{"port": True}]), "port 'True': is not a whole number"),
    "an unknown protocol": (rule(ports=[{"protocol": "ICMP"}]), "protocol 'ICMP': is not a protocol"),
    "rules that are no list": ({"ingress": {}}, "spec.ingress: is not a list"),
    "a spec of text": ({"podSelector": "app=web"}, "spec.podSelector 'app=web': is not a mapping"),
}


@pytest.mark.parametrize(("spec", "message"), BAD.values(), ids=BAD)
def test_a_fault_is_named_and_the_policy_allows_nothing(spec: Document, message: str) -> None:
    found = decode(**spec)
    assert found.problem is not None
    assert str(found.problem).startswith("NetworkPolicy p: spec.")
    assert message in str(found.problem)
    assert (found.ingress, found.egress) == ((), ())
    assert found.isolates


@pytest.mark.parametrize(
    ("spec", "pods", "isolates"),
    [
        pytest.param(
            {"policyTypes": ["Inwards"]}, Selector(), ("ingress", "egress"), id="[19] bad types: both directions"
        ),
        pytest.param(
            expression(key="app", operator="Like"), Selector(), ("ingress",), id="[19] a bad selector: every Pod"
        ),
        pytest.param(
            {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"], "egress": [{"to": [{}]}]},
            WEB,
            ("egress",),
            id="[19] a bad rule: the Pods that are selected",
        ),
    ],
)
def test_a_policy_with_a_fault_isolates_whom_it_could_select(
    spec: Document, pods: Selector, isolates: tuple[str, ...]
) -> None:
    found = decode(**spec)
    assert (found.pods, found.isolates) == (pods, isolates)


@pytest.mark.parametrize("name", ["", "Web", "a_b", None])
def test_a_policy_without_a_usable_name_is_no_policy(name: str | None) -> None:
    with pytest.raises(ObjectError, match=r"metadata\.name.*is not a valid name"):
        decode_network_policy({"kind": "NetworkPolicy", "metadata": {"name": name}})


def test_a_policy_whose_spec_is_misspelt_closes_its_namespace_both_ways() -> None:
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]}
    found = decode_network_policy({"metadata": {"namespace": "shop", "name": "p"}, "Spec": spec})
    assert (found.pods, found.isolates) == (Selector(), ("ingress", "egress"))
    assert str(found.problem).startswith("object shop/p: Spec: is not a field here; write only apiVersion, kind")


def test_a_policy_without_a_spec_isolates_its_namespace_as_the_api_server_has_it() -> None:
    found = decode_network_policy({"metadata": {"namespace": "shop", "name": "p"}, "status": {}})
    assert (found.pods, found.isolates, found.problem) == (Selector(), ("ingress",), None)
