"""Admin tier policies and a small cluster, built from the model, with the verdicts of `evaluate`.

Nodes a (role=edge) and b (role=core), Namespaces shop (team=blue) and ops (team=red), Pods shop/web on a, shop/db and
ops/db on b, and shop/agent, a host-network Pod on a that has web's labels.
"""

from __future__ import annotations

from nfagent.model.admin_policy import LAST_PRIORITY, NodePeer, Policy, Tier, TierPeer, TierPolicy, TierRule
from nfagent.model.netaddr import family_of, parse_cidr
from nfagent.model.networkpolicy import IpBlock, PodPeer, PolicyPort, PortProtocol
from nfagent.model.objects import METADATA_NAME, ContainerPort, Namespace, Node, Pod, Protocol
from nfagent.model.selectors import Requirement, Selector
from nfagent.policy.evaluator import DirectionVerdict, Flow, FlowVerdict, evaluate
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterState

ALL = Selector()
OUTSIDE = ("203.0.113.7", "2606:4700::1")
NODES = {"a": ("192.168.0.1", "fd00::1"), "b": ("192.168.0.2", "fd00::2")}


def selecting(**labels: str) -> Selector:
    return Selector(tuple(Requirement(key, "In", (value,)) for key, value in sorted(labels.items())))


def pods(namespaces: Selector = ALL, **labels: str) -> PodPeer:
    """Mean Pods by their labels; in every Namespace, where none are named."""
    return PodPeer(selecting(**labels), namespaces=namespaces)


def nodes(**labels: str) -> NodePeer:
    return NodePeer(selecting(**labels))


def network(cidr: str) -> IpBlock:
    return IpBlock(parse_cidr(cidr))


def numbered(first: int, protocol: Protocol = "tcp", last: int | None = None) -> PolicyPort:
    return PolicyPort(protocol, first, first if last is None else last)


def named(name: str, protocol: PortProtocol = "any") -> PolicyPort:
    return PolicyPort(protocol, name=name)


ALL_PODS = pods()
DB, WEB = pods(app="db"), pods(app="web")


def allow(*peers: TierPeer, ports: tuple[PolicyPort, ...] = (), name: str = "") -> TierRule:
    return TierRule("allow", peers or (ALL_PODS,), ports, name)


def deny(*peers: TierPeer, ports: tuple[PolicyPort, ...] = (), name: str = "") -> TierRule:
    return TierRule("deny", peers or (ALL_PODS,), ports, name)


def leave(*peers: TierPeer) -> TierRule:
    return TierRule("pass", peers or (ALL_PODS,))


def admin(
    name: str,
    priority: int,
    *ingress: TierRule,
    egress: tuple[TierRule, ...] = (),
    subject: PodPeer | None = DB,
) -> TierPolicy:
    """Make an AdminNetworkPolicy."""
    return TierPolicy(
        kind="AdminNetworkPolicy",
        name=name,
        tier="admin",
        priority=priority,
        subject=subject,
        ingress=ingress,
        egress=egress,
    )


def cluster_wide(
    name: str,
    priority: int,
    *ingress: TierRule,
    egress: tuple[TierRule, ...] = (),
    subject: PodPeer | None = DB,
    tier: Tier = "admin",
) -> TierPolicy:
    """Make a ClusterNetworkPolicy."""
    return TierPolicy(
        kind="ClusterNetworkPolicy",
        name=name,
        tier=tier,
        priority=priority,
        subject=subject,
        ingress=ingress,
        egress=egress,
    )


def baseline(
    name: str,
    priority: int,
    *ingress: TierRule,
    egress: tuple[TierRule, ...] = (),
    subject: PodPeer | None = DB,
) -> TierPolicy:
    """Make a ClusterNetworkPolicy of the baseline tier."""
    return cluster_wide(name, priority, *ingress, egress=egress, subject=subject, tier="baseline")


def last(*ingress: TierRule, egress: tuple[TierRule, ...] = (), subject: PodPeer | None = DB) -> TierPolicy:
    """Make the BaselineAdminNetworkPolicy; it has no priority."""
    return TierPolicy(
        kind="BaselineAdminNetworkPolicy",
        name="default",
        tier="baseline",
        priority=LAST_PRIORITY + 1,
        subject=subject,
        ingress=ingress,
        egress=egress,
    )


def pod(path: str, node: str, number: int, *ports: ContainerPort, **labels: str) -> Pod:
    namespace, _, name = path.partition("/")
    addresses = (f"10.64.0.{number}", f"2001:db8::{number}")
    return Pod(namespace, name, tuple(sorted(labels.items())), node, addresses, ports=ports)


def cluster(*more: Pod) -> ClusterState:
    state = ClusterState("a")
    for name, team in (("shop", "blue"), ("ops", "red")):
        state.put(Namespace(name, ((METADATA_NAME, name), ("team", team))))
    for name, role in (("a", "edge"), ("b", "core")):
        state.put(Node(name, (("role", role),), addresses=NODES[name]))
    state.put(pod("shop/web", "a", 10, ContainerPort("http", 8080, "tcp"), app="web"))
    state.put(pod("shop/db", "b", 20, ContainerPort("sql", 5432, "tcp"), ContainerPort("dns", 53, "udp"), app="db"))
    state.put(pod("ops/db", "b", 30, ContainerPort("sql", 3306, "tcp"), app="db"))
    state.put(Pod("shop", "agent", (("app", "web"),), "a", NODES["a"], host_network=True))
    for newcomer in more:
        state.put(newcomer)
    return state


def address(state: ClusterState, end: str, family: int) -> str:
    if "/" in end:
        space, _, name = end.partition("/")
        return next(held for held in state.pods[space, name].addresses if family_of(held) == family)
    return {**NODES, "outside": OUTSIDE}.get(end, (end, end))[family == 6]


def judged(
    *policies: Policy,
    source: str = "shop/web",
    destination: str = "shop/db",
    port: str = "80/tcp",
    family: int = 4,
    translated: bool = False,
    policy_options: PolicyOptions = PolicyOptions(),  # noqa: B008 - immutable
    more: tuple[Pod, ...] = (),
) -> FlowVerdict:
    state = cluster(*more)
    number, slash, protocol = port.rpartition("/")
    ends = address(state, source, family), address(state, destination, family)
    flow = Flow(*ends, protocol, int(number) if slash else None, translated)
    found = evaluate(state, policies, flow, policy_options)
    assert evaluate(state, reversed(policies), flow, policy_options) == found, (
        "the order of the policies' arrival matters"
    )
    return found


def outcome(side: DirectionVerdict | None) -> str:
    """Return the tier that decided, and its verdict: `admin deny`, `default`, or `not judged`."""
    if side is None:
        return "not judged"
    assert side.allowed == (not side.denying)
    if side.decided is None:
        assert (side.allowed, side.allowing) == (True, ())
        return "default"
    assert side.allowed == (side.decided.verdict == "allow") == bool(side.allowing)
    return f"{side.decided.tier} {side.decided.verdict}"
