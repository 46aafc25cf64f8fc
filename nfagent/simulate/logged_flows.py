"""Records of the verdict log, aggregated to flows that can be evaluated again."""

from __future__ import annotations

import msgspec

from nfagent.model.netaddr import AddressError, canonical
from nfagent.model.objects import Direction
from nfagent.policy.evaluator import Flow
from nfagent.simulate.simulation import ObservedFlow
from nfagent.verdicts.attribution import flow_of
from nfagent.verdicts.records import Record, RecordEndpoint

_WITH_PORTS = {"tcp", "udp", "sctp"}


class _FlowRecords(msgspec.Struct):
    """Packet counts of a flow by direction, and the Pods of its last record."""

    counts: dict[Direction, int]
    source: str = ""
    destination: str = ""


class LoggedFlows:
    """Aggregates records to flows.

    records:     number of records
    allowed:     number of records of connections that passed
    left_out:    number of records that can't be evaluated again: TCP, UDP or SCTP without a port
    first, last: earliest and latest timestamp of the records; '' without records
    """

    def __init__(self) -> None:
        """Start with no records."""
        self.records = 0
        self.allowed = 0
        self.left_out = 0
        self.first = ""
        self.last = ""
        self._known: dict[Flow, _FlowRecords] = {}

    def add(self, record: Record) -> None:
        """Add a record; the last record of a flow determines the Pods of its addresses."""
        self.records += 1
        self.allowed += record.disposition != "deny"
        self.first = min(self.first or record.timestamp, record.timestamp)
        self.last = max(self.last, record.timestamp)
        flow = flow_of(record)
        if not _can_evaluate(flow):
            self.left_out += 1
            return
        known = self._known.setdefault(flow, _FlowRecords({}))
        direction = record.connection.direction
        known.counts[direction] = known.counts.get(direction, 0) + record.count
        known.source, known.destination = _pod(record.src), _pod(record.dest)

    @property
    def flows(self) -> list[ObservedFlow]:
        """The flows, in the order of their first records.

        A connection between two Pods of this node is logged at both ends, and counts once.
        """
        return [
            ObservedFlow(flow, max(known.counts.values()), known.source, known.destination)
            for flow, known in self._known.items()
        ]


def _can_evaluate(flow: Flow) -> bool:
    """Return whether a flow has the fields that policies match."""
    if flow.protocol in _WITH_PORTS and flow.port is None:
        return False
    try:
        return all(canonical(address) == address for address in (flow.source, flow.destination))
    except AddressError:
        return False


def _pod(end: RecordEndpoint) -> str:
    return f"{end.pod_namespace}/{end.pod_name}" if end.pod_name else ""
