"""Decoding of EgressNATPolicies and NetworkGatewayGroups."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nfagent.decode.egress_nat import decode_egress_policy, decode_gateway_group
from nfagent.errors import ObjectError
from nfagent.model.egress_nat import EgressNATPolicy, EgressSource, NetworkGatewayGroup
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import ObjectRef
from nfagent.model.selectors import Requirement, Selector

Document = dict[str, Any]
TEN, DOCUMENTATION = parse_cidr("10.0.0.0/8"), parse_cidr("203.0.113.0/24")


def egress(name: str = "default", **spec: Any) -> Document:  # noqa: ANN401 - a document's own fields
    return {"kind": "EgressNATPolicy", "metadata": {"name": name}, "spec": spec}


def group(*addresses: Any, **spec: Any) -> Document:  # noqa: ANN401 - a document's own fields
    return {
        "kind": "NetworkGatewayGroup",
        "metadata": {"name": "gw", "namespace": "kube-system"},
        "spec": {"floatingIPs": list(addresses), **spec},
    }


def label(key: str, value: str) -> Selector:
    return Selector((Requirement(key, "In", (value,)),))


def test_the_form_of_masquerade_is_read() -> None:
    found = decode_egress_policy(egress(action="NoSNAT", destinations=[{"cidr": "10.0.0.0/8"}]))
    assert found == EgressNATPolicy(name="default", action="NoSNAT", destinations=(TEN,))


def test_the_form_of_gateways_is_read() -> None:
    found = decode_egress_policy(
        egress(
            "payments",
            sources=[
                {
                    "namespaceSelector": {"matchLabels": {"team": "payments"}},
                    "podSelector": {"matchLabels": {"egress": "onprem"}},
                },
                {"namespaceSelector": {}},
            ],
            action="SNAT",
            destinations=[{"cidr": "203.0.113.0/24"}],
            gatewayRef={"name": "gw", "namespace": "kube-system"},
        )
    )
    assert found == EgressNATPolicy(
        name="payments",
        action="SNAT",
        destinations=(DOCUMENTATION,),
        sources=(EgressSource(label("egress", "onprem"), label("team", "payments")), EgressSource()),
        gateway=ObjectRef("NetworkGatewayGroup", "kube-system", "gw"),
    )
    assert [str(source) for source in found.sources] == [
        "pods egress=onprem in namespaces team=payments",
        "all pods in all namespaces",
    ]


@pytest.mark.parametrize(
    ("destinations", "ranges"),
    [
        pytest.param([], (), id="an empty list is no destination"),
        pytest.param([{}], (), id="an entry without a field selects nothing"),
        pytest.param([{"fqdn": "example.com"}], (), id="an entry without a field that is known selects nothing"),
        pytest.param([{"cidr": "10.0.0.0/8"}, {}], (TEN,), id="and leaves the others alone"),
        pytest.param([{"cidr": "240.0.0.0/4"}], (parse_cidr("240.0.0.0/4"),), id="class E is a range as any"),
        pytest.param([{"cidr": "2001:DB8::/32"}], (parse_cidr("2001:db8::/32"),), id="IPv6"),
    ],
)
def test_destinations(destinations: list[Any], ranges: tuple[object, ...]) -> None:
    assert decode_egress_policy(egress(action="NoSNAT", destinations=destinations)).destinations == ranges


@pytest.mark.parametrize(
    ("labels", "namespace_labels", "selected"),
    [
        ({"egress": "onprem"}, {"team": "payments"}, True),
        ({"egress": "onprem"}, {"team": "other"}, False),
        ({}, {"team": "payments"}, False),
    ],
    ids=["both hold", "another Namespace", "another Pod"],
)
def test_both_selectors_of_a_source_hold(
    labels: dict[str, str],
    namespace_labels: dict[str, str],
    selected: bool,  # noqa: FBT001 - a table's column
) -> None:
    source = EgressSource(label("egress", "onprem"), label("team", "payments"))
    assert source.selects(labels, namespace_labels) == selected


NOSNAT = {"action": "NoSNAT", "destinations": []}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param({"destinations": []}, "spec.action: is missing; write NoSNAT or SNAT", id="no action"),
        pytest.param(
            {**NOSNAT, "action": "nosnat"}, "spec.action 'nosnat': is not an action; write NoSNAT or SNAT", id="case"
        ),
        pytest.param({"action": "NoSNAT"}, "spec.destinations: is missing; list entries like", id="no destinations"),
        pytest.param(
            {**NOSNAT, "destinations": ["10.0.0.0/8"]},
            "spec.destinations[0] '10.0.0.0/8': is a string; write an object, `- cidr: 10.0.0.0/8`",
            id="strings instead of objects",
        ),
        pytest.param({**NOSNAT, "destinations": [None]}, "spec.destinations[0]: is null", id="null for an entry"),
        pytest.param(
            {**NOSNAT, "destinations": [{"cidr": "10.1.0.0/8"}]},
            "spec.destinations[0].cidr '10.1.0.0/8': has host bits set; write 10.0.0.0/8",
            id="[25] host bits",
        ),
        pytest.param(
            {**NOSNAT, "destinations": [{"cidr": "10.0.0.1"}]}, "cidr '10.0.0.1': is not a CIDR", id="an address"
        ),
        pytest.param(
            {**NOSNAT, "destinations": [{"cidr": "10.0.0.0/8", "port": 5}]},
            "spec.destinations[0].port '5': is not a field here",
            id="a field beside the CIDR, which may narrow it",
        ),
        pytest.param(
            {**NOSNAT, "destinations": [{"cidr": "10.0.0.0/8"}] * 1025},
            "has 1025 entries; write at most 1024",
            id="many",
        ),
        pytest.param({**NOSNAT, "destination": []}, "spec.destination: is not a field here", id="a slip"),
        pytest.param({**NOSNAT, "sources": []}, "spec.sources: is empty; leave it out for every Pod", id="no sources"),
        pytest.param({**NOSNAT, "sources": [{}]}, "spec.sources[0]: selects no Pod; write podSelector", id="no source"),
        pytest.param(
            {**NOSNAT, "sources": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}]},
            "spec.sources[0].podSelector.matchExpressions[0].operator 'Like': is not an operator",
            id="a selector that is none",
        ),
        pytest.param(
            {**NOSNAT, "gatewayRef": {"name": "gw", "namespace": "kube-system"}},
            "spec.gatewayRef: has no meaning with action NoSNAT; delete it, or write action SNAT",
            id="a gateway without SNAT",
        ),
        pytest.param(
            {"action": "SNAT", "destinations": [], "gatewayRef": {"name": "gw"}},
            "spec.gatewayRef.namespace: is not a valid name",
            id="a gateway without its namespace",
        ),
        pytest.param(
            {"action": "SNAT", "destinations": [], "gatewayRef": {"namespace": "x"}},
            "spec.gatewayRef.name: is not a valid name",
            id="a gateway without its name",
        ),
    ],
)
def test_refuses(spec: Document, message: str) -> None:
    with pytest.raises(ObjectError) as caught:
        decode_egress_policy(egress(**spec))
    assert message in str(caught.value)
    assert caught.value.problem.object == "EgressNATPolicy default"


def test_a_group_of_gateways_is_read() -> None:
    found = decode_gateway_group(group("192.0.2.10", "2001:DB8::A"))
    assert found == NetworkGatewayGroup("kube-system", "gw", ("192.0.2.10", "2001:db8::a"))
    assert str(found.ref) == "NetworkGatewayGroup kube-system/gw"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        pytest.param(group(), "spec.floatingIPs: is empty; write at least one address", id="no address"),
        *(
            pytest.param(group("192.0.2.10", address), f"floatingIPs[1] '{address}': is no address that a node", id=why)
            for address, why in (
                ("127.0.0.1", "loopback"),
                ("::1", "loopback of IPv6"),
                ("0.0.0.1", "of this network"),
                ("::", "unspecified of IPv6"),
                ("224.0.0.251", "multicast"),
                ("ff02::fb", "multicast of IPv6"),
                ("255.255.255.255", "broadcast"),
                ("169.254.169.254", "link-local"),
                ("fe80::1", "link-local of IPv6"),
                ("::ffff:127.0.0.1", "loopback, IPv4-mapped"),
            )
        ),
        pytest.param(group("192.0.2.0/24"), "floatingIPs[0] '192.0.2.0/24': is not an IP address", id="a CIDR"),
        pytest.param(group("::a", "0::a"), "floatingIPs[1] '0::a': is a duplicate", id="one address twice"),
        pytest.param(group("::1", floatingIP="::2"), "spec.floatingIP '::2': is not a field here", id="a slip"),
    ],
)
def test_refuses_a_group(document: Document, message: str) -> None:
    with pytest.raises(ObjectError) as caught:
        decode_gateway_group(document)
    assert "NetworkGatewayGroup kube-system/gw: spec.floatingIP" in str(caught.value)
    assert message in str(caught.value)


def test_a_node_selector_is_a_map_of_labels() -> None:
    found = decode_gateway_group(group("192.0.2.10", nodeSelector={"egress": "gateway", "zone": "a"}))
    assert found.nodes == Selector((Requirement("egress", "In", ("gateway",)), Requirement("zone", "In", ("a",))))


def test_a_group_without_node_selector_selects_every_node() -> None:
    assert decode_gateway_group(group("192.0.2.10")).nodes.matches({})


@pytest.mark.parametrize(
    ("selector", "told"),
    [
        pytest.param(["egress"], "spec.nodeSelector: is not a mapping", id="a list"),
        pytest.param({"egress": 1}, "spec.nodeSelector.egress '1'", id="a number"),
        pytest.param({"matchLabels": {"egress": "gateway"}}, "spec.nodeSelector.matchLabels", id="a label selector"),
    ],
)
def test_a_node_selector_that_cannot_be_read_rejects_the_group(selector: object, told: str) -> None:
    with pytest.raises(ObjectError, match=re.escape(told)):
        decode_gateway_group(group("192.0.2.10", nodeSelector=selector))
