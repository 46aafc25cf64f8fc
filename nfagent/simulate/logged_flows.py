"""Records of the verdict log, folded to the flows that they are about, to be judged again."""

from __future__ import annotations

import msgspec

from nfagent.model.netaddr import AddressError, canonical
from nfagent.model.objects import Direction
from nfagent.policy.evaluator import Flow
from nfagent.simulate.simulation import ObservedFlow
from nfagent.verdicts.attribution import flow_of
from nfagent.verdicts.records import Record, RecordEndpoint

_WITH_PORTS = {"tcp", "udp", "sctp"}


class _Sighting(msgspec.Struct):
    """How often a flow was seen by the policies of each end, and whose its addresses were at last."""

    counts: dict[Direction, int]
    source: str = ""
    destination: str = ""


class LoggedFlows:
    """The flows of records, each once.

    records:     how many came
    allowed:     how many of them are of allowed connections
    left_out:    how many say too little to be judged again: a TCP, UDP or SCTP record without a port
    first, last: their earliest and latest time, as records have it; '' before any came
    """

    def __init__(self) -> None:
        """Start without any."""
        self.records = 0
        self.allowed = 0
        self.left_out = 0
        self.first = ""
        self.last = ""
        self._known: dict[Flow, _Sighting] = {}

    def add(self, record: Record) -> None:
        """Take in a record; of two about one flow, the later tells whose its addresses are."""
        self.records += 1
        self.allowed += record.disposition == "allow"
        self.first = min(self.first or record.timestamp, record.timestamp)
        self.last = max(self.last, record.timestamp)
        flow = flow_of(record)
        if not _judgeable(flow):
            self.left_out += 1
            return
        known = self._known.setdefault(flow, _Sighting({}))
        direction = record.connection.direction
        known.counts[direction] = known.counts.get(direction, 0) + record.count
        known.source, known.destination = _pod(record.src), _pod(record.dest)

    @property
    def flows(self) -> list[ObservedFlow]:
        """Give the flows, in the order in which they were seen first.

        A connection between two Pods of this node is logged at both ends, and counts once.
        """
        return [
            ObservedFlow(flow, max(known.counts.values()), known.source, known.destination)
            for flow, known in self._known.items()
        ]


def _judgeable(flow: Flow) -> bool:
    """Tell whether a record says enough, and what policies can be asked about."""
    if flow.protocol in _WITH_PORTS and flow.port is None:
        return False
    try:
        return all(canonical(address) == address for address in (flow.source, flow.destination))
    except AddressError:
        return False


def _pod(end: RecordEndpoint) -> str:
    return f"{end.pod_namespace}/{end.pod_name}" if end.pod_name else ""
