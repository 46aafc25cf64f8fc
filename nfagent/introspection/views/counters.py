"""`dump counters`: packets and bytes by verdict, direction and policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.introspection.chunks import whole
from nfagent.introspection.freshness import WHOLE, Freshness, ViewHead, head
from nfagent.introspection.view_filter import ViewFilter, local_addresses, why_no_policy_applies
from nfagent.introspection.views.json_value import View
from nfagent.model.objects import Direction
from nfagent.nftables.parse import CounterValue
from nfagent.nftables.verdict_keys import VerdictKey, allowed_by, audit_denied_by, denied_by
from nfagent.policy.compiler import PolicySetKey
from nfagent.state.pod_lookup import find_pod

_DROPS = "drop/"


class CounterView(msgspec.Struct, frozen=True, kw_only=True):
    """One counter of the kernel.

    verdict:  allow, deny, or audit-deny: it passed, and audited policies would deny it
    policies: names of the policies that it counts for, all of one kind and namespace
    """

    verdict: str
    direction: Direction
    kind: str
    namespace: str
    policies: list[str]
    packets: int
    bytes: int


class DropView(msgspec.Struct, frozen=True, kw_only=True):
    """What rules dropped that belong to no policy, since they were made; `name` is the counter's, as `drop/tunnel`."""

    name: str
    packets: int
    bytes: int


class CountersView(ViewHead, frozen=True, kw_only=True):
    """Counters of the policies that select Pods of this node; `nothing` says why there are none.

    drops: of this node, those that have counted; none for one Pod or namespace
    """

    nothing: str
    counters: list[CounterView]
    drops: list[DropView] = msgspec.field(default_factory=list)


def counters_view(
    desired: DesiredState, values: Mapping[str, CounterValue], scope: ViewFilter, freshness: Freshness = WHOLE
) -> View:
    """Return the view as JSON decodes to. Raises UsageError for a Pod that doesn't exist."""
    found: View = whole(counters_parts(desired, values, scope, freshness))
    return found


def counters_parts(
    desired: DesiredState, values: Mapping[str, CounterValue], scope: ViewFilter, freshness: Freshness = WHOLE
) -> CountersView:
    """Return packets and bytes by verdict, direction and policies. Raises UsageError for a Pod that doesn't exist."""
    wanted = {key for address in local_addresses(desired, scope) for key in desired.policy_sets_of(address)}
    keys = sorted({found for key in wanted for found in _verdict_keys(key)}, key=lambda found: found.name)
    counted = [(found, value) for found in keys if (value := values.get(found.name)) is not None]
    missing = sorted({found.name for key in wanted for found in _certain_keys(key)} - values.keys())
    none = "" if wanted else _no_counters(desired, scope)
    if none and freshness.unenforced:
        none = "no counters of the current policies; the kernel has rules of other policies"
    return CountersView(
        **head(freshness, _missing_counters(missing) if missing else "", none=bool(none)),
        nothing="" if counted else none or "no counters in the kernel",
        counters=[
            CounterView(
                verdict=found.disposition,
                direction=found.direction,
                kind=found.policies[0].kind,
                namespace=found.policies[0].namespace,
                policies=[ref.name for ref in found.policies],
                packets=value.packets,
                bytes=value.bytes,
            )
            for found, value in counted
        ],
        drops=[] if scope.pod or scope.namespace else _drops(values),
    )


def _drops(values: Mapping[str, CounterValue]) -> list[DropView]:
    """Return the counters of dropped packets that have counted."""
    return [
        DropView(name=name, packets=value.packets, bytes=value.bytes)
        for name, value in sorted(values.items())
        if name.startswith(_DROPS) and value.packets
    ]


def _certain_keys(key: PolicySetKey) -> Iterator[VerdictKey]:
    """Return the verdicts that a policy set's rules always have a chain for."""
    if not key.policies:
        return
    enforced = tuple(ref for ref in key.policies if ref not in key.audited)
    if enforced:
        yield denied_by(key.direction, enforced)
    else:
        yield audit_denied_by(key.direction, key.policies)


def _missing_counters(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"the kernel doesn't have the counter {names[0]}{more}: these policies aren't in force there; "
        "`nfagent dump diff` shows what is missing"
    )


def _no_counters(desired: DesiredState, scope: ViewFilter) -> str:
    """Return why a scope has no counters: rules are made per address, and a Pod may have none yet."""
    cluster = desired.cluster
    if scope.pod:
        pod = find_pod(cluster, scope.pod)
        none = f"no policy isolates Pod {scope.pod}" if pod.addresses else f"Pod {scope.pod} has no address yet"
        return f"no counters: {why_no_policy_applies(pod) or none}"
    waiting = any(
        not cluster.pods[key].addresses for key in cluster.local if not scope.namespace or key[0] == scope.namespace
    )
    addressed = " that has an address" if waiting else ""
    if scope.namespace:
        return f"no counters: no policy isolates a Pod of namespace {scope.namespace} on this node{addressed}"
    return f"no counters: no policy isolates a Pod of this node{addressed}"


def _verdict_keys(key: PolicySetKey) -> Iterator[VerdictKey]:
    """Return every verdict that the policies of a set may reach, whether or not a rule reaches it."""
    if key.policies:
        yield denied_by(key.direction, key.policies)
    for ref in (*key.admin, *key.baseline):
        yield denied_by(key.direction, (ref,))
    for ref in (*key.admin, *key.policies, *key.baseline):
        yield allowed_by(key.direction, (ref,))
    for enforced in key.enforced:
        yield from _verdict_keys(enforced)
        yield from (audit_denied_by(key.direction, (ref,)) for ref in (*key.admin, *key.baseline))
        if key.policies:
            yield audit_denied_by(key.direction, key.policies)
