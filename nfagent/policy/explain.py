"""Why a connection is allowed or denied, in words: `evaluate`'s judgement for people.

An end is written as `NAMESPACE/POD` or as an address; the destination may name its port behind a colon:
`shop/db:5432/tcp`, `shop/db:postgres`, `10.0.0.7:53/udp`, `[2001:db8::7]:443`. Without a port, ICMP echo is judged.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, cast

import msgspec

from nfagent.cluster.address import AddressError, canonical, family_of
from nfagent.cluster.model import ContainerPort, Pod
from nfagent.cluster.state import ClusterState
from nfagent.errors import UsageError
from nfagent.policy.evaluate import Flow, Judgement, RuleOutcome, Side, evaluate
from nfagent.policy.index import PolicyIndex

_END = re.compile(
    r"(?P<host>\[[^]]+\]|[^:\[\]]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)(:(?P<port>[^:/]+)(/(?P<protocol>\w+))?)?"
)
_PROTOCOLS = ("tcp", "udp", "sctp")
_PORT_DIGITS = 5
_SUGGESTED = 3


class Explanation(msgspec.Struct, frozen=True):
    """A judgement and the words for it.

    source, destination: the ends in words, `shop/web (10.0.0.1)`
    lines:               what mattered, in order
    """

    flow: Flow
    source: str
    destination: str
    verdict: str
    lines: tuple[str, ...]
    judgement: Judgement

    @property
    def allowed(self) -> bool:
        """Tell the verdict."""
        return self.judgement.allowed


def explain(cluster: ClusterState, index: PolicyIndex, source: str, destination: str) -> Explanation:
    """Judge a connection that a person wrote down. Raises UsageError where an end can't be understood."""
    return explain_flow(cluster, index, read_flow(cluster, source, destination))


def explain_flow(cluster: ClusterState, index: PolicyIndex, flow: Flow) -> Explanation:
    """Judge a flow, and say why."""
    ends = [cluster.holder(address) for address in (flow.source, flow.destination)]
    namespaces = sorted({pod.namespace for pod in ends if pod is not None})
    policies = [policy for namespace in namespaces for policy in index.in_namespace(namespace)]
    judgement = evaluate(cluster, policies, flow)
    source, destination = (_in_words(cluster, address) for address in (flow.source, flow.destination))
    lines = tuple(_lines(judgement, source, destination, index))
    return Explanation(flow, source, destination, "allowed" if judgement.allowed else "denied", lines, judgement)


def explanation_view(found: Explanation) -> dict[str, Any]:
    """Show an explanation with all its fields, as JSON can hold them, and whether the connection is allowed."""
    return {**msgspec.to_builtins(found), "allowed": found.allowed}


def read_flow(cluster: ClusterState, source: str, destination: str) -> Flow:
    """Read the two ends as people write them. Raises UsageError."""
    from_host, from_port, _ = _split(source)
    to_host, port, protocol = _split(destination)
    if from_port:
        raise UsageError(f"{source!r}: the source has no port; write it behind the destination, as in shop/db:5432/tcp")
    sources, destinations = _addresses(cluster, from_host), _addresses(cluster, to_host)
    for here in sources:
        for there in destinations:
            if family_of(here) == family_of(there):
                number = _port(cluster, there, destination, port, protocol)
                echo = "icmpv6" if family_of(there) == 6 else "icmp"
                return Flow(
                    here, there, echo if number is None else protocol or _protocol(cluster, there, port), number
                )
    raise UsageError(f"{source} and {destination} have no address of one family")


def _split(end: str) -> tuple[str, str, str]:
    found = _END.fullmatch(end)
    if found is None:
        raise UsageError(f"{end!r} is neither NAMESPACE/POD nor an address; write one like shop/web, 10.0.0.7:53/udp")
    host = cast("str", found["host"]).strip("[]")
    return host, found["port"] or "", (found["protocol"] or "").lower()


def _addresses(cluster: ClusterState, host: str) -> tuple[str, ...]:
    if "/" not in host:
        try:
            return (canonical(host),)
        except AddressError as error:
            raise UsageError(f"{host!r} {error}; a Pod is written NAMESPACE/POD") from None
    pod = pod_of(cluster, host)
    if not pod.addresses:
        raise UsageError(f"Pod {host} has no address yet")
    if not (pod.holds_addresses or pod.host_network):
        raise UsageError(
            f"Pod {host} has ended ({pod.phase}): its addresses may be another's by now; ask for the address"
        )
    return pod.addresses


def _similar(cluster: ClusterState, namespace: str, name: str) -> str:
    here = sorted(pod for other, pod in cluster.pods if other == namespace)
    near = [f"{namespace}/{pod}" for pod in here if pod.startswith(name)] if name else []
    near += [f"{namespace}/{pod}" for pod in get_close_matches(name, here, n=_SUGGESTED)]
    near += sorted(f"{other}/{pod}" for other, pod in cluster.pods if pod == name)
    if near:
        return f"; did you mean {' or '.join(list(dict.fromkeys(near))[:_SUGGESTED])}?"
    if not here:
        return f", nor any other in namespace {namespace}; `nfagent dump state` lists all Pods"
    return f"; `nfagent dump state -n {namespace}` lists Pods"


def _port(cluster: ClusterState, address: str, end: str, port: str, protocol: str) -> int | None:
    if protocol in {"icmp", "icmpv6"}:
        raise UsageError(f"{end!r}: {protocol} has no port; leave the port away, and ping is judged")
    if protocol and protocol not in _PROTOCOLS:
        raise UsageError(f"{end!r}: {protocol} is not a protocol; write {', '.join(_PROTOCOLS[:-1])} or sctp")
    if not port:
        return None
    if port.isdecimal():
        if len(port) <= _PORT_DIGITS and 1 <= int(port) <= 65535:
            return int(port)
        raise UsageError(f"{end!r}: {port} is not a port number; write 1 to 65535")
    declared = _declared(cluster, address)
    for known in declared:
        if known.name == port and (not protocol or known.protocol == protocol):
            return known.port
    has = f", which has {', '.join(f'{known.name}/{known.protocol}' for known in declared)}" if declared else ""
    spelt = f"{port}/{protocol}" if protocol else port
    raise UsageError(
        f"{end!r}: {spelt} is neither a port number nor the name of a port of {_in_words(cluster, address)}{has}"
    )


def _protocol(cluster: ClusterState, address: str, port: str) -> str:
    """Give the protocol of a port that was written without one: that of the name, or TCP."""
    return next((known.protocol for known in _declared(cluster, address) if known.name == port), "tcp")


def _declared(cluster: ClusterState, address: str) -> tuple[ContainerPort, ...]:
    pod = cluster.holder(address)
    return pod.ports if pod is not None else ()


def _in_words(cluster: ClusterState, address: str) -> str:
    pod = cluster.holder(address)
    if pod is not None:
        return f"{pod.ref.path} ({address})"
    nodes = [node.name for node in cluster.nodes.values() if address in node.addresses]
    return f"node {nodes[0]} ({address})" if nodes else address


def _lines(judgement: Judgement, source: str, destination: str, index: PolicyIndex) -> list[str]:
    lines = []
    for side, end, other in ((judgement.egress, source, "destination"), (judgement.ingress, destination, "source")):
        if side is not None:
            lines += _side_lines(side, end, other, judgement.flow, index)
    if judgement.exempt:
        lines.append(f"not judged: {judgement.exempt}")
    elif not lines:
        lines.append("not judged: neither end is a Pod with an address of its own")
    return lines


def _side_lines(side: Side, end: str, other: str, flow: Flow, index: PolicyIndex) -> list[str]:
    lines = [f"{side.direction} at {end}: {'allowed' if side.allowed else 'denied'}"]
    if not side.isolating:
        return [*lines, f"  no NetworkPolicy isolates it for {side.direction}"]
    for ref in side.isolating:
        lines.append(f"  {ref} isolates {side.direction}")
        outcomes = [rule for rule in side.rules if rule.policy == ref]
        lines += [f"    {_rule_line(rule, other, flow)}" for rule in outcomes]
        problem = index.policies[ref].problem if ref in index.policies else None
        if problem is not None:
            fault = " ".join(part for part in (problem.field, problem.value, problem.reason) if part)
            lines.append(f"    it can't be read, so it allows nothing: {fault}")
        elif not outcomes:
            lines.append(f"    it has no {side.direction} rules, so it allows nothing")
    if not side.allowed:
        lines.append("  no rule allows it")
    return lines


def _rule_line(rule: RuleOutcome, other: str, flow: Flow) -> str:
    way = "from" if other == "source" else "to"
    outcomes = {
        "allow": "matches",
        "peer": f"{other} doesn't match",
        "port": "port doesn't match" if flow.port is not None else f"has ports, and {flow.protocol} has none",
    }
    return f"rule {rule.index + 1} of {rule.total} allows {way} {rule.words}: {outcomes[rule.outcome]}"


def pod_of(cluster: ClusterState, path: str) -> Pod:
    """Find a Pod by `NAMESPACE/POD`. Raises UsageError."""
    namespace, _, name = path.partition("/")
    pod = cluster.pods.get((namespace, name))
    if not (namespace and name) or "/" in name:
        raise UsageError(f"{path!r} is not a Pod's name; write NAMESPACE/POD, a port behind a colon: shop/db:5432/tcp")
    if pod is None:
        raise UsageError(f"there is no Pod {path}{_similar(cluster, namespace, name)}")
    return pod
