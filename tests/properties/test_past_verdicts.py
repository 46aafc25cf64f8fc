"""A packet's record is the same when it is read at once and when everything may have changed since it was logged."""

from __future__ import annotations

from hypothesis import event, given, settings
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.objects import LoggingSwitch, NetworkLogging, ObjectRef
from nfagent.netlink.nflog import LoggedPacket
from nfagent.policy.evaluator import Flow
from nfagent.verdicts.attribution import Attributor
from nfagent.verdicts.history import ObjectHistory
from nfagent.verdicts.records import Record, RecordEndpoint
from tests.properties import verdict_flips
from tests.properties.strategies import PROTOCOLS, flows, histories, worlds
from tests.support.nft_interpreter import opening, reply, run, stray
from tests.unit.verdicts.test_attribution import logged, packet, ports

NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58}
EVERYTHING = NetworkLogging(LoggingSwitch(log=True), LoggingSwitch(log=True))
COMMIT = 1_000


class Node:
    """A node with a history; its clock says which of its changes was committed last."""

    def __init__(self) -> None:
        self.desired = DesiredState("a")
        self.now = 0
        self.history = ObjectHistory(self.desired, lambda: self.now)

    def apply(self, events: list[Item | ObjectRef]) -> None:
        for change in events:
            if isinstance(change, ObjectRef):
                self.history.remove(change)
            else:
                self.history.put(change)

    def commit(self) -> None:
        self.history.cover()
        self.desired.drain_changes()
        self.now += COMMIT
        self.history.committed()


def packets(view: DesiredState, protocol: str, port: int | None, when: int) -> list[LoggedPacket]:
    """Return what the rules log of every flow: of its first packet, its reply under re-check, an untracked packet."""
    view.recheck_all()
    ruleset = view.ruleset()
    return [
        logged(log.prefix, content, when)
        for flow in flows(view.cluster.by_address, protocol, port)
        if flow.protocol in NUMBERS
        for seen, content in (
            (opening(flow), _bytes(flow)),
            (reply(flow), _bytes(flow, is_reply=True)),
            (stray(flow, "untracked"), _bytes(flow)),
        )
        for log in run(ruleset, "forward", seen).logs
    ]


def _bytes(flow: Flow, *, is_reply: bool = False) -> bytes:
    numbers = (flow.port or 0, 40_000) if is_reply else (40_000, flow.port or 0)
    ends = (flow.destination, flow.source) if is_reply else (flow.source, flow.destination)
    return packet(*ends, NUMBERS[flow.protocol], b"" if flow.port is None else ports(*numbers))


def judged(record: Record | None) -> tuple[object, ...] | None:
    if record is None:  # what another program would have to have logged
        return None
    return record.connection, record.disposition, record.policies, record.isolating_policies


@settings(max_examples=2 * settings().max_examples)
@given(worlds() | verdict_flips.crowded_clusters(), st.lists(histories(), min_size=1, max_size=2), PROTOCOLS)
def test_a_record_doesn_t_depend_on_when_its_packet_is_read(
    world: list[Item], changes: list[list[Item | ObjectRef]], protocol: tuple[str, int | None]
) -> None:
    node = Node()
    node.apply([*world, EVERYTHING])
    node.commit()
    found = packets(node.desired, *protocol, node.now + 1)
    at_once = [Attributor(node.desired).attribute(one, 0) for one in found]
    for change in changes:
        node.apply(change)
        for state in ("pending", "committed"):
            late = Attributor(node.desired, node.history)
            for one, expected in zip(found, at_once, strict=True):
                record = late.attribute(one, 0)
                assert judged(record) == judged(expected), state
                assert record is not None
                assert expected is not None
                for was, end in ((expected.src, record.src), (expected.dest, record.dest)):
                    # An address that nothing held may be named as the Pod that has come there since.
                    assert was == end or was == RecordEndpoint(instance=was.instance), state
                present = Attributor(node.desired).attribute(one, 0)
                event(f"{'reply' if one.prefix.endswith(' reply') else one.prefix.split()[0]}")
                event("changed since" if judged(present) != judged(expected) else "the same")
            if state == "pending":
                node.commit()
