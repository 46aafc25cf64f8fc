"""Which part of a node's state somebody asks about, and whether there is such a part here."""

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
from nfagent.state.pod_lookup import close_names, pod_of

_NODES_NAMED = 3
_RULES_A_STEP = 256
_SET, _QUOTED = re.compile(r"@(\S+) "), re.compile(r'"([^"]*)"')
_ENDED = {"Succeeded", "Failed"}
_OF_THIS_KERNEL = {"ruleset", "kernel", "counters"}
"""Views that know what this node's kernel does, and nothing of other nodes'."""


class ViewFilter(msgspec.Struct, frozen=True):
    """Which part is asked for: a namespace, one Pod as NAMESPACE/POD, or all.

    form: of a ruleset, the only form that is wanted: text, nft or objects; all of them for ''. Of the state, `summary`
          leaves the lists of Nodes and Pods out
    """

    namespace: str = ""
    pod: str = ""
    form: str = ""

    @property
    def words(self) -> str:
        """Name it: `Pod shop/web`, `Pods of namespace shop`; '' for all."""
        return f"Pod {self.pod}" if self.pod else f"Pods of namespace {self.namespace}" if self.namespace else ""


def check_scope(desired: DesiredState, view: str, scope: ViewFilter, standing: Freshness) -> None:
    """Refuse what can't be answered for this part. Raises UsageError, which says what is known and what to do next."""
    if standing.unknown and view not in {"state", "policies"} and (view != "kernel" or scope.words):
        known = "; `nfagent dump kernel` shows what is in force" if view != "kernel" else ""
        raise UsageError(f"dump {view} can't answer yet: {standing.unknown}{known}")
    if not scope.words:
        return
    if view == "diff":
        raise UsageError("diff compares the whole table, not a part of it; leave -n and --pod away")
    try:
        _check_exists(desired, scope)
    except UsageError as error:
        # It may well be there, and only be unread.
        what = f"Pod {scope.pod}" if scope.pod else f"namespace {scope.namespace}"
        raise UsageError(f"{what} isn't known yet: {standing.unknown}" if standing.unknown else str(error)) from None
    if view in _OF_THIS_KERNEL:
        _check_here(desired, scope)


def _check_exists(desired: DesiredState, scope: ViewFilter) -> None:
    if scope.pod:
        pod = pod_of(desired.cluster, scope.pod)
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
    """Tell whether a namespace was described, or anything in it."""
    cluster = desired.cluster
    return (
        namespace in cluster.namespaces
        or namespace in cluster.by_namespace
        or bool(desired.index.in_namespace(namespace))
        or any(ref.namespace == namespace for ref in (*desired.egress.gateways, *cluster.services))
    )


def _check_here(desired: DesiredState, scope: ViewFilter) -> None:
    """Refuse what other nodes' kernels hold."""
    here = desired.cluster.node
    if scope.pod:
        pod = pod_of(desired.cluster, scope.pod)
        if pod.node != here:
            raise UsageError(f"{elsewhere(pod)}: its rules and counters are there, and not known here; ask there")
        return
    members = (desired.cluster.members[one] for one in desired.cluster.by_namespace.get(scope.namespace, ()))
    nodes = {pod.node for pods in members for pod in pods.values()}
    if nodes and here not in nodes:
        named = ", ".join(sorted(nodes - {""})[:_NODES_NAMED]) or "no node yet"
        raise UsageError(
            f"no Pod of namespace {scope.namespace} is on this node, {here}: their rules and counters are where they "
            f"are, and not known here; ask there ({named})"
        )


def elsewhere(pod: Pod) -> str:
    """Say where a Pod is that isn't here."""
    return f"Pod {pod.ref.path} is on node {pod.node}" if pod.node else f"Pod {pod.ref.path} is on no node yet"


def unjudged(pod: Pod) -> str:
    """Say why no policy ever judges a Pod; '' where policies may."""
    if pod.host_network:
        return f"Pod {pod.ref.path} has its node's network and addresses, which no policy judges"
    return f"Pod {pod.ref.path} has ended ({pod.phase}): no policy judges it" if pod.phase in _ENDED else ""


def pods_in(desired: DesiredState, scope: ViewFilter) -> list[Pod]:
    """Give the Pods that a scope is about, in no order. Raises UsageError for a Pod that isn't there."""
    cluster = desired.cluster
    if scope.pod:
        return [pod_of(cluster, scope.pod)]
    if not scope.namespace:
        return list(cluster.pods.values())
    return [pod for one in cluster.by_namespace.get(scope.namespace, ()) for pod in cluster.members[one].values()]


def local_addresses(desired: DesiredState, scope: ViewFilter) -> set[str]:
    """Give the addresses that a scope's Pods hold on this node; one that two Pods hold is both's."""
    local = desired.cluster.local
    pods = pods_in(desired, scope) if scope.words else local.values()
    wanted = [pod for pod in pods if (pod.namespace, pod.name) in local and pod.holds_addresses]
    return {address for pod in wanted for address in pod.addresses}


def scoped(desired: DesiredState, ruleset: Ruleset, scope: ViewFilter) -> Ruleset:
    """Keep what concerns a Pod, or a namespace's Pods: their map elements, chains, and the sets these name."""
    steps = scoping(desired, ruleset, scope)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        kept: Ruleset = end.value
        return kept


def scoping(desired: DesiredState, ruleset: Ruleset, scope: ViewFilter) -> Generator[None, None, Ruleset]:
    """Keep the same in steps: a chain may have 100,000s of rules."""
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
