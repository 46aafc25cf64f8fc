"""Floating addresses through the API server: Nodes that turn NotReady, with packets, conditions and Events."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from nfagent.lab.probes.connection_stream import ConnectionStream
from nfagent.lab.probes.listeners import Endpoint
from nfagent.lab.probes.probe import Probe
from tests.apiserver.lab.conftest import NODES, OUTSIDE
from tests.support.apiserver_labs import ApiLab
from tests.support.egress_labs import gateway_group, nat_policy
from tests.support.gateway_labs import addresses_won_by, dropped, held_on
from tests.support.packet_labs import Document, node_document, wait_until
from tests.support.session_report import PRINTED

pytestmark = [pytest.mark.kernel, pytest.mark.apiserver, pytest.mark.usefixtures("all_kinds", "tidy", "ready")]

PROMISED_SECONDS = 2.0
AT_MOST_SECONDS = 30.0
_PORT = 8053
NAMES = tuple(node.name for node in NODES)
MOVED, KEPT = (addresses_won_by(name, NAMES) for name in NAMES)
"""Addresses of the groups `moved`, which node a holds, and `kept`, which node b holds."""
TO_OUTSIDE = ("198.51.100.0/24", "2001:db8:99::/64")


def group(name: str, addresses: Iterable[str]) -> Document:
    return gateway_group(f"kube-system/{name}", tuple(addresses))


def via(name: str, namespace: str) -> Document:
    """Return the policy that sends the Pods of a Namespace through a group of the policy's name."""
    selected = {"namespaceSelector": {"matchLabels": {"ns": namespace}}}
    return nat_policy(name, "SNAT", TO_OUTSIDE, selected, gateway=f"kube-system/{name}")


BOTH = [group("moved", MOVED), group("kept", KEPT), via("moved", "x"), via("kept", "y")]


@pytest.fixture(scope="module", autouse=True)
def _listening(lab: ApiLab) -> None:
    outside = lab.topology.outside_namespace(OUTSIDE[0].name)
    lab.servers.listen(Endpoint(outside, address, "udp", _PORT) for address in OUTSIDE[0].addresses)


@pytest.fixture
def ready(lab: ApiLab) -> Iterator[None]:
    """Leave the Nodes without conditions, as they were."""
    yield
    for name in NAMES:
        set_ready(lab, name, None)
    lab.cluster.wait_until_enforced(map(node_document, NODES))


def set_ready(lab: ApiLab, name: str, state: str | None) -> float:
    """Patch a Node's condition Ready, as the node controller does; return when the server had it."""
    [node] = [node for node in NODES if node.name == name]
    conditions = [] if state is None else [{"type": "Ready", "status": state, "reason": "NodeStatusUnknown"}]
    lab.client.patch_status({**node_document(node), "status": {"conditions": conditions}})
    return time.monotonic()


def sources(lab: ApiLab, *pods: str) -> set[str | None]:
    """Return the sources that the outside host sees of Pods, in both families; None without an answer."""
    probes = [Probe(lab.pod(path), address, "udp", _PORT) for path in pods for address in OUTSIDE[0].addresses]
    return {outcome.seen_from if outcome.reached else None for outcome in lab.ask(probes).values()}


def on(addresses: Iterable[str], *nodes: str) -> dict[str, set[str]]:
    """Return that each of these addresses is on these nodes, as `held_on` does."""
    return {address: set(nodes) for address in addresses}


def conditions(lab: ApiLab, document: Document) -> dict[str, tuple[str, str]]:
    """Return status and reason of each condition of an object."""
    found = (lab.client.get(document) or {}).get("status", {}).get("conditions", [])
    return {item["type"]: (item["status"], item["reason"]) for item in found}


def messages(lab: ApiLab, name: str) -> list[tuple[str, str]]:
    """Return reason and text of our Events about a group."""
    found = [one for one in lab.client.list("v1", "Event", "kube-system") if one["reportingComponent"] == "nfagent"]
    return [(one["reason"], one["message"]) for one in found if one["involvedObject"]["name"] == name]


def until(condition: Callable[[], bool]) -> None:
    wait_until(condition, AT_MOST_SECONDS)


def _is_held(lab: ApiLab, holder: str) -> bool:
    return held_on(lab.topology, MOVED) == on(MOVED, holder)


DONE = {"Accepted": ("True", "Accepted"), "Programmed": ("True", "Programmed")}
NO_HOLDER = {"Accepted": ("True", "Accepted"), "Programmed": ("False", "NoHolder")}


def test_pods_of_every_node_are_seen_under_the_address_of_their_group(lab: ApiLab) -> None:
    lab.cluster.put(*BOTH)
    until(lambda: held_on(lab.topology, (*MOVED, *KEPT)) == on(MOVED, "a") | on(KEPT, "b"))
    until(lambda: sources(lab, "x/a", "x/b") == set(MOVED))
    until(lambda: sources(lab, "y/a", "y/b") == set(KEPT))
    assert sources(lab, "z/a", "z/b") == {address for node in NODES for address in node.addresses}
    until(lambda: all(conditions(lab, document) == DONE for document in BOTH))
    lab.cluster.delete(*BOTH[2:])
    until(lambda: held_on(lab.topology, (*MOVED, *KEPT)) == on((*MOVED, *KEPT)))
    assert sources(lab, "x/a", "x/b") == {address for node in NODES for address in node.addresses}
    until(lambda: conditions(lab, BOTH[0]).get("Programmed") == ("False", "NotUsed"))


def stream(lab: ApiLab, pod: str, family: int) -> ConnectionStream:
    probe = Probe(lab.pod(pod), OUTSIDE[0].addresses[family == 6], "udp", _PORT)
    return ConnectionStream(lab.servers, probe, 0.02)


def test_an_address_moves_as_its_holder_turns_not_ready(
    lab: ApiLab, record_property: Callable[[str, object], None]
) -> None:
    lab.cluster.put(*BOTH)
    until(lambda: held_on(lab.topology, MOVED) == on(MOVED, "a"))
    for state, holder in (("Unknown", "b"), ("True", "a")):
        with contextlib.ExitStack() as stack:
            moved = [stack.enter_context(stream(lab, *ends)) for ends in (("x/a", 4), ("x/b", 4), ("x/b", 6))]
            kept = [stack.enter_context(stream(lab, *ends)) for ends in (("y/a", 4), ("y/b", 4), ("y/b", 6))]
            began = set_ready(lab, "a", state)
            until(functools.partial(_is_held, lab, holder))
            for one in (*moved, *kept):
                one.wait_for(10)
        gap = max(one.gap_after(began) for one in moved)
        record_property(
            PRINTED,
            f"Node condition Ready turned {state} at the API server: new connections after {gap * 1000:.0f} ms "
            f"(promised: {PROMISED_SECONDS:.0f} s); {sum(len(one.lost) for one in moved)} lost",
        )
        assert gap < AT_MOST_SECONDS
        assert [len(one.lost) for one in kept] == [0, 0, 0]
        assert set.union(*(one.sources for one in kept)) == set(KEPT)
        assert set.union(*(one.sources for one in moved)) - {None} == set(MOVED)
    until(lambda: all(conditions(lab, document) == DONE for document in BOTH))


def test_without_a_ready_node_packets_are_dropped_and_conditions_say_so(lab: ApiLab) -> None:
    lab.cluster.put(*BOTH)
    before = {name: dropped(lab, name, "no-gateway") for name in NAMES}
    for name in NAMES:
        set_ready(lab, name, "False")
    until(lambda: held_on(lab.topology, (*MOVED, *KEPT)) == on((*MOVED, *KEPT)))
    until(
        lambda: (
            sources(lab, "x/a", "x/b", "y/a", "y/b") == {None}
            and all(dropped(lab, name, "no-gateway") > count for name, count in before.items())
        )
    )
    until(lambda: all(conditions(lab, document) == NO_HOLDER for document in BOTH))
    set_ready(lab, "b", "True")
    until(lambda: sources(lab, "x/a", "x/b", "y/a", "y/b") == {*MOVED, *KEPT})
    until(lambda: all(conditions(lab, document) == DONE for document in BOTH))


def test_an_address_that_a_node_has_is_refused_in_an_event_and_a_condition(lab: ApiLab) -> None:
    taken = NODES[1].addresses[0]
    lab.cluster.put(group("moved", [taken, *MOVED]), via("moved", "x"))
    until(lambda: sources(lab, "x/a", "x/b") == set(MOVED))
    until(lambda: conditions(lab, BOTH[0]).get("Programmed") == ("False", "AddressesNotUsed"))
    until(lambda: any(taken in text for _, text in messages(lab, "moved")))


def test_a_policy_whose_group_does_not_exist_drops_and_says_so(lab: ApiLab) -> None:
    lab.cluster.put(via("moved", "x"))
    assert sources(lab, "x/a", "x/b") == {None}
    until(lambda: conditions(lab, via("moved", "x")).get("Programmed") == ("False", "NoGateway"))
    lab.cluster.put(group("moved", MOVED))
    until(lambda: sources(lab, "x/a", "x/b") == set(MOVED))
    until(lambda: conditions(lab, via("moved", "x")) == DONE)
