"""Attribution of a logged packet: its Pods, its verdict and its policies, as a record.

The log prefix names the policies that decided. In admin tiers the first matching rule decides alone; the evaluator
finds its name. Of NetworkPolicies, the evaluator finds every one that allows the same connection. It judges by the
objects as they were when the packet was logged (`history`); the policies of the prefix are named in any case.

A record describes a connection, from client to server. Packets of a connection under re-check are evaluated in both
directions; the prefix marks a denied packet that the server sent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.errors import WireError
from nfagent.model.admin_policy import Policy
from nfagent.model.objects import Direction, ObjectRef, Pod
from nfagent.netlink import packet_header
from nfagent.netlink.nflog import LoggedPacket
from nfagent.netlink.packet_header import PacketHead, decode_head
from nfagent.nftables.verdict_keys import VerdictKey, split_reply_prefix
from nfagent.policy.evaluator import DirectionVerdict, Flow, evaluate_direction
from nfagent.state.cluster import ClusterState
from nfagent.verdicts.history import Holders, ObjectHistory
from nfagent.verdicts.packet_origin import NFTABLES, LogPlaces, PacketOrigins
from nfagent.verdicts.records import LoggedProtocol, PolicyName, Record, RecordConnection, RecordEndpoint, timestamp

_PROTOCOLS: dict[int, LoggedProtocol] = {
    packet_header.TCP: "tcp",
    packet_header.UDP: "udp",
    packet_header.SCTP: "sctp",
    packet_header.ICMP: "icmp",
    packet_header.ICMPV6: "icmpv6",
}
_CACHE_SIZE = 4_096
_OWN_PREFIX = re.compile(r"(allow|deny|audit-deny) (ingress|egress) \S")
"""The beginning of every prefix that `names.log_prefix` writes."""


OTHER_PREFIX = "another prefix"
OTHER_HOOK = "nfagent's prefix in another hook"
OTHER_POD = "nfagent's prefix, of no policies of the packet's Pod"

_Named: TypeAlias = tuple[tuple[PolicyName, ...], int]
"""Policies, and the generation in which they gave the verdict."""


class AttributionCounters(msgspec.Struct):
    """Packets without a record.

    undecodable: the bytes are no IP packet
    unknown:     the prefix is of a rule that was deleted long ago, or the objects of the packet's time aren't known
    foreign:     a rule of another program logged it to the same group: no rule of nfagent's can have
    """

    undecodable: int = 0
    unknown: int = 0
    foreign: int = 0


class LoggedVerdict(msgspec.Struct, frozen=True, gc=False):
    """The verdict that a packet's prefix names, with that prefix, and the packet in the direction client to server.

    is_reply: whether the prefix is that of packets in reply direction
    """

    key: VerdictKey
    prefix: str
    head: PacketHead
    is_reply: bool = False

    @property
    def judged_address(self) -> str:
        """The address of the Pod that the verdict is about."""
        return self.head.source if self.key.direction == "egress" else self.head.destination


class Attributor:
    """Attributes packets by the objects of their time; caches the policies until these objects change."""

    def __init__(
        self, desired: DesiredState, history: ObjectHistory | None = None, places: LogPlaces = NFTABLES
    ) -> None:
        """Use this state and its history, which the caller keeps up to date.

        history: None to judge every packet by the present objects
        places:  where the rules of the backend log
        """
        self._places = places
        self._desired = desired
        self._history = history or ObjectHistory(desired, lambda: 0)
        self._generation = desired.generation
        self._named: dict[tuple[str, Flow, int], _Named] = {}
        self._rules: dict[str, tuple[VerdictKey, str, bool, frozenset[int]]] = {}
        self._origins = PacketOrigins(desired, self._history)
        self.counters = AttributionCounters()
        self.foreign_by: Counter[str] = Counter()

    def attribute(self, logged: LoggedPacket, now_ns: int) -> Record | None:
        """Return the record of one packet; None, and count it, where it can't be attributed.

        now_ns: nanoseconds since the epoch, for packets without a timestamp
        """
        verdict = self.verdict_of(logged)
        return None if verdict is None else self.record(verdict, logged, now_ns)

    def verdict_of(self, logged: LoggedPacket) -> LoggedVerdict | None:
        """Return the verdict of one packet; None, and count it, where it can't be attributed."""
        rule = self.rule_of(logged.prefix)
        if rule is None:
            self._count_unknown(logged.prefix)
            return None
        try:
            head = decode_head(logged.payload)
        except WireError:
            self.counters.undecodable += 1
            return None
        key, prefix, is_reply, hooks = rule
        # An ICMP error about a connection is judged by its own header, whichever way the connection is.
        verdict = LoggedVerdict(key, prefix, head.reversed if is_reply and not head.is_icmp_error else head, is_reply)
        if logged.hook not in hooks:
            self._count_foreign(OTHER_HOOK)
            return None
        is_ours = self._origins.is_ours(key, prefix, verdict.judged_address, logged.timestamp_ns)
        if is_ours is None:
            self.counters.unknown += 1
        elif not is_ours:
            self._count_foreign(OTHER_POD)
        return verdict if is_ours else None

    def _count_unknown(self, prefix: str) -> None:
        if _OWN_PREFIX.match(prefix):
            self.counters.unknown += 1
        else:
            self._count_foreign(OTHER_PREFIX)

    def _count_foreign(self, reason: str) -> None:
        self.counters.foreign += 1
        self.foreign_by[reason] += 1

    def rule_of(self, written: str) -> tuple[VerdictKey, str, bool, frozenset[int]] | None:
        """Return the verdict key of a written prefix, its own prefix, whether the packet is a reply, and its hooks."""
        self._forget_outdated()
        known = self._rules.get(written)
        if known is not None:
            return known
        whole = self._desired.verdicts.whole(written) if self._places.cuts else written
        prefix, is_reply = split_reply_prefix(whole)
        key = self._desired.verdict_key(prefix)
        if key is None:
            return None
        self._rules[written] = (key, prefix, is_reply, self._places.hooks[key.direction])
        return self._rules[written]

    def fits(self, prefix: str, address: str) -> bool:
        """Return whether a prefix is known to be one of the present policies of an address: see `packet_origin`."""
        return self._origins.is_known_present(prefix, address)

    def generation_at(self, timestamp_ns: int | None) -> int:
        """Return the generation that a packet is judged by."""
        return self._history.generation_at(timestamp_ns)

    def holders(self, verdict: LoggedVerdict, generation: int) -> Holders:
        """Return the Pods at both ends of a packet in a generation."""
        return self._history.holders_at(generation, verdict.head.source, verdict.head.destination)

    def _forget_outdated(self) -> None:
        if self._desired.generation != self._generation:
            self._generation = self._desired.generation
            self._named.clear()
            self._rules.clear()
            self._origins.clear()

    def record(self, verdict: LoggedVerdict, logged: LoggedPacket, now_ns: int) -> Record:
        """Return the record of a packet whose verdict is known, by the objects of its time.

        now_ns: nanoseconds since the epoch, for packets without a timestamp
        """
        key, head = verdict.key, verdict.head
        when = timestamp(logged.timestamp_ns if logged.timestamp_ns is not None else now_ns)
        protocol = _PROTOCOLS.get(head.protocol, "unknown")
        here, after = self._history.generations(logged.timestamp_ns)
        name = protocol if protocol != "unknown" else str(head.protocol)
        flow = Flow(head.source, head.destination, name, head.destination_port)
        policies, generation = self._policies(verdict, flow, here, after)
        allowed = key.disposition == "allow"
        source, destination = (self._history.holder_at(generation, end) for end in (head.source, head.destination))
        if key.direction == "egress":
            source = self._judged(source, head.source, key, flow, generation)
        else:
            destination = self._judged(destination, head.destination, key, flow, generation)
        return Record(
            connection=RecordConnection(
                src_ip=head.source,
                dest_ip=head.destination,
                src_port=head.source_port,
                dest_port=head.destination_port,
                protocol=protocol,
                direction=key.direction,
            ),
            disposition=key.disposition,
            policies=policies if allowed else (),
            isolating_policies=() if allowed else policies,
            src=_endpoint(source, head.source),
            dest=_endpoint(destination, head.destination),
            count=1,
            node_name=self._desired.cluster.node,
            timestamp=when,
        )

    def _judged(self, holder: Pod | None, address: str, key: VerdictKey, flow: Flow, generation: int) -> Pod | None:
        """Return the Pod that the verdict is about: of several with its address, the one that the policy selects."""
        if not self._history.is_shared(generation, address):
            return holder
        policies = self._history.policies_at(generation, (key.policies[0].namespace,))
        policy = [item for item in policies if item.ref == key.policies[0]]
        past = self._history.ends_at(generation, (flow.source, flow.destination))
        pods = past.holders(address)
        return next((pod for pod in pods if evaluate_direction(past, policy, flow, pod, key.direction).stages), holder)

    def _policies(self, verdict: LoggedVerdict, flow: Flow, here: int, after: int) -> _Named:
        """Return the policies of a verdict, and its generation: `after` if only that one agrees with the verdict."""
        key = verdict.key
        by_tier = key.policies[0].kind != "NetworkPolicy"
        if not by_tier and key.disposition != "allow":
            return policy_names(key.policies), here  # all that isolate
        known = self._named.get((verdict.prefix, flow, here))
        if known is None:
            known = self._with_rule(key, flow, here, after) if by_tier else self._with_others(key, flow, here, after)
            if len(self._named) >= _CACHE_SIZE:
                self._named.clear()
            self._named[verdict.prefix, flow, here] = known
        return known

    def _with_others(self, key: VerdictKey, flow: Flow, here: int, after: int) -> _Named:
        """Return the NetworkPolicies that allow a flow, in the generation in which those of the key do, and that."""
        certain, generation, found = {*key.policies}, here, self._allowing(key, flow, here)
        if not found.issuperset(certain):
            second = self._allowing(key, flow, after)
            if second.issuperset(certain):
                generation, found = after, second
        return policy_names(sorted(found | certain)), generation

    def _allowing(self, key: VerdictKey, flow: Flow, generation: int) -> set[ObjectRef]:
        if self._history.is_present(generation, flow.source, flow.destination):
            address = flow.source if key.direction == "egress" else flow.destination
            isolating = self._isolating(address, key.direction)
            if isolating.issubset(key.policies):
                return {*key.policies}  # no other policy can allow it
            policies: list[Policy] = [self._desired.index.policies[ref] for ref in isolating]
            sides = _evaluated(self._desired.cluster, policies, flow, key.direction)
        else:
            sides = self._past_sides(key, flow, generation)
        if len(sides) > 1:  # several Pods hold the address: only those that these policies isolate count
            sides = [side for side in sides if {*key.policies} <= {*side.isolating}]
        return {ref for side in sides for ref in side.allowing}

    def _with_rule(self, key: VerdictKey, flow: Flow, here: int, after: int) -> _Named:
        """Return the policy of a tier with the name of the rule that gave the verdict, and the generation of both."""
        generation, rule = here, self._rule_in_tier(key, flow, here)
        if rule is None:
            rule = self._rule_in_tier(key, flow, after)
            generation = here if rule is None else after
        ref = key.policies[0]
        return (PolicyName(ref.name, ref.namespace, ref.kind, rule or ""),), generation

    def _rule_in_tier(self, key: VerdictKey, flow: Flow, generation: int) -> str | None:
        """Return the name of the rule that gave the verdict in a generation; None where none did."""
        ref = key.policies[0]
        if self._history.is_present(generation, flow.source, flow.destination):
            policy = self._desired.index.policies.get(ref)
            sides = _evaluated(self._desired.cluster, [] if policy is None else [policy], flow, key.direction)
        else:
            sides = self._past_sides(key, flow, generation, only=ref)
        actions = {"deny", "pass"} if key.disposition == "audit-deny" else {key.disposition}
        rules = (rule for side in sides for stage in side.stages for rule in stage.rules if rule.outcome == "matches")
        return next((rule.name for rule in rules if rule.policy == ref and rule.action in actions), None)

    def _past_sides(
        self, key: VerdictKey, flow: Flow, generation: int, only: ObjectRef | None = None
    ) -> list[DirectionVerdict]:
        """Return the verdicts at the judged end in a generation, by all policies of the key's Namespace or by one."""
        past = self._history.ends_at(generation, (flow.source, flow.destination))
        policies = self._history.policies_at(generation, (key.policies[0].namespace,))
        return _evaluated(past, [item for item in policies if only in {None, item.ref}], flow, key.direction)

    def _isolating(self, address: str, direction: Direction) -> set[ObjectRef]:
        """Return the NetworkPolicies that isolate a Pod of this node, by the policy set that its address maps to."""
        classes = self._desired.policy_sets_of(address)
        return {ref for key in classes if key.direction == direction for ref in key.policies}


def _evaluated(
    cluster: ClusterState, policies: list[Policy], flow: Flow, direction: Direction
) -> list[DirectionVerdict]:
    """Return the verdict of each Pod at the judged end of a flow."""
    address = flow.source if direction == "egress" else flow.destination
    return [evaluate_direction(cluster, policies, flow, pod, direction) for pod in cluster.holders(address)]


def policy_names(refs: Iterable[ObjectRef]) -> tuple[PolicyName, ...]:
    """Return the names of policies, as records have them."""
    return tuple(PolicyName(ref.name, ref.namespace, ref.kind) for ref in refs)


def flow_of(record: Record) -> Flow:
    """Return the flow of a record, to be evaluated again."""
    connection = record.connection
    # A connection of a Pod to itself is logged only where it goes through a Service.
    translated = connection.src_ip == connection.dest_ip
    return Flow(connection.src_ip, connection.dest_ip, connection.protocol, connection.dest_port, translated)


def _endpoint(pod: Pod | None, address: str) -> RecordEndpoint:
    return RecordEndpoint.of_pod(pod) if pod is not None else RecordEndpoint(instance=address)
