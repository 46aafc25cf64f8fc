"""Random clusters, policies and flows: few names and few addresses, so that things meet often.

Policies are documents, as people write them, and go through the decoder: some break the API's rules, and fail closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hypothesis import strategies as st

from nfagent.cluster.address import Family, family_of, parse_cidr
from nfagent.cluster.model import (
    ContainerPort,
    Labels,
    LoggingSwitch,
    Namespace,
    NetworkLogging,
    Node,
    Pod,
    Ref,
)
from nfagent.egress.ip_masq import IpMasqConfig
from nfagent.policy.decode import decode_network_policy
from nfagent.policy.evaluate import Flow
from nfagent.policy.model import NetworkPolicy
from nfagent.ruleset.desired import Desired, Item
from tests.scene import NODE_ADDRESSES, NODES, OUTSIDE

Document = dict[str, Any]

NAMESPACES = ("data", "ops", "shop")
KEYS = ("app", "tier")
VALUES = ("db", "web")
PORT_NAMES = ("dns", "http", "sig")

NODE_CIDRS = {"a": ("10.64.0.0/29", "2001:db8:0:a::/64"), "b": ("10.64.1.0/29", "2001:db8:0:b::/64")}
_PREFIXES = {"a": ("10.64.0.", "2001:db8:0:a::"), "b": ("10.64.1.", "2001:db8:0:b::")}
_ADDRESSES_PER_NODE = 6

LABEL_SETS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2)


def _labels(pairs: dict[str, str]) -> Labels:
    return tuple(sorted(pairs.items()))


@st.composite
def namespaces(draw: st.DrawFn) -> Namespace:
    name = draw(st.sampled_from(NAMESPACES))
    return Namespace(name, _labels({**draw(LABEL_SETS), "kubernetes.io/metadata.name": name}))


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    name = draw(st.sampled_from(NODES))
    cidrs = tuple(map(parse_cidr, NODE_CIDRS[name])) if draw(st.booleans()) else ()
    return Node(name, pod_cidrs=cidrs, addresses=NODE_ADDRESSES[name])


PORTS = st.sampled_from(
    [
        ContainerPort("http", 80, "tcp"),
        ContainerPort("http", 8080, "tcp"),
        ContainerPort("http", 80, "udp"),
        ContainerPort("dns", 53, "udp"),
        ContainerPort("dns", 53, "tcp"),
        ContainerPort("sig", 99, "sctp"),
    ]
)


@st.composite
def pods(draw: st.DrawFn, *, shared_addresses: bool = True) -> Pod:
    """Draw a Pod. Where addresses aren't shared, its own follow from its name."""
    number = draw(st.integers(1, _ADDRESSES_PER_NODE))
    node = draw(st.sampled_from(NODES))
    host_network = draw(st.sampled_from([False] * 9 + [True]))
    own = draw(st.integers(1, _ADDRESSES_PER_NODE)) if shared_addresses else number
    both = NODE_ADDRESSES[node] if host_network else tuple(f"{prefix}{own}" for prefix in _PREFIXES[node])
    kept = draw(st.sampled_from([both, both, both, both[:1], both[1:], ()]))
    return Pod(
        namespace=draw(st.sampled_from(NAMESPACES)),
        name=f"p{number}" if shared_addresses else f"p{number}-{node}",
        labels=_labels(draw(LABEL_SETS)),
        node=node,
        addresses=kept,
        host_network=host_network,
        phase=draw(st.sampled_from(["Running"] * 6 + ["Pending", "Succeeded", "Failed", "Unknown"])),
        ports=tuple(draw(st.lists(PORTS, max_size=3, unique=True))),
    )


REQUIREMENTS = st.fixed_dictionaries(
    {
        "key": st.sampled_from(KEYS),
        "operator": st.sampled_from(["In", "NotIn"]),
        "values": st.lists(st.sampled_from((*VALUES, "")), min_size=1, max_size=2),
    }
) | st.fixed_dictionaries(
    {"key": st.sampled_from(KEYS), "operator": st.sampled_from(["Exists", "DoesNotExist", "Exists", "Like"])}
)
SELECTORS: st.SearchStrategy[Document] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"matchLabels": LABEL_SETS}),
    st.fixed_dictionaries({"matchExpressions": st.lists(REQUIREMENTS, max_size=2)}),
)
NAMESPACE_SELECTORS = SELECTORS | st.sampled_from(NAMESPACES).map(
    lambda name: {"matchLabels": {"kubernetes.io/metadata.name": name}}
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
        {"cidr": "10.64.0.0/24", "except": ["10.65.0.0/24"]},
    ]
)
PEERS: st.SearchStrategy[Document] = st.one_of(
    st.fixed_dictionaries({"podSelector": SELECTORS}),
    st.fixed_dictionaries({"namespaceSelector": NAMESPACE_SELECTORS}),
    st.fixed_dictionaries({"podSelector": SELECTORS, "namespaceSelector": NAMESPACE_SELECTORS}),
    st.fixed_dictionaries({"ipBlock": BLOCKS}),
)
_PROTOCOLS = st.sampled_from(["TCP", "UDP", "SCTP"])
POLICY_PORTS: st.SearchStrategy[Document] = st.one_of(
    st.fixed_dictionaries({"port": st.sampled_from([53, 80, 99, 8080])}, optional={"protocol": _PROTOCOLS}),
    st.fixed_dictionaries({"protocol": _PROTOCOLS}),
    st.fixed_dictionaries({"port": st.sampled_from([*PORT_NAMES, "none"])}, optional={"protocol": _PROTOCOLS}),
    st.fixed_dictionaries(
        {"port": st.sampled_from([1, 79, 80, 100]), "endPort": st.sampled_from([80, 99, 8080, 65535])},
        optional={"protocol": _PROTOCOLS},
    ),
)


def _rule_lists(peers: str) -> st.SearchStrategy[list[Document]]:
    rule = st.fixed_dictionaries(
        {}, optional={peers: st.lists(PEERS, max_size=3), "ports": st.lists(POLICY_PORTS, max_size=3)}
    )
    return st.lists(rule, max_size=2)


SPECS: st.SearchStrategy[Document] = st.fixed_dictionaries(
    {"podSelector": SELECTORS},
    optional={
        "policyTypes": st.lists(st.sampled_from(["Ingress", "Egress"]), unique=True),
        "ingress": _rule_lists("from"),
        "egress": _rule_lists("to"),
    },
)


@st.composite
def policy_documents(draw: st.DrawFn) -> Document:
    namespace, name = draw(st.sampled_from(NAMESPACES)), f"np{draw(st.integers(1, 3))}"
    return {"kind": "NetworkPolicy", "metadata": {"namespace": namespace, "name": name}, "spec": draw(SPECS)}


def policies() -> st.SearchStrategy[NetworkPolicy]:
    return policy_documents().map(decode_network_policy)


SWITCHES = st.builds(LoggingSwitch, log=st.booleans())
LOGGING = st.builds(NetworkLogging, allow=SWITCHES, deny=SWITCHES)
MASQUERADE = st.builds(
    IpMasqConfig,
    cidrs=st.none()
    | st.lists(
        st.sampled_from(["10.0.0.0/8", "10.64.0.0/16", "203.0.113.0/24", "2000::/3", "0.0.0.0/0"]).map(parse_cidr),
        max_size=3,
    ).map(tuple),
    link_local=st.tuples(st.booleans(), st.booleans()),
)


def items(*, shared_addresses: bool = True) -> st.SearchStrategy[Item]:
    """Draw one object of any kind."""
    pod = pods(shared_addresses=shared_addresses)
    return st.one_of(pod, pod, pod, policies(), policies(), namespaces(), nodes(), LOGGING, MASQUERADE)


@st.composite
def worlds(draw: st.DrawFn, *, shared_addresses: bool = True) -> list[Item]:
    """Draw all objects of a cluster, in the order that they come in."""
    found: list[Item] = [*draw(st.lists(namespaces(), max_size=3)), *draw(st.lists(nodes(), max_size=2))]
    found += draw(st.lists(pods(shared_addresses=shared_addresses), min_size=1, max_size=8))
    found += draw(st.lists(policies(), min_size=1, max_size=4))
    found += draw(st.lists(LOGGING | MASQUERADE, max_size=2))
    return found


def desired(node: str, world: Iterable[Item]) -> Desired:
    """Take a world in, seen from a node."""
    made = Desired(node)
    for item in world:
        made.put(item)
    return made


_NAMES: tuple[tuple[str, ...], ...] = (NAMESPACES, tuple(f"p{number}" for number in range(1, _ADDRESSES_PER_NODE + 1)))
REFS = st.one_of(
    st.builds(Ref, st.just("Pod"), st.sampled_from(_NAMES[0]), st.sampled_from(_NAMES[1])),
    st.builds(Ref, st.just("Namespace"), st.just(""), st.sampled_from(NAMESPACES)),
    st.builds(Ref, st.just("Node"), st.just(""), st.sampled_from(NODES)),
    st.builds(Ref, st.just("NetworkPolicy"), st.sampled_from(NAMESPACES), st.sampled_from(["np1", "np2", "np3"])),
    st.just(Ref("ConfigMap", "kube-system", "ip-masq-agent")),
    st.just(Ref("NetworkLogging", "", "default")),
)
EVENTS: st.SearchStrategy[Item | Ref] = st.one_of(items(), items(), items(), REFS)
"""An object that comes or changes, or the name of one that goes."""

PROTOCOLS = st.sampled_from(
    [
        ("tcp", 80),
        ("tcp", 8080),
        ("tcp", 53),
        ("tcp", 1),
        ("udp", 53),
        ("udp", 80),
        ("sctp", 99),
        ("icmp", None),
        ("47", None),
    ]
)


def flows(addresses: Iterable[str], protocol: str, port: int | None) -> Iterator[Flow]:
    """Give every flow of a protocol between two of the addresses; icmp is icmpv6 between IPv6 ones."""
    known = sorted({*addresses, *OUTSIDE, *(address for both in NODE_ADDRESSES.values() for address in both)})
    families: tuple[Family, Family] = (4, 6)
    for family in families:
        ends = [address for address in known if family_of(address) == family]
        spelt = "icmpv6" if (family, protocol) == (6, "icmp") else protocol
        yield from (Flow(source, to, spelt, port) for source in ends for to in ends if source != to)
