"""A simulation predicts the effect of the real change, and lists every pair of Pods whose verdict changes."""

from __future__ import annotations

from hypothesis import event, given, settings
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.model.admin_policy import Policy
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.policy.evaluator import Flow, evaluate
from nfagent.simulate.patch import PolicyPatch
from nfagent.simulate.pod_pairs import PodPairEnumerator
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


@settings(deadline=None, max_examples=40)
@given(st.data(), worlds(), st.lists(TRAFFIC, min_size=4, max_size=4, unique=True))
def test_the_pairs_show_every_change_between_pods(
    data: st.DataObject, world: list[Item], traffic: list[tuple[str, int | None]]
) -> None:
    view = desired("a", world)
    patch = data.draw(patches(view))
    after = patched(world, patch)
    tried = simulation_of(view, patch)
    survey = PodPairEnumerator(view.cluster, tried.patched)
    for _ in survey.steps():
        pass
    shown = {
        (change.flow.source, change.flow.destination, change.after)
        for seen in survey.flows()
        if seen is not None and (change := tried.judge(seen)) is not None
    }
    held = set(view.cluster.by_address)
    for flow in (flow for kind in traffic for flow in flows(held, *kind)):
        if {flow.source, flow.destination} <= held and (verdict := allows(after, flow)) != allows(view, flow):
            assert (flow.source, flow.destination, "allowed" if verdict else "denied") in shown
            event("a pair changes")
