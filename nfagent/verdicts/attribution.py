"""Attribution of a logged packet: its Pods, its verdict and its policies, as a record.

The log prefix names the rule that decided. In admin tiers the first matching rule decides alone. Of NetworkPolicies,
the evaluator finds every one that allows the same connection. Both use the current state: where it has changed since
the packet was logged, the record still names the rule that decided.

A record describes a connection, from client to server. Packets of a connection under re-check are evaluated in both
directions; the prefix marks a denied packet that the server sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.errors import WireError
from nfagent.model.objects import Direction, ObjectRef, Pod
from nfagent.netlink import packet_header
from nfagent.netlink.nflog import LoggedPacket
from nfagent.netlink.packet_header import PacketHead, decode_head
from nfagent.nftables.verdict_keys import VerdictKey, split_reply_prefix
from nfagent.policy.evaluator import Flow, evaluate_direction
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


class AttributionCounters(msgspec.Struct):
    """Packets without a record.

    undecodable: the bytes are no IP packet
    unknown:     the prefix is of a rule that was deleted long ago
    foreign:     the prefix is of another program, which logs to the same group
    """

    undecodable: int = 0
    unknown: int = 0
    foreign: int = 0


class LoggedVerdict(msgspec.Struct, frozen=True, gc=False):
    """The verdict that a packet's prefix names, with that prefix, and the packet in the direction client to server."""

    key: VerdictKey
    prefix: str
    head: PacketHead


class Attributor:
    """Attributes packets by the desired state; caches the allowing policies until that state changes."""

    def __init__(self, desired: DesiredState) -> None:
        """Use this state, which the caller keeps up to date."""
        self._desired = desired
        self._generation = desired.generation
        self._allowing: dict[tuple[str, Flow], tuple[PolicyName, ...]] = {}
        self._rules: dict[str, tuple[VerdictKey, str, bool]] = {}
        self.counters = AttributionCounters()

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
        key, prefix, is_reply = rule
        return LoggedVerdict(key, prefix, head.reversed if is_reply else head)

    def _count_unknown(self, prefix: str) -> None:
        if _OWN_PREFIX.match(prefix):
            self.counters.unknown += 1
        else:
            self.counters.foreign += 1

    def rule_of(self, written: str) -> tuple[VerdictKey, str, bool] | None:
        """Return the verdict key of a written prefix, its own prefix, and whether the packet is a reply."""
        if self._desired.generation != self._generation:
            self._generation = self._desired.generation
            self._allowing.clear()
            self._rules.clear()
        known = self._rules.get(written)
        if known is not None:
            return known
        prefix, is_reply = split_reply_prefix(written)
        key = self._desired.verdict_key(prefix)
        if key is None:
            return None
        self._rules[written] = (key, prefix, is_reply)
        return self._rules[written]

    def record(self, verdict: LoggedVerdict, logged: LoggedPacket, now_ns: int) -> Record:
        """Return the record of a packet whose verdict is known, by the current state.

        now_ns: nanoseconds since the epoch, for packets without a timestamp
        """
        key, head = verdict.key, verdict.head
        when = timestamp(logged.timestamp_ns if logged.timestamp_ns is not None else now_ns)
        protocol = _PROTOCOLS.get(head.protocol, "unknown")
        cluster = self._desired.cluster
        source, destination = cluster.holder(head.source), cluster.holder(head.destination)
        allowed = key.disposition == "allow"
        policies: tuple[PolicyName, ...] = ()
        if allowed:
            name = protocol if protocol != "unknown" else str(head.protocol)
            flow = Flow(head.source, head.destination, name, head.destination_port)
            policies = self._policies(key, verdict.prefix, flow)
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
            policies=policies,
            isolating_policies=() if allowed else policy_names(key.policies),
            src=_endpoint(source, head.source),
            dest=_endpoint(destination, head.destination),
            count=1,
            node_name=cluster.node,
            timestamp=when,
        )

    def _policies(self, origin: VerdictKey, prefix: str, flow: Flow) -> tuple[PolicyName, ...]:
        known = self._allowing.get((prefix, flow))
        if known is not None:
            return known
        found = origin.policies
        address = flow.source if origin.direction == "egress" else flow.destination
        isolating = self._isolating(address, origin.direction)
        # No other policy can allow it where a tier's policy decided, or the only one that isolates.
        by_tier = "NetworkPolicy" not in {ref.kind for ref in found}
        if not by_tier and not isolating.issubset(found):
            cluster, policies = self._desired.cluster, [self._desired.index.policies[ref] for ref in isolating]
            sides = [
                evaluate_direction(cluster, policies, flow, pod, origin.direction) for pod in cluster.holders(address)
            ]
            if len(sides) > 1:  # several Pods hold the address: only those that these policies isolate count
                sides = [side for side in sides if {*found} <= {*side.isolating}]
            allowing = {ref for side in sides for ref in side.allowing}
            found = tuple(sorted({*allowing, *found}))
        if len(self._allowing) >= _CACHE_SIZE:
            self._allowing.clear()
        self._allowing[prefix, flow] = policy_names(found)
        return self._allowing[prefix, flow]

    def _isolating(self, address: str, direction: Direction) -> set[ObjectRef]:
        """Return the NetworkPolicies that isolate a Pod of this node, by the policy set that its address maps to."""
        classes = self._desired.policy_sets_of(address)
        return {ref for key in classes if key.direction == direction for ref in key.policies}


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
