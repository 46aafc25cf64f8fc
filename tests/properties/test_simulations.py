"""A simulation predicts the effect of the real change, and lists every pair of Pods whose verdict changes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from hypothesis import event, given, settings
from hypothesis import strategies as st
from msgspec import structs

from nfagent.desired.state import DesiredState
from nfagent.model.admin_policy import Policy
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef, Pod
from nfagent.policy.evaluator import Flow, evaluate
from nfagent.simulate.patch import PolicyPatch
from nfagent.simulate.pod_pairs import PodPairs
from nfagent.simulate.simulation import ObservedFlow, PolicySimulation
from tests.properties.strategies import PROTOCOLS, desired, flows, judging, worlds

TRAFFIC = st.one_of(
    PROTOCOLS,
    st.tuples(st.sampled_from(["tcp", "udp", "sctp"]), st.sampled_from([1, 2, 53, 79, 80, 81, 99, 100, 8080, 65535])),
)


@st.composite
def patches(draw: st.DrawFn, view: DesiredState) -> PolicyPatch:
    """Draw a change of policies: some come, or come instead of others of their name, or some go."""
    known = sorted(view.index.policies)
    goes: bool = draw(st.booleans())
    if known and goes:
        taken: list[ObjectRef] = draw(st.lists(st.sampled_from(known), min_size=1, unique=True))
        return PolicyPatch(removed=tuple(taken))
    put: list[Policy] = draw(st.lists(judging(), min_size=1, max_size=3, unique_by=lambda policy: policy.ref))
    return PolicyPatch(put=tuple(put))


def patched(world: list[Item], patch: PolicyPatch) -> DesiredState:
    """Make the change in earnest."""
    made = desired("a", world)
    for policy in patch.put:
        made.put(policy)
    for ref in patch.removed:
        made.remove(ref)
    return made


def allows(view: DesiredState, flow: Flow) -> bool:
    return evaluate(view.cluster, view.index.policies.values(), flow, view.policy_options).allowed


def simulation_of(view: DesiredState, patch: PolicyPatch) -> PolicySimulation:
    return PolicySimulation(view.cluster, view.index, patch, view.policy_options)


def policies_of(view: DesiredState) -> dict[ObjectRef, Policy]:
    return dict(view.index.policies)


@settings(deadline=None, max_examples=60)
@given(st.data(), worlds(), TRAFFIC)
def test_a_simulation_predicts_the_effect_of_the_change(
    data: st.DataObject, world: list[Item], traffic: tuple[str, int | None]
) -> None:
    view = desired("a", world)
    patch = data.draw(patches(view))
    after, before = patched(world, patch), policies_of(view)
    tried = simulation_of(view, patch)
    wrong = []
    for flow in flows(view.cluster.by_address, *traffic):
        change = tried.judge(ObservedFlow(flow))
        said = None if change is None else (change.before == "allowed", change.after == "allowed")
        verdicts = (allows(view, flow), allows(after, flow))
        if said != (verdicts if verdicts[0] != verdicts[1] else None) or (change is not None and not change.turned):
            wrong.append((flow, said, verdicts))
    assert wrong == []
    assert policies_of(view) == before
    event("something changes" if tried.pods.unchanged < tried.pods.judged else "nothing changes")


def ends_of(found: PodPairs, flow: Flow) -> Iterator[tuple[str, str]]:
    """Yield the addresses of every pair of Pods that a flow stands for."""
    both: list[list[tuple[Pod, str]]] = []
    for address in (flow.source, flow.destination):
        [one, *_] = [one for one in found.classes.found if any(address in pod.addresses for pod in one.pods)]
        place = next(pod.addresses.index(address) for pod in one.pods if address in pod.addresses)
        both.append([(pod, pod.addresses[place]) for pod in one.pods])
    for (client, here), (server, there) in product(*both):
        if client is not server:
            yield here, there


@settings(deadline=None, max_examples=40)
@given(st.data(), worlds(), st.lists(TRAFFIC, min_size=4, max_size=4, unique=True))
def test_the_pairs_show_every_change_between_pods(
    data: st.DataObject, world: list[Item], traffic: list[tuple[str, int | None]]
) -> None:
    view = desired("a", world)
    patch = data.draw(patches(view))
    after = patched(world, patch)
    found = PodPairs(simulation_of(view, patch))
    for _ in (*found.steps(), *found.plan()):
        pass
    shown: set[tuple[str, str, str]] = set()
    for change in found.compare():
        if change is None:
            continue
        ends = list(ends_of(found, change.flow))
        assert len(ends) == change.pairs
        for here, there in ends:
            flow = structs.replace(change.flow, source=here, destination=there)
            verdicts = (allows(view, flow), allows(after, flow))
            assert verdicts == (change.before == "allowed", change.after == "allowed")
            assert change.turned
            shown.add((here, there, change.after))
    assert found.done == found.total
    held = set(view.cluster.by_address)
    for flow in (flow for kind in traffic for flow in flows(held, *kind)):
        if {flow.source, flow.destination} <= held and (verdict := allows(after, flow)) != allows(view, flow):
            assert (flow.source, flow.destination, "allowed" if verdict else "denied") in shown
            event("a pair changes")
