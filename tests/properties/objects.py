"""Random objects: few names and few addresses, so that they interact often.

Policies are documents, as people write them, and go through the decoder: some break the API's rules, and fail closed.
"""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

from hypothesis import strategies as st

from nfagent.decode.networkpolicy import decode_network_policy
from nfagent.model.egress_nat import EgressAction, EgressNATPolicy, EgressSource, NetworkGatewayGroup
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.netaddr import parse_cidr
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import (
    METADATA_NAME,
    ContainerPort,
    Labels,
    LoggingSwitch,
    Namespace,
    NetworkLogging,
    Node,
    ObjectRef,
    Pod,
    ServiceCIDR,
)
from nfagent.model.selectors import Requirement, Selector
from tests.support.two_node_cluster import NODE_ADDRESSES, NODES

Document = dict[str, Any]

NAMESPACES = ("data", "ops", "shop")
_MOSTLY_SHOP = ["shop", "shop", "shop", "ops", "data"]
KEYS = ("app", "tier")
VALUES = ("db", "web")
PORT_NAMES = ("dns", "http", "sig")

NODE_CIDRS = {"a": ("10.64.0.0/28", "2001:db8:0:a::/64"), "b": ("10.64.1.0/28", "2001:db8:0:b::/64")}
_PREFIXES = {"a": ("10.64.0.", "2001:db8:0:a::"), "b": ("10.64.1.", "2001:db8:0:b::")}
_ADDRESSES_PER_NODE = 6

# Small spaces are enumerated and sampled: ten times as fast as drawing their parts.
_EACH_KEY: list[list[dict[str, str]]] = [[{}, *({key: value} for value in VALUES)] for key in KEYS]
_LABEL_SETS = sorted(({**app, **tier} for app, tier in product(*_EACH_KEY)), key=len)
LABEL_SETS = st.sampled_from(_LABEL_SETS).map(dict)
SOME_LABELS = st.sampled_from([labels for labels in _LABEL_SETS if len(labels) == 1]).map(dict)


LABELS: st.SearchStrategy[Labels] = LABEL_SETS.map(lambda pairs: tuple(sorted(pairs.items())))


_AUDITED = st.sampled_from([False, False, False, True])


@st.composite
def namespaces(draw: st.DrawFn, name: str = "") -> Namespace:
    """Draw a Namespace, of that name or of any."""
    drawn = name or draw(st.sampled_from(NAMESPACES))
    labels = tuple(sorted([*draw(LABELS), (METADATA_NAME, drawn)]))
    return Namespace(drawn, labels, audits_policies=draw(_AUDITED))


@st.composite
def nodes(draw: st.DrawFn, name: str = "") -> Node:
    """Draw a Node, of that name or of any, with most of its addresses."""
    drawn = name or draw(st.sampled_from(NODES))
    cidrs = tuple(map(parse_cidr, NODE_CIDRS[drawn])) if draw(st.booleans()) else ()
    both = NODE_ADDRESSES[drawn]
    held = draw(st.sampled_from([both, both, both[:1], both[1:]]))
    return Node(drawn, draw(LABELS), cidrs, held, ready=draw(st.sampled_from([True, True, True, False])))


_PORTS = (
    ContainerPort("http", 80, "tcp"),
    ContainerPort("http", 8080, "tcp"),
    ContainerPort("http", 80, "udp"),
    ContainerPort("dns", 53, "udp"),
    ContainerPort("dns", 53, "tcp"),
    ContainerPort("sig", 99, "sctp"),
)
_DECLARED = [(), *combinations(_PORTS, 1), *combinations(_PORTS, 2), *combinations(_PORTS, 3)]
# Weighted by repeating: no port, or one, is what most Pods declare.
PORTS = st.sampled_from([*_DECLARED[:1] * 12, *_DECLARED[:7] * 2, *_DECLARED])
_PLACES = list(product(_MOSTLY_SHOP, NODES, range(1, _ADDRESSES_PER_NODE + 1)))
_PHASES = ["Running"] * 6 + ["Pending", "Succeeded", "Failed", "Unknown"]
_BOTH, _FIRST, _SECOND, _NONE = slice(2), slice(1), slice(1, 2), slice(0)
_CONDITIONS = list(product([False] * 9 + [True], _PHASES, [_BOTH, _BOTH, _BOTH, _FIRST, _SECOND, _NONE]))

_DELETING = st.sampled_from([False, False, False, True])


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    namespace, node, own = draw(st.sampled_from(_PLACES))
    host_network, phase, kept = draw(st.sampled_from(_CONDITIONS))
    both = NODE_ADDRESSES[node] if host_network else tuple(f"{prefix}{own}" for prefix in _PREFIXES[node])
    return Pod(
        namespace=namespace,
        name=f"p{draw(st.integers(1, _ADDRESSES_PER_NODE))}",
        labels=draw(LABELS),
        node=node,
        addresses=both[kept],
        host_network=host_network,
        phase=phase,
        ports=draw(PORTS),
        deleting=draw(_DELETING),
    )


_LISTED: list[list[str]] = [list(some) for size in (1, 2) for some in product((*VALUES, ""), repeat=size)]
_REQUIREMENTS: list[Document] = [
    *({"key": key, "operator": operator} for operator in ("Exists", "DoesNotExist") for key in KEYS),
    *({"key": k, "operator": o, "values": v} for v, o, k in product(_LISTED, ("In", "NotIn"), KEYS)),
]
SELECTORS: st.SearchStrategy[Document] = st.one_of(
    *[st.just({})] * 3,
    st.sampled_from([{"matchLabels": labels} for labels in _LABEL_SETS]),
    st.sampled_from([{"matchExpressions": [requirement]} for requirement in _REQUIREMENTS]),
    st.sampled_from([{"matchExpressions": list(two)} for two in product(_REQUIREMENTS, _REQUIREMENTS)]),
)
NAMESPACE_SELECTORS = (
    SELECTORS
    | st.fixed_dictionaries({"matchLabels": SOME_LABELS})
    | st.sampled_from(NAMESPACES).map(lambda name: {"matchLabels": {METADATA_NAME: name}})
)
BLOCKS = st.sampled_from(
    [
        {"cidr": "0.0.0.0/0"},
        {"cidr": "::/0"},
        {"cidr": "0.0.0.0/0", "except": ["10.64.0.0/30", "203.0.113.0/24"]},
        {"cidr": "10.64.0.0/16", "except": ["10.64.0.2/31", "10.64.0.3/32"]},
        {"cidr": "10.64.0.2/31"},
        {"cidr": "10.64.1.5/29"},
        {"cidr": "192.168.0.0/24", "except": ["192.168.0.0/24"]},
        {"cidr": "203.0.113.7/32"},
        {"cidr": "2001:db8::/32", "except": ["2001:db8:0:a::/64"]},
        {"cidr": "2001:db8:0:a::2/127"},
    ]
)
PEERS: st.SearchStrategy[Document] = st.one_of(
    st.fixed_dictionaries({"podSelector": SELECTORS}),
    st.fixed_dictionaries({"namespaceSelector": NAMESPACE_SELECTORS}),
    st.fixed_dictionaries({"podSelector": SELECTORS, "namespaceSelector": NAMESPACE_SELECTORS}),
    st.fixed_dictionaries({"ipBlock": BLOCKS}),
    st.fixed_dictionaries({"ipBlock": BLOCKS}),
)
_PROTOCOLS: list[Document] = [{}, *({"protocol": name} for name in ("TCP", "UDP", "SCTP"))]
_NUMBERS: list[Document] = [{"port": port} for port in (53, 80, 99, 8080)]
_NAMED: list[Document] = [{"port": name} for name in (*PORT_NAMES, "none")]
_SPANS: list[Document] = [
    {"port": first, "endPort": last} for first in (1, 79, 80, 100) for last in (80, 99, 8080, 65535)
]
# As many of each kind: numbers, names, protocols alone, ranges.
_KINDS_OF_PORTS: list[list[Document]] = [_NUMBERS * 4, _NAMED * 4, _SPANS]
POLICY_PORTS: st.SearchStrategy[Document] = st.sampled_from(
    [port | protocol for ports in _KINDS_OF_PORTS for port, protocol in product(ports, _PROTOCOLS)]
    + _PROTOCOLS[1:] * 21
)


SPREAD_PORTS = [port for port in range(1, 100) if port not in {53, 80, 99}][::9]
"""Numbers that nothing listens on, with gaps between them."""
_BESIDE: list[list[Document]] = [[], *([{"port": port}] for port in ("http", "dns", 80)), [{"port": 79, "endPort": 99}]]
MANY_PORTS: st.SearchStrategy[list[Document]] = st.sampled_from(
    [
        [{"port": port} | protocol for port in (*SPREAD_PORTS, *meant)] + beside
        for meant in ([], [80], [53, 99], [8080, 80])
        for protocol in _PROTOCOLS
        for beside in _BESIDE
    ]
)


def _rule_lists(peers: str) -> st.SearchStrategy[list[Document]]:
    some = st.lists(PEERS, min_size=1, max_size=2)
    rules = st.one_of(
        st.fixed_dictionaries({peers: st.lists(PEERS, min_size=1, max_size=4), "ports": MANY_PORTS}),
        st.fixed_dictionaries({peers: some}),
        st.fixed_dictionaries({peers: some, "ports": st.lists(POLICY_PORTS, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"ports": st.lists(POLICY_PORTS, min_size=1, max_size=3)}),
        st.sampled_from([{}, {peers: []}, {"ports": []}]),
    )
    return st.lists(rules, min_size=1, max_size=2) | st.lists(rules, max_size=1)


TYPES = st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"], ["Ingress", "Egress"]])
SPECS: st.SearchStrategy[Document] = st.one_of(
    st.fixed_dictionaries(
        {
            "podSelector": st.just({}) | SELECTORS,
            "policyTypes": TYPES,
            "ingress": _rule_lists("from"),
            "egress": _rule_lists("to"),
        }
    ),
    st.fixed_dictionaries(
        {"podSelector": SELECTORS},
        optional={"policyTypes": TYPES, "ingress": _rule_lists("from"), "egress": _rule_lists("to")},
    ),
)
FLAWS: st.SearchStrategy[Document] = st.sampled_from(
    [
        {"podSelector": {"matchExpressions": [{"key": "app", "operator": "Like"}]}},
        {"policyTypes": ["Inwards"]},
        {"ingress": [{}, {"from": [{"ipBlock": {"cidr": "10.64.0.0/24", "except": ["10.65.0.0/24"]}}]}]},
        {"egress": [{"ports": [{"port": 80, "endPort": 79}]}]},
    ]
)


@st.composite
def policy_documents(draw: st.DrawFn) -> Document:
    """Draw a policy; one in ten breaks the API's validation, and fails closed."""
    namespace, name = draw(st.sampled_from(_MOSTLY_SHOP)), f"np{draw(st.integers(1, 3))}"
    flaw = draw(FLAWS) if draw(st.integers(0, 9)) == 9 else {}
    return {"kind": "NetworkPolicy", "metadata": {"namespace": namespace, "name": name}, "spec": draw(SPECS) | flaw}


def policies() -> st.SearchStrategy[NetworkPolicy]:
    return st.builds(annotated, policy_documents(), AUDIT_VALUES).map(decode_network_policy)


AUDIT_VALUES = st.sampled_from([None, None, None, "true", "true", "false"])


def annotated(document: Document, audit: str | None) -> Document:
    annotations = {"annotations": {"nfagent.io/audit": audit}} if audit is not None else {}
    return document | {"metadata": document["metadata"] | annotations}


SWITCHES = st.builds(LoggingSwitch, log=st.booleans())
LOGGING = st.builds(NetworkLogging, allow=SWITCHES, deny=SWITCHES)
_RANGES = st.sampled_from(["10.0.0.0/8", "10.64.0.0/16", "203.0.113.0/24", "2000::/3", "0.0.0.0/0"]).map(parse_cidr)
CONFIGURED = st.builds(
    IpMasqConfig,
    cidrs=st.none() | st.lists(_RANGES, max_size=3).map(tuple),
    link_local=st.tuples(st.booleans(), st.booleans()),
    translated=st.none() | st.lists(_RANGES, max_size=3).map(tuple),
)
_SELECTORS = st.sampled_from(
    [Selector(), *(Selector((Requirement(key, "In", (value,)),)) for key, value in product(KEYS, VALUES))]
)
_SOURCES = st.builds(EgressSource, _SELECTORS, _SELECTORS)
_GROUPS = [ObjectRef("NetworkGatewayGroup", "kube-system", name) for name in ("gw", "other")]
_OUTCOMES: list[tuple[EgressAction, ObjectRef | None]] = [
    ("NoSNAT", None),
    ("NoSNAT", None),
    ("SNAT", None),
    *(("SNAT", group) for group in _GROUPS),
]


@st.composite
def egress_policies(draw: st.DrawFn) -> EgressNATPolicy:
    """Draw an EgressNATPolicy, of every action and of gateways that may be missing."""
    action, gateway = draw(st.sampled_from(_OUTCOMES))
    return EgressNATPolicy(
        name=draw(st.sampled_from(["default", "more", "other"])),
        action=action,
        destinations=tuple(draw(st.lists(_RANGES, max_size=2))),
        sources=tuple(draw(st.sampled_from([(), ()]) | st.lists(_SOURCES, max_size=2))),
        gateway=gateway,
    )


EGRESS = egress_policies()
# The last one of each family is an address that a Pod may have.
_FLOATING = ["192.0.2.10", "192.0.2.11", "10.64.0.3", "2001:db8:f::1", "2001:db8:f::2", "2001:db8:0:a::3"]
GATEWAYS = st.builds(
    NetworkGatewayGroup,
    st.just("kube-system"),
    st.sampled_from([group.name for group in _GROUPS]),
    st.lists(st.sampled_from(_FLOATING), min_size=1, max_size=3, unique=True).map(tuple),
    _SELECTORS,
)
SERVICE_RANGES = st.builds(ServiceCIDR, st.sampled_from(["one", "two"]), st.lists(_RANGES, max_size=2).map(tuple))
MASQUERADE = CONFIGURED | EGRESS | GATEWAYS | SERVICE_RANGES
