"""The part of a node's state that a request is about: a namespace, a Pod, or all."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.errors import UsageError
from nfagent.introspection.freshness import Freshness
from nfagent.model.objects import Pod
from nfagent.nftables.objects import TABLE_FLAGS, Chain, Rule, Ruleset
from nfagent.nftables.render import rule_text
from nfagent.state.pod_lookup import close_names, find_pod

_ELSEWHERE = "rules and counters of a Pod are known on its own node only; run the command there"
_NODES_NAMED = 3
_RULES_A_STEP = 256
_SET, _QUOTED = re.compile(r"@(\S+) "), re.compile(r'"([^"]*)"')
_OF_THIS_KERNEL = {"ruleset", "kernel", "counters"}
"""Views of this node's kernel, which have nothing about other nodes' Pods."""


class ViewFilter(msgspec.Struct, frozen=True):
    """A request for a namespace, one Pod as NAMESPACE/POD, or all.

    form: of a ruleset, the form to return: text, nft or objects; '' for all. Of the state, `summary` leaves out the
          lists of Nodes and Pods
    pods: of the state, `here` lists this node's Pods alone, where the node is known
    """

    namespace: str = ""
    pod: str = ""
    form: str = ""
    pods: str = ""

    @property
    def words(self) -> str:
        """Return its name: `Pod shop/web`, `Pods of namespace shop`; '' for all."""
        return f"Pod {self.pod}" if self.pod else f"Pods of namespace {self.namespace}" if self.namespace else ""


def check_scope(desired: DesiredState, view: str, scope: ViewFilter, freshness: Freshness) -> None:
    """Check that a view can be made for this part. Raises UsageError, with what is known and what to do next."""
    if freshness.unknown and view not in {"state", "policies"} and (view != "kernel" or scope.words):
        known = "; `nfagent dump kernel` shows what is in force" if view != "kernel" else ""
        raise UsageError(f"dump {view} can't answer yet: {freshness.unknown}{known}")
    if not scope.words:
        return
    if view == "diff":
        raise UsageError("diff compares the whole table, not a part of it; omit -n and --pod")
    try:
        _check_exists(desired, scope)
    except UsageError as error:
        # It may exist, and only be unread.
        what = f"Pod {scope.pod}" if scope.pod else f"namespace {scope.namespace}"
        raise UsageError(f"{what} isn't known yet: {freshness.unknown}" if freshness.unknown else str(error)) from None
    if view in _OF_THIS_KERNEL:
        _check_here(desired, scope)


def _check_exists(desired: DesiredState, scope: ViewFilter) -> None:
    if scope.pod:
        pod = find_pod(desired.cluster, scope.pod)
        if scope.namespace not in {"", pod.namespace}:
            raise UsageError(f"Pod {scope.pod} isn't in namespace {scope.namespace}; give either -n or --pod")
    elif not _knows(desired, scope.namespace):
        known = {*desired.cluster.namespaces, *desired.cluster.by_namespace}
        near = close_names(scope.namespace, known)
        hint = f"did you mean {' or '.join(near)}?" if near else "`nfagent dump state` lists all Pods"
        raise UsageError(
            f"there is no namespace {scope.namespace} here: no Namespace of that name, and neither a Pod nor a policy "
            f"in it; {hint}"
        )


def _knows(desired: DesiredState, namespace: str) -> bool:
    """Return whether a Namespace of that name, or an object in it, is known."""
    cluster = desired.cluster
    return (
        namespace in cluster.namespaces
        or namespace in cluster.by_namespace
        or bool(desired.index.in_namespace(namespace))
        or any(ref.namespace == namespace for ref in (*desired.egress.gateways, *cluster.services))
    )


def _check_here(desired: DesiredState, scope: ViewFilter) -> None:
    """Check that a Pod, or one of the namespace, is on this node. Raises UsageError."""
    here = desired.cluster.node
    if scope.pod:
        pod = find_pod(desired.cluster, scope.pod)
        if pod.node != here:
            raise UsageError(f"{other_node_text(pod)}: {_ELSEWHERE}")
        return
    members = (desired.cluster.members[one] for one in desired.cluster.by_namespace.get(scope.namespace, ()))
    nodes = {pod.node for pods in members for pod in pods.values()}
    if nodes and here not in nodes:
        named = ", ".join(sorted(nodes - {""})[:_NODES_NAMED]) or "no node yet"
        raise UsageError(f"no Pod of namespace {scope.namespace} is on this node, {here}: {_ELSEWHERE} ({named})")


def other_node_text(pod: Pod) -> str:
    """Return the node of a Pod that isn't on this one."""
    return f"Pod {pod.ref.path} is on node {pod.node}" if pod.node else f"Pod {pod.ref.path} is on no node yet"


def why_no_policy_applies(pod: Pod) -> str:
    """Return why policies never apply to a Pod; '' where they may."""
    if pod.host_network:
        return f"Pod {pod.ref.path} uses its node's network and addresses: no policy applies to it"
    return f"Pod {pod.ref.path} has ended ({pod.phase}): no policy applies to it" if pod.has_ended else ""


def pods_in(desired: DesiredState, scope: ViewFilter) -> list[Pod]:
    """Return the Pods of a scope, in no order. Raises UsageError for a Pod that doesn't exist."""
    cluster = desired.cluster
    if scope.pod:
        return [find_pod(cluster, scope.pod)]
    if not scope.namespace:
        return list(cluster.pods.values())
    return [pod for one in cluster.by_namespace.get(scope.namespace, ()) for pod in cluster.members[one].values()]


def local_addresses(desired: DesiredState, scope: ViewFilter) -> set[str]:
    """Return the addresses of a scope's Pods on this node, also those that two Pods share."""
    local = desired.cluster.local
    pods = pods_in(desired, scope) if scope.words else local.values()
    wanted = [pod for pod in pods if (pod.namespace, pod.name) in local and pod.holds_addresses]
    return {address for pod in wanted for address in pod.addresses}


def scoped(desired: DesiredState, ruleset: Ruleset, scope: ViewFilter) -> Ruleset:
    """Return the part of a ruleset for a Pod, or a namespace's Pods: map elements, chains, the sets in use."""
    steps = scoping(desired, ruleset, scope)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        kept: Ruleset = end.value
        return kept


def scoping(desired: DesiredState, ruleset: Ruleset, scope: ViewFilter) -> Generator[None, None, Ruleset]:
    """Return the same in steps: a chain may have 100,000s of rules."""
    if not (scope.pod or scope.namespace):
        return ruleset
    mine = local_addresses(desired, scope)
    maps = {
        name: msgspec.structs.replace(item, elements={a: c for a, c in item.elements.items() if a in mine})
        for name, item in ruleset.maps.items()
    }
    wanted = {chain for item in maps.values() for chain in item.elements.values()}
    unread, sets, quoted = list(wanted), set[str](), set[str]()
    while unread:
        for part in _parts(ruleset.chains.get(unread.pop(), Chain()).rules):
            text = "\n".join(map(rule_text, part))
            sets.update(_SET.findall(text))
            quoted.update(_QUOTED.findall(text))
            fresh = _targets(part) - wanted
            wanted |= fresh
            unread += fresh
            yield
    chains = {name: chain for name, chain in ruleset.chains.items() if name in wanted}
    return Ruleset(
        sets={name: item for name, item in ruleset.sets.items() if name in sets},
        maps={name: item for name, item in maps.items() if item.elements},
        chains=chains,
        counters=ruleset.counters & quoted,
        exists=ruleset.exists,
        foreign=ruleset.foreign & {TABLE_FLAGS},
    )


def _parts(rules: tuple[Rule, ...]) -> Iterator[tuple[Rule, ...]]:
    return (rules[start : start + _RULES_A_STEP] for start in range(0, len(rules), _RULES_A_STEP))


def _targets(rules: Iterable[Rule]) -> set[str]:
    return {target for rule in rules if isinstance(target := getattr(rule.verdict, "chain", None), str)}
