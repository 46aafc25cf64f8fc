"""`dump state`: Nodes, Pods, masquerade, logging, and what is wrong with the input."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.errors import ValidationIssue
from nfagent.introspection.chunks import in_steps, whole
from nfagent.introspection.freshness import WHOLE, Freshness, ViewHead, head
from nfagent.introspection.view_filter import ViewFilter, pods_in
from nfagent.introspection.views.json_value import View
from nfagent.introspection.views.policies import PolicyLookup, isolated_by, tier_directions
from nfagent.model.admin_policy import Policy
from nfagent.model.objects import DIRECTIONS, Direction, Node, Pod
from nfagent.model.slices import sort_in_slices


class StateCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of objects in the cluster; `local_pods` are those of this node, `identities` differ in labels."""

    namespaces: int
    nodes: int
    pods: int
    local_pods: int
    identities: int
    policies: int


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A Node: all its IP addresses, and spec.podCIDRs."""

    name: str
    addresses: list[str]
    pod_cidrs: list[str]


class PodView(msgspec.Struct, frozen=True, kw_only=True):
    """A Pod, and the policies that select it.

    isolated: NetworkPolicies that isolate it, as NAMESPACE/NAME, by direction
    tiers:    policies of the admin and baseline tiers with rules for it, as KIND NAME, by direction
    """

    namespace: str
    name: str
    node: str
    local: bool
    addresses: list[str]
    labels: dict[str, str]
    phase: str
    host_network: bool
    isolated: dict[Direction, list[str]]
    tiers: dict[Direction, list[str]]


class ServiceRangeView(msgspec.Struct, frozen=True, kw_only=True):
    """A ServiceCIDR."""

    name: str
    cidrs: list[str]


class MasqueradeView(msgspec.Struct, frozen=True, kw_only=True):
    """Which traffic of Pods leaves with the node's address.

    families: those that are translated, 4 and 6 (an agent that doesn't say so translates both)
    exempt:   destinations that see the Pod's own address
    base:     the object that the list of exempt destinations starts from, '' for the default list
    added:    names of the EgressNATPolicies that come before it for every Pod
    """

    enabled: bool
    families: list[int] = msgspec.field(default_factory=lambda: [4, 6])
    exempt: list[str]
    configured: bool
    base: str
    added: list[str]
    service_ranges: list[ServiceRangeView]


class LoggingView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether allowed and denied connections are logged."""

    allow: bool
    deny: bool


class StateView(ViewHead, frozen=True, kw_only=True):
    """The cluster's objects as the agent decoded them.

    nothing: why no Pod is listed, '' where some are
    known:   whether the cluster has a Node of the name `node`
    elsewhere: Pods of other nodes, where they were left out of `pods`
    """

    nothing: str
    node: str
    known: bool
    counts: StateCounts
    nodes: list[NodeView]
    pods: list[PodView]
    masquerade: MasqueradeView
    logging: LoggingView
    problems: list[ValidationIssue]
    elsewhere: int | msgspec.UnsetType = msgspec.UNSET


def state_view(
    desired: DesiredState, scope: ViewFilter, problems: tuple[ValidationIssue, ...], freshness: Freshness = WHOLE
) -> View:
    """Return the view as JSON decodes to. Raises UsageError for a Pod that doesn't exist."""
    found: View = whole(state_parts(desired, scope, problems, freshness))
    return found


def state_parts(
    desired: DesiredState, scope: ViewFilter, problems: tuple[ValidationIssue, ...], freshness: Freshness = WHOLE
) -> StateView:
    """Return the view, its lists made while they are written. Raises UsageError for a Pod that doesn't exist."""
    cluster = desired.cluster
    summary = scope.form == "summary"
    found = [] if summary else pods_in(desired, scope)
    here = scope.pods == "here" and not scope.pod and cluster.node in cluster.nodes
    wanted = [pod for pod in found if pod.node == cluster.node] if here else found
    policies = PolicyLookup(desired)
    nodes = sort_in_slices([] if summary else list(cluster.nodes.values()), lambda node: node.name)
    pods = sort_in_slices(wanted, lambda pod: (pod.namespace, pod.name))
    return StateView(
        **head(freshness),
        nothing="" if wanted or summary else _nothing(scope, freshness, len(found)),
        node=cluster.node,
        known=cluster.node in cluster.nodes,
        counts=StateCounts(
            namespaces=len(cluster.namespaces),
            nodes=len(cluster.nodes),
            pods=len(cluster.pods),
            local_pods=len(cluster.local),
            identities=len(cluster.members),
            policies=len(desired.index.policies),
        ),
        nodes=in_steps(None if node is None else _node_view(node) for node in nodes),
        pods=in_steps(None if pod is None else _pod_view(desired, pod, policies.of(pod)) for pod in pods),
        masquerade=_masquerade_view(desired),
        logging=LoggingView(allow=desired.logging.allow.log, deny=desired.logging.deny.log),
        problems=in_steps((*problems, *_gateway_problems(desired))),
        elsewhere=len(found) - len(wanted) if here else msgspec.UNSET,
    )


def _nothing(scope: ViewFilter, freshness: Freshness, elsewhere: int) -> str:
    where = " on this node" if elsewhere else ""
    return f"no {scope.words or 'Pods'}{where}{' so far' if freshness.unknown else ''}"


def _gateway_problems(desired: DesiredState) -> Iterator[ValidationIssue]:
    """Yield why addresses of NetworkGatewayGroups are not used."""
    for problem in desired.gateways.problems:
        yield ValidationIssue(
            object=str(problem.group), field="spec.floatingIPs", value=problem.address, reason=problem.reason
        )


def _node_view(node: Node) -> NodeView:
    return NodeView(name=node.name, addresses=list(node.addresses), pod_cidrs=[str(item) for item in node.pod_cidrs])


def _pod_view(desired: DesiredState, pod: Pod, policies: tuple[Policy, ...]) -> PodView:
    return PodView(
        namespace=pod.namespace,
        name=pod.name,
        node=pod.node,
        local=(pod.namespace, pod.name) in desired.cluster.local,
        addresses=list(pod.addresses),
        labels=dict(pod.labels),
        phase=pod.phase,
        host_network=pod.host_network,
        isolated={
            direction: [policy.ref.path for policy in policies if direction in isolated_by(policy)]
            for direction in DIRECTIONS
        },
        tiers={
            direction: [str(policy.ref) for policy in policies if direction in tier_directions(policy)]
            for direction in DIRECTIONS
        },
    )


def _masquerade_view(desired: DesiredState) -> MasqueradeView:
    ranges = sorted(desired.cluster.service_ranges.values(), key=lambda item: item.name)
    return MasqueradeView(
        enabled=bool(desired.masquerade_families),
        families=list(desired.masquerade_families),
        exempt=[str(item) for item in desired.masquerade_exempt],
        configured=desired.egress.base is not None,
        base=str(desired.egress.base or ""),
        added=[policy.name for policy in desired.egress.enforced if not policy.sources],
        service_ranges=[ServiceRangeView(name=item.name, cidrs=list(map(str, item.cidrs))) for item in ranges],
    )
