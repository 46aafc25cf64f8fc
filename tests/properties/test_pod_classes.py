"""The verdict of two classes of Pods is the evaluator's for every pair of their Pods."""

from __future__ import annotations

from itertools import product

from hypothesis import event, given, settings
from hypothesis import strategies as st
from msgspec import convert

from nfagent.model.gvk import Item
from nfagent.model.netaddr import family_of
from nfagent.model.objects import Pod
from nfagent.model.slices import run_to_end
from nfagent.policy.evaluator import Flow, evaluate
from nfagent.policy.options import PolicyOptions
from nfagent.simulate.class_verdicts import ClassVerdicts, Lane, PortSpan, Side, TrafficProtocol, has_pairs, lanes
from nfagent.simulate.matrix import MatrixJob, run
from nfagent.simulate.matrix_answer import Matrix, MatrixRequest
from nfagent.simulate.pod_classes import PodClass, PodClasses, take_snapshot
from tests.properties.strategies import desired, worlds

OPTIONS = st.builds(
    PolicyOptions,
    own_node=st.sampled_from(["judged", "allowed"]),
    unknown_pods=st.sampled_from(["passed", "passed", "held"]),
)
TRAFFIC: list[tuple[str, int | None]] = [
    *(("tcp", port) for port in (1, 53, 79, 80, 81, 99, 100, 8080, 65535)),
    *(("udp", port) for port in (53, 80, 8080)),
    ("sctp", 99),
    ("icmp", None),
    ("47", None),
]


def allows(judged: ClassVerdicts, sides: tuple[Side, Side], protocol: str, port: int | None) -> bool:
    wanted: TrafficProtocol = "portless" if port is None else convert(protocol, TrafficProtocol)
    return all(judged.reasons[side.at(wanted, port or 0)].allowed for side in sides)


def fits(lane: Lane, client: Pod, server: Pod) -> bool:
    return lane.nodes in {"", "same" if client.node == server.node else "other"}


@settings(deadline=None, max_examples=25)
@given(worlds(), OPTIONS, st.booleans())
def test_the_verdict_of_classes_is_the_evaluators_for_every_pair_of_pods(
    world: list[Item],
    options: PolicyOptions,
    declared: bool,  # noqa: FBT001 - as hypothesis passes it
) -> None:
    view = desired("a", world)
    policies = tuple(view.index.policies.values())
    classes = PodClasses(take_snapshot(view.cluster, policies), options, declared=declared)
    for _ in classes.steps():
        pass
    judged = ClassVerdicts(classes, frozenset(range(len(policies))), options)
    wrong: list[object] = []

    def compare(one: PodClass, other: PodClass, client: Pod, server: Pod) -> None:
        seen = set()
        for lane in lanes(one, other):
            if not fits(lane, client, server):
                continue
            here, there = client.addresses[lane.client], server.addresses[lane.server]
            seen.add((here, there))
            said = run_to_end(judged.judge(one, other, lane))
            for protocol, port in TRAFFIC:
                spelt = "icmpv6" if (family_of(there), protocol) == (6, "icmp") else protocol
                flow = Flow(here, there, spelt, port)
                if allows(judged, said, protocol, port) != evaluate(view.cluster, policies, flow, options).allowed:
                    wrong.append((str(flow), one.key, other.key, lane))
        expected = {(a, b) for a, b in product(client.addresses, server.addresses) if family_of(a) == family_of(b)}
        assert seen == expected, "every pair of addresses has exactly one lane"

    for one, other in product(classes.found, repeat=2):
        for client, server in product(one.pods, other.pods):
            if client is not server and has_pairs(one, other):
                compare(one, other, client, server)
    assert wrong == []
    grouped = {(pod.namespace, pod.name) for one in classes.found for pod in one.pods}
    running = {key for key, pod in view.cluster.pods.items() if not pod.has_ended}
    assert grouped == running, "every Pod that has not ended is in a class"
    event("Pods share a class" if any(len(one.pods) > 1 for one in classes.found) else "each Pod has its class")


def cell_allows(found: Matrix, ends: tuple[int, int], flow: Flow, nodes: str) -> bool:
    """Return the verdict of a cell on a flow; exactly one range has it."""
    wanted = "portless" if flow.port is None else flow.protocol
    [item] = [
        item
        for item in found.traffic(*ends)
        if item.family in {0, family_of(flow.source)}
        and item.nodes in {"", nodes}
        and (item.protocol == "any" or (item.protocol == wanted and item.first <= (flow.port or 0) <= item.last))
    ]
    return item.allowed


ASKED: list[tuple[tuple[PortSpan, ...], list[tuple[str, int | None]]]] = [
    ((), TRAFFIC),
    ((PortSpan("tcp", 80, 80),), [("tcp", 80)]),
    ((PortSpan("tcp", 53, 99), PortSpan("udp", 80, 80)), [("tcp", 53), ("tcp", 80), ("tcp", 99), ("udp", 80)]),
    ((PortSpan("portless"),), [("icmp", None)]),
]


@settings(deadline=None, max_examples=25)
@given(worlds(), OPTIONS, st.sampled_from(["", "", "shop", "ops"]), st.sampled_from(ASKED))
def test_the_matrix_says_what_the_evaluator_says_of_every_pair_with_an_end_in_the_namespace(
    world: list[Item],
    options: PolicyOptions,
    namespace: str,
    asked: tuple[tuple[PortSpan, ...], list[tuple[str, int | None]]],
) -> None:
    view = desired("a", world)
    policies = tuple(view.index.policies.values())
    namespace = namespace if namespace in view.cluster.by_namespace else ""
    found = run(MatrixJob(view.cluster, policies, options, MatrixRequest(namespace, asked[0])))
    place = {name: at for at, end in enumerate(found.ends) for name in end.names}
    live = [pod for pod in view.cluster.pods.values() if not pod.has_ended]
    assert {pod.ref.path for pod in live} == set(place)
    wrong: list[object] = []
    for client, server in product(live, repeat=2):
        ends = place[client.ref.path], place[server.ref.path]
        pairs = [(a, b) for a, b in product(client.addresses, server.addresses) if family_of(a) == family_of(b)]
        verdict = found.verdict(*ends)
        assert (verdict is None) == (namespace not in {"", client.namespace, server.namespace})
        if client is server or verdict is None:
            continue
        if not (client.addresses and server.addresses):
            assert verdict == "unknown"
            continue
        nodes = "same" if client.node == server.node else "other"
        said = set()
        for (here, there), (protocol, port) in product(pairs, asked[1]):
            flow = Flow(here, there, "icmpv6" if (family_of(there), protocol) == (6, "icmp") else protocol, port)
            allowed = evaluate(view.cluster, policies, flow, options).allowed
            said.add(allowed)
            if cell_allows(found, ends, flow, nodes) != allowed:
                wrong.append((str(flow), verdict, found.traffic(*ends)))
        assert not (verdict == "allowed" and False in said)
        assert not (verdict == "denied" and True in said)
        assert (verdict == "none") == (not pairs)
    assert wrong == []
    event("Pods of others share a row" if any(len(end.names) > 1 and not end.inside for end in found.ends) else "-")
