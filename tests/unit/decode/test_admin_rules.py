"""Invalid rules of tier policies: their error messages, and their effect."""

from __future__ import annotations

from typing import Any

import pytest

from nfagent.model.admin_policy import TierRule
from nfagent.model.netaddr import parse_cidr
from nfagent.model.networkpolicy import IpBlock, PolicyPort
from tests.support.tier_documents import (
    ALL_NAMESPACES,
    ANP,
    BAD_SELECTOR,
    BANP,
    CNP,
    READERS,
    VERSIONS,
    Document,
    Read,
    TierKind,
)

each_kind = pytest.mark.parametrize("read", READERS.values(), ids=READERS)
each_version = pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)

BAD_PEERS: dict[str, tuple[Any, str]] = {
    "a rule without peers": (None, ".to: is missing; write peers, `namespaces: {}` for every Pod"),
    "an empty list of peers": ([], ".to: is empty; write peers, `namespaces: {}` for every Pod"),
    "peers that are no list": ({"namespaces": {}}, ".to: is not a list"),
    "peers beside an empty one": ([ALL_NAMESPACES, {}], ".to[1]: is empty; write namespaces, pods, nodes or networks"),
    "a peer that is null": ([None], ".to[0]: is missing; write namespaces, pods, nodes or networks"),
    "a peer of text": (["all"], ".to[0] 'all': is not a mapping"),
    "a peer whose only field is null": ([{"namespaces": None}], ".to[0]: is empty; write namespaces"),
    "a peer with an unknown field": ([{"services": {}}], ".to[0].services: is not a field here; write namespaces, po"),
    "an unknown field beside a known one": ([{"namespaces": {}, "services": {}}], ".to[0].services: is not a field"),
    "a field whose name is a number": ([{5: {}}], ".to[0]: has a key that is no text; write namespaces"),
    "two known fields in one peer": (
        [{"namespaces": {}, "nodes": {}}],
        ".to[0]: has namespaces and nodes side by side; write one of them",
    ),
    "domainNames": (
        [ALL_NAMESPACES, {"domainNames": ["k.io"]}],
        ".to[1].domainNames: is not supported yet; write networks with the addresses of these names",
    ),
    "an operator that isn't one": (
        [{"namespaces": BAD_SELECTOR}],
        ".to[0].namespaces.matchExpressions[0].operator 'Like': is not an operator",
    ),
    "a node selector that can't be read": (
        [{"nodes": {"matchLabels": {"a b": "c"}}}],
        ".to[0].nodes.matchLabels.a b 'a b': is not a label key",
    ),
    "labels without matchLabels above them": (
        [{"namespaces": {"app": "web"}}],
        ".to[0].namespaces.app 'web': is not a field here; write only matchLabels and matchExpressions",
    ),
    "a selector of text": ([{"namespaces": "shop"}], ".to[0].namespaces 'shop': is not a mapping"),
    "pods without podSelector": (
        [{"pods": {"namespaceSelector": {}}}],
        ".to[0].pods.podSelector: is missing; write {} for every Pod",
    ),
    "pods with an unknown field": (
        [{"pods": {"namespaceSelector": {}, "podSelector": {}, "nodeSelector": {}}}],
        ".to[0].pods.nodeSelector: is not a field here; write only namespaceSelector and podSelector",
    ),
    "an unreadable podSelector": (
        [{"pods": {"namespaceSelector": {}, "podSelector": BAD_SELECTOR}}],
        ".to[0].pods.podSelector.matchExpressions[0].operator 'Like': is not",
    ),
    "no networks": ([{"networks": []}], ".to[0].networks: is empty; write CIDRs"),
    "networks that are no list": ([{"networks": "10.0.0.0/8"}], ".to[0].networks '10.0.0.0/8': is not a list"),
    "26 networks": (
        [{"networks": [f"10.0.{third}.0/24" for third in range(26)]}],
        ".to[0].networks: has 26 entries; write at most 25",
    ),
    "a network twice": (
        [{"networks": ["10.0.0.0/8", "11.0.0.0/8", "10.0.0.0/8"]}],
        ".to[0].networks[2] '10.0.0.0/8': is a duplicate",
    ),
    "an address without a prefix length": ([{"networks": ["10.0.0.1"]}], ".networks[0] '10.0.0.1': is not a CIDR"),
    "a network that is a number": ([{"networks": [10]}], ".networks[0] '10': is not a string"),
    "an IPv4-mapped network": ([{"networks": ["::ffff:10.0.0.0/104"]}], "': is an IPv4-mapped IPv6 CIDR; write it as"),
    "an IPv4-mapped address with a short prefix": (
        [{"networks": ["::ffff:10.0.0.0/64"]}],
        ".to[0].networks[0] '::ffff:10.0.0.0/64': is an IPv4-mapped IPv6 CIDR; write it as an IPv4 CIDR",
    ),
    "a network of 44 characters": (
        [{"networks": ["2001:0db8:0000:0000:0000:0000:0000:0000/0032"]}],
        "': is longer than 43 characters; write the CIDR's shortest form",
    ),
}


@each_version
@pytest.mark.parametrize(("peers", "message"), BAD_PEERS.values(), ids=BAD_PEERS)
def test_a_fault_in_a_peer_closes_its_rule(version: TierKind, peers: object, message: str) -> None:
    assert message in version.fault({"to": peers})


@each_version
@pytest.mark.parametrize("peer", ["nodes", "networks", "domainNames"])
def test_ingress_knows_only_pods_as_peers(version: TierKind, peer: str) -> None:
    value = {"nodes": {}, "networks": ["10.0.0.0/8"], "domainNames": ["k.io"]}[peer]
    said = version.fault({"from": [{peer: value}]}, "ingress")
    assert said == f".from[0].{peer}: is not a field here; write namespaces or pods"


@pytest.mark.parametrize("version", [ANP, BANP], ids=["AdminNetworkPolicy", "BaselineAdminNetworkPolicy"])
def test_v1alpha1_asks_for_both_selectors(version: TierKind) -> None:
    said = version.fault({"to": [{"pods": {"podSelector": {}}}]})
    assert said == ".to[0].pods.namespaceSelector: is missing; write {} for every Namespace"


@each_version
@pytest.mark.parametrize("count", [25, 26, 100, 101])
def test_the_number_of_peers_has_a_limit(version: TierKind, count: int) -> None:
    peers = [{"namespaces": {"matchLabels": {"n": str(number)}}} for number in range(count)]
    if count <= version.most:
        rule = version.rule("Deny", {"to": peers})
        assert (len(rule.peers), rule.problem) == (count, None)
    else:
        assert version.fault({"to": peers}) == f".to: has {count} entries; write at most {version.most}"


def test_networks_are_read_as_the_api_server_reads_them() -> None:
    longest = "2001:0db8:0000:0000:0000:0000:0000:0000/128"
    cidrs = ["10.1.2.3/8", "0.0.0.0/0", "::/0", longest, "10.0.0.0/8", *(f"11.{n}.0.0/16" for n in range(20))]
    assert (len(longest), len(cidrs)) == (43, 25)
    rule = ANP.rule("Deny", {"to": [{"networks": cidrs}]})
    # 10.1.2.3/8 and 10.0.0.0/8 are two texts, as the set has it, and one network.
    assert rule.peers == tuple(IpBlock(parse_cidr(cidr)) for cidr in cidrs if cidr != "10.0.0.0/8")


BAD_V1ALPHA1_PORTS: dict[str, tuple[Any, str]] = {
    "an empty list of ports": ([], ".ports: is empty; write ports, or leave it out for every port and protocol"),
    "ports that are no list": ({"portNumber": {"port": 80}}, ".ports: is not a list"),
    "an empty port": ([{}], ".ports[0]: is empty; write portNumber, portRange or namedPort"),
    "a port that is a number": ([80], ".ports[0] '80': is not a mapping"),
    "an unknown form": ([{"portList": [80]}], ".ports[0].portList: is not a field here; write portNumber"),
    "v1alpha2's form": ([{"tcp": {"destinationPort": {"number": 80}}}], ".ports[0].tcp: is not a field here"),
    "two forms in one port": (
        [{"portNumber": {"port": 80}, "namedPort": "http"}],
        ".ports[0]: has portNumber and namedPort side by side",
    ),
    "a good port beside a bad one": (
        [{"portNumber": {"port": 80}}, {"portNumber": {"port": 0}}],
        ".ports[1].portNumber.port '0': is not a port number",
    ),
    "portNumber without a port": ([{"portNumber": {}}], ".ports[0].portNumber.port: is not a whole number"),
    "portNumber 65536": ([{"portNumber": {"port": 65536}}], ".portNumber.port '65536': is not a port number"),
    "a number in quotes": ([{"portNumber": {"port": "80"}}], ".portNumber.port '80': is not a whole number"),
    "a protocol in small letters": (
        [{"portNumber": {"port": 80, "protocol": "tcp"}}],
        ".portNumber.protocol 'tcp': is not a protocol; write TCP, UDP or SCTP",
    ),
    "ICMP": ([{"portRange": {"start": 1, "end": 2, "protocol": "ICMP"}}], ".portRange.protocol 'ICMP': is not a"),
    "endPort as NetworkPolicy has it": (
        [{"portNumber": {"port": 80, "endPort": 90}}],
        ".portNumber.endPort '90': is not a field here; write only protocol and port",
    ),
    "a range without an end": ([{"portRange": {"start": 80}}], ".portRange.end: is not a whole number"),
    "a range without a start": ([{"portRange": {"end": 80}}], ".portRange.start: is not a whole number"),
    "a range from 0": ([{"portRange": {"start": 0, "end": 80}}], ".portRange.start '0': is not a port number"),
    "a range to 65536": ([{"portRange": {"start": 1, "end": 65536}}], ".portRange.end '65536': is not a port"),
    "a backward range": ([{"portRange": {"start": 81, "end": 80}}], ".portRange.end '80': is not above start 81"),
    "a range of one port": (
        [{"portRange": {"start": 80, "end": 80}}],
        ".portRange.end '80': is not above start 80; write a higher end, or one port as portNumber",
    ),
    "a range with an unknown field": (
        [{"portRange": {"start": 1, "end": 2, "step": 2}}],
        ".portRange.step '2': is not a field here; write only protocol, start and end",
    ),
    "a name that is a number": ([{"namedPort": 80}], ".namedPort '80': is not the name of a port; write a container"),
    "a name of digits": ([{"namedPort": "80"}], ".namedPort '80': is not the name of a port; write a"),
    "an empty name": ([{"namedPort": ""}], ".namedPort: is not the name of a port"),
}


@pytest.mark.parametrize("version", [ANP, BANP], ids=["AdminNetworkPolicy", "BaselineAdminNetworkPolicy"])
@pytest.mark.parametrize(("ports", "message"), BAD_V1ALPHA1_PORTS.values(), ids=BAD_V1ALPHA1_PORTS)
def test_a_fault_in_a_v1alpha1_port_closes_its_rule(version: TierKind, ports: object, message: str) -> None:
    assert message in version.fault({"ports": ports})


def tcp(port: object) -> list[Document]:
    return [{"tcp": {"destinationPort": port}}]


BAD_V1ALPHA2_PORTS: dict[str, tuple[Any, str]] = {
    "an empty list": ([], ".protocols: is empty; write ports, or leave it out for every port and protocol"),
    "an empty entry": ([{}], ".protocols[0]: is empty; write tcp, udp, sctp or destinationNamedPort"),
    "an unknown protocol": ([{"icmp": {}}], ".protocols[0].icmp: is not a field here; write tcp, udp, sctp or dest"),
    "v1alpha1's form": ([{"portNumber": {"port": 80}}], ".protocols[0].portNumber: is not a field here"),
    "two protocols in one entry": (
        [{"tcp": {"destinationPort": {"number": 80}}, "udp": {"destinationPort": {"number": 80}}}],
        ".protocols[0]: has tcp and udp side by side",
    ),
    "a protocol without a port": (
        [{"tcp": {}}],
        ".protocols[0].tcp: is empty; write destinationPort; its range 1 to 65535 is every port",
    ),
    "a port that is null": (tcp(None), ".protocols[0].tcp: is empty; write destinationPort"),
    "a sourcePort": ([{"tcp": {"sourcePort": {"number": 80}}}], ".tcp.sourcePort: is not a field here; write"),
    "a sourcePort beside the port": (
        [{"udp": {"destinationPort": {"number": 80}, "sourcePort": {"number": 80}}}],
        ".udp.sourcePort: is not a field here; write only destinationPort",
    ),
    "a port that is a number": (tcp(80), ".tcp.destinationPort '80': is not a mapping"),
    "an empty port": (tcp({}), ".tcp.destinationPort: is empty; write number or range"),
    "an unknown form of port": (tcp({"name": "http"}), ".destinationPort.name 'http': is not a field here; write numb"),
    "number beside range": (tcp({"number": 1, "range": {"start": 1, "end": 2}}), "has number and range side by side"),
    "number 0": (tcp({"number": 0}), ".tcp.destinationPort.number '0': is not a port number"),
    "number 65536": (tcp({"number": 65536}), ".tcp.destinationPort.number '65536': is not a port number"),
    "a number in quotes": (tcp({"number": "80"}), ".number '80': is not a whole number"),
    "a backward range": (tcp({"range": {"start": 9, "end": 8}}), ".range.end '8': is not above start 9; write a high"),
    "a range of one port": (tcp({"range": {"start": 9, "end": 9}}), ".range.end '9': is not above start 9; write a h"),
    "a range with a protocol": (
        tcp({"range": {"start": 1, "end": 2, "protocol": "UDP"}}),
        ".range.protocol 'UDP': is not a field here; write only start and end",
    ),
    "a name of digits": ([{"destinationNamedPort": "80"}], "Port '80': is not the name of a port; write a"),
    "an empty name": ([{"destinationNamedPort": ""}], ".destinationNamedPort: is not the name of a port"),
}


@pytest.mark.parametrize(("ports", "message"), BAD_V1ALPHA2_PORTS.values(), ids=BAD_V1ALPHA2_PORTS)
def test_a_fault_in_a_v1alpha2_port_closes_its_rule(ports: object, message: str) -> None:
    assert message in CNP.fault({"protocols": ports})


def test_what_is_said_of_a_port_names_the_form_to_write_instead() -> None:
    start = {"start": 9, "end": 9}
    name = "is not the name of a port; write a container port's name, or a number under"
    span = "is not above start 9; write a higher end, or one port as"
    assert ANP.fault({"ports": [{"namedPort": "80"}]}) == f".ports[0].namedPort '80': {name} portNumber"
    assert ANP.fault({"ports": [{"portRange": start}]}) == f".ports[0].portRange.end '9': {span} portNumber"
    said = CNP.fault({"protocols": [{"destinationNamedPort": "80"}]})
    assert said == f".protocols[0].destinationNamedPort '80': {name} tcp, udp or sctp"
    said = CNP.fault({"protocols": tcp({"range": start})})
    assert said == f".protocols[0].tcp.destinationPort.range.end '9': {span} number"


def test_a_v1alpha1_port_is_of_tcp_where_it_says_nothing_and_takes_every_name() -> None:
    ports = [
        {"portNumber": {"port": 1}},
        {"portRange": {"start": 1, "end": 65535}},
        {"portNumber": {"port": 65535, "protocol": "UDP"}},
        {"namedPort": "a-name-that-no-container-port-can-have"},
    ]
    assert ANP.rule("Deny", {"ports": ports}).ports == (
        PolicyPort("tcp", 1, 1),
        PolicyPort("tcp", 1, 65535),
        PolicyPort("udp", 65535, 65535),
        PolicyPort("any", name="a-name-that-no-container-port-can-have"),
    )


@each_version
@pytest.mark.parametrize("count", [25, 26, 100, 101])
def test_the_number_of_ports_has_a_limit(version: TierKind, count: int) -> None:
    if version is CNP:
        ports: list[Document] = [{"tcp": {"destinationPort": {"number": number + 1}}} for number in range(count)]
    else:
        ports = [{"portNumber": {"port": number + 1}} for number in range(count)]
    if count <= version.most:
        rule = version.rule("Deny", {version.ports: ports})
        assert (len(rule.ports), rule.problem) == (count, None)
    else:
        said = version.fault({version.ports: ports})
        assert said == f".{version.ports}: has {count} entries; write at most {version.most}"


@each_version
@pytest.mark.parametrize("peer", [{"nodes": {}}, {"networks": ["10.0.0.0/8"]}], ids=["nodes", "networks"])
def test_a_named_port_beside_a_peer_without_names_closes_the_rule(version: TierKind, peer: Document) -> None:
    if version is CNP:
        ports: list[Document] = [{"tcp": {"destinationPort": {"number": 80}}}, {"destinationNamedPort": "http"}]
    else:
        ports = [{"portNumber": {"port": 80}}, {"namedPort": "http"}]
    said = version.fault({"to": [ALL_NAMESPACES, peer], version.ports: ports})
    reason = "is a port's name, and nodes and networks have none; write a number, or two rules"
    assert said == f".{version.ports}[1]: {reason}"
    assert version.rule("Deny", {"to": [ALL_NAMESPACES, peer], version.ports: ports[:1]}).problem is None
    assert version.rule("Deny", {"to": [ALL_NAMESPACES], version.ports: ports}).problem is None


@each_version
def test_a_rule_with_a_field_that_is_not_known_is_closed(version: TierKind) -> None:
    said = version.fault({"when": "night"})
    assert said == f".when 'night': is not a field here; write only name, action, to and {version.ports}"
    other = "ports" if version is CNP else "protocols"
    said = version.fault({other: [{}]})
    assert said == f".{other}: is not a field here; write only name, action, to and {version.ports}"
    numbers: tuple[Any, ...] = (5, 10**5000)  # YAML takes them for keys
    for key in numbers:
        said = version.fault({key: "night"})
        assert said == f": has a key that is no text; write only name, action, to and {version.ports}"
    said = version.fault({"to": [ALL_NAMESPACES]}, "ingress")
    assert said == f".to: is not a field here; write only name, action, from and {version.ports}"


NAME_OF_400_BYTES = "\U0001f40b" * 100


@each_version
def test_a_rules_name_is_counted_in_characters_not_bytes(version: TierKind) -> None:
    assert version.rule("Deny", {"name": NAME_OF_400_BYTES}).name == NAME_OF_400_BYTES
    assert version.fault({"name": "x" * 101}).endswith("': has 101 characters; write at most 100")
    assert version.fault({"name": 5}) == ".name '5': is not a string; put it in quotes"


@each_version
def test_a_rule_that_is_closed_keeps_its_name(version: TierKind) -> None:
    rule = version.rule("Deny", {"name": "friends", "to": [{}]})
    assert (rule.name, rule.action, rule.peers, rule.ports) == ("friends", "deny", (), ())


UNKNOWN_ACTIONS: dict[str, tuple[TierKind, Any, str]] = {
    "Log": (ANP, "Log", ".action 'Log': is not an action here; write Allow, Deny or Pass"),
    "v1alpha2's Accept in v1alpha1": (ANP, "Accept", ".action 'Accept': is not an action here; write Allow, Deny or P"),
    "small letters": (ANP, "allow", ".action 'allow': is not an action here"),
    "none": (ANP, None, ".action: is missing; write Allow, Deny or Pass"),
    "a list": (ANP, ["Allow"], ".action: is not an action here"),
    "Pass in the BANP": (BANP, "Pass", ".action 'Pass': is not an action here; write Allow or Deny"),
    "Accept in the BANP": (BANP, "Accept", ".action 'Accept': is not an action here; write Allow or Deny"),
    "v1alpha1's Allow in v1alpha2": (CNP, "Allow", ".action 'Allow': is not an action here; write Acc"),
}


@pytest.mark.parametrize(("version", "action", "message"), UNKNOWN_ACTIONS.values(), ids=UNKNOWN_ACTIONS)
def test_a_rule_whose_action_is_not_known_denies_everything(version: TierKind, action: str, message: str) -> None:
    rule = version.rule(action)
    assert rule == TierRule("deny", problem=rule.problem)
    assert message in str(rule.problem)


@each_kind
@pytest.mark.parametrize(
    "rule", [None, {}, "Allow", ["Allow"], 5], ids=["null", "an empty mapping", "text", "a list", "a number"]
)
def test_a_rule_that_is_no_rule_denies_everything(read: Read, rule: object) -> None:
    found = read(ingress=[rule])
    assert found.problem is None
    assert found.ingress == (TierRule("deny", problem=found.problems[0]),)
