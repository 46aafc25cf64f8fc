"""Random clusters, policies and flows: few names and few addresses, so that things meet often.

Policies are documents, as people write them, and go through the decoder: some break the API's rules, and fail closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
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
MOSTLY_SHOP = st.sampled_from(["shop", "shop", "shop", "ops", "data"])
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
def pods(draw: st.DrawFn) -> Pod:
    number = draw(st.integers(1, _ADDRESSES_PER_NODE))
    node = draw(st.sampled_from(NODES))
    host_network = draw(st.sampled_from([False] * 9 + [True]))
    own = draw(st.integers(1, _ADDRESSES_PER_NODE))
    both = NODE_ADDRESSES[node] if host_network else tuple(f"{prefix}{own}" for prefix in _PREFIXES[node])
    kept = draw(st.sampled_from([both, both, both, both[:1], both[1:], ()]))
    return Pod(
        namespace=draw(MOSTLY_SHOP),
        name=f"p{number}",
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
) | st.fixed_dictionaries({"key": st.sampled_from(KEYS), "operator": st.sampled_from(["Exists", "DoesNotExist"])})
SELECTORS: st.SearchStrategy[Document] = st.one_of(
    st.just({}),
    st.just({}),
    st.fixed_dictionaries({"matchLabels": LABEL_SETS}),
    st.fixed_dictionaries({"matchExpressions": st.lists(REQUIREMENTS, max_size=2)}),
)
SOME_LABELS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), min_size=1, max_size=1)
NAMESPACE_SELECTORS = (
    SELECTORS
    | st.fixed_dictionaries({"matchLabels": SOME_LABELS})
    | st.sampled_from(NAMESPACES).map(lambda name: {"matchLabels": {"kubernetes.io/metadata.name": name}})
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
    some = st.lists(PEERS, min_size=1, max_size=2)
    rules = st.one_of(
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
    namespace, name = draw(MOSTLY_SHOP), f"np{draw(st.integers(1, 3))}"
    flaw = draw(FLAWS) if draw(st.integers(0, 9)) == 9 else {}
    return {"kind": "NetworkPolicy", "metadata": {"namespace": namespace, "name": name}, "spec": draw(SPECS) | flaw}


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


def items() -> st.SearchStrategy[Item]:
    """Draw one object of any kind."""
    return st.one_of(pods(), pods(), pods(), policies(), policies(), namespaces(), nodes(), LOGGING, MASQUERADE)


@st.composite
def worlds(draw: st.DrawFn) -> list[Item]:
    """Draw all objects of a cluster, in the order that they come in."""
    found: list[Item] = [*draw(st.lists(namespaces(), max_size=3)), *draw(st.lists(nodes(), max_size=2))]
    found += draw(st.lists(pods(), min_size=3, max_size=8))
    found += draw(st.lists(policies(), min_size=2, max_size=4))
    found += draw(st.lists(LOGGING | MASQUERADE, max_size=2))
    return found


def desired(node: str, world: Iterable[Item]) -> Desired:
    """Take a world in, seen from a node."""
    made = Desired(node)
    for item in world:
        made.put(item)
    return made


@st.composite
def changed_pods(draw: st.DrawFn, pod: Pod) -> Pod:
    """Draw a Pod that differs from another in one thing, as most updates do."""
    other = draw(pods())
    field = draw(st.sampled_from(["labels", "node", "addresses", "host_network", "phase", "ports"]))
    return msgspec.structs.replace(pod, **{field: getattr(other, field)})


@st.composite
def histories(draw: st.DrawFn) -> list[Item | Ref]:
    """Draw what happens to a cluster: objects come, change, and go (as the Ref of what is gone)."""
    history: list[Item | Ref] = list(draw(worlds()))
    present: dict[Ref, Item] = {item.ref: item for item in history if not isinstance(item, Ref)}
    for _ in range(draw(st.integers(1, 12))):
        found = draw(st.sampled_from(list(present.values()))) if present else None
        happened = draw(st.sampled_from(["comes", "changes", "changes", "goes", "goes", "relabels", "relabels"]))
        if happened == "relabels":
            item: Item = draw(namespaces())
        elif found is None or happened == "comes":
            item = draw(items())
        elif happened == "goes":
            history.append(found.ref)
            del present[found.ref]
            continue
        else:
            item = draw(_changed(found))
        history.append(item)
        present[item.ref] = item
    return history


def _changed(item: Item) -> st.SearchStrategy[Item]:
    match item:
        case Pod():
            return changed_pods(item)
        case Namespace(name):
            own = {"kubernetes.io/metadata.name": name}
            return LABEL_SETS.map(lambda labels: Namespace(name, _labels({**labels, **own})))
        case NetworkPolicy(namespace=namespace, name=name):
            return policies().map(lambda other: msgspec.structs.replace(other, namespace=namespace, name=name))
        case _:
            return items()


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
