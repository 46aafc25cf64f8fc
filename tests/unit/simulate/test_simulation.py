"""What a change of policies would do to single connections: the verdicts, who is at fault, and what is counted."""

from __future__ import annotations

import pytest

from nfagent.errors import UsageError
from nfagent.model.admin_policy import Policy
from nfagent.model.objects import ObjectRef
from nfagent.policy.evaluator import Flow
from nfagent.policy.options import PolicyOptions
from nfagent.simulate.patch import PolicyPatch, removal_patch
from nfagent.simulate.simulation import FlowChange, ObservedFlow, PolicySimulation
from tests.support.two_node_cluster import DECODERS, Document, TwoNodeCluster, labelled, pod, policy, tier_policy

PODS = (
    pod("shop/web", "a", 10, app="web"),
    pod("shop/db", "b", 20, app="db"),
    pod("ops/probe", "a", 30, app="probe"),
)
FROM_WEB = policy(
    "shop/db",
    labelled(app="db"),
    ingress=[{"from": [{"podSelector": labelled(app="web")}], "ports": [{"port": 5432}]}],
)
WALL = policy("shop/wall", {})
SHUT = policy("shop/shut", labelled(app="web"), types=["Egress"])
BROKEN = policy("shop/broken", labelled(app="db"), ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}])
DB_ONLY = {"pods": {"namespaceSelector": {}, "podSelector": labelled(app="db")}}
EVERYWHERE: list[Document] = [{"namespaces": {}}]
GUARD = tier_policy(
    "AdminNetworkPolicy",
    "guard",
    DB_ONLY,
    priority=5,
    ingress=[
        {"action": "Pass", "from": [{"namespaces": labelled(**{"kubernetes.io/metadata.name": "ops"})}]},
        {"action": "Deny", "from": EVERYWHERE},
    ],
)
FLOOR = tier_policy(
    "BaselineAdminNetworkPolicy", "default", DB_ONLY, ingress=[{"action": "Deny", "from": EVERYWHERE, "name": "no"}]
)


def read(document: Document) -> Policy:
    item = DECODERS[document["kind"]](document)
    assert isinstance(item, Policy)
    return item


def putting(*documents: Document) -> PolicyPatch:
    return PolicyPatch(put=tuple(map(read, documents)))


def simulation_of(
    scene: TwoNodeCluster, patch: PolicyPatch, policy_options: PolicyOptions | None = None
) -> PolicySimulation:
    view = scene.views["a"]
    return PolicySimulation(view.cluster, view.index, patch, policy_options or PolicyOptions())


def told(change: FlowChange | None) -> tuple[str, ...]:
    if change is None:
        return ()
    turned = (f"{end.direction} at {end.pod}: {end.before} > {end.after}" for end in change.turned)
    return (f"{change.before} > {change.after}", *turned)


CASES = [
    pytest.param(
        (),
        putting(WALL),
        "5432/tcp",
        (
            "allowed > denied",
            "ingress at shop/db: no policy applies to it > NetworkPolicy shop/wall isolates it; it has no rules",
        ),
        id="a policy that isolates a Pod denies what was allowed by default",
    ),
    pytest.param((FROM_WEB,), putting(WALL), "5432/tcp", (), id="policies add: what another one allows stays allowed"),
    pytest.param((WALL,), putting(SHUT), "5432/tcp", (), id="what is denied already stays denied"),
    pytest.param(
        (),
        putting(WALL, SHUT),
        "5432/tcp",
        (
            "allowed > denied",
            "egress at shop/web: no policy applies to it > NetworkPolicy shop/shut isolates it; it has no rules",
            "ingress at shop/db: no policy applies to it > NetworkPolicy shop/wall isolates it; it has no rules",
        ),
        id="both ends are named where both flip",
    ),
    pytest.param(
        (WALL,),
        putting(FROM_WEB),
        "5432/tcp",
        (
            "denied > allowed",
            (
                "ingress at shop/db: NetworkPolicy shop/wall isolates it; it has no rules"
                " > rule 1 of 1 in NetworkPolicy shop/db allows it"
            ),
        ),
        id="a rule that allows is named",
    ),
    pytest.param(
        (FROM_WEB,),
        putting(policy("shop/db", labelled(app="db"), ingress=[{"ports": [{"port": 80}]}])),
        "5432/tcp",
        (
            "allowed > denied",
            (
                "ingress at shop/db: rule 1 of 1 in NetworkPolicy shop/db allows it"
                " > NetworkPolicy shop/db isolates it; rule 1 of 1 has other ports"
            ),
        ),
        id="a policy replaces the one of its name",
    ),
    pytest.param(
        (FROM_WEB, FLOOR),
        PolicyPatch(removed=(ObjectRef("NetworkPolicy", "shop", "db"),)),
        "5432/tcp",
        (
            "allowed > denied",
            (
                "ingress at shop/db: rule 1 of 1 in NetworkPolicy shop/db allows it"
                " > rule 1 of 1 in BaselineAdminNetworkPolicy default denies it"
            ),
        ),
        id="removing a policy may leave the verdict to another tier",
    ),
    pytest.param(
        (FROM_WEB,),
        PolicyPatch(removed=(ObjectRef("NetworkPolicy", "shop", "db"),)),
        "80/tcp",
        (
            "denied > allowed",
            (
                "ingress at shop/db: NetworkPolicy shop/db isolates it; rule 1 of 1 has other ports"
                " > no policy applies to it"
            ),
        ),
        id="no policy isolates any more",
    ),
    pytest.param(
        (FROM_WEB,),
        putting(GUARD),
        "5432/tcp",
        (
            "allowed > denied",
            (
                "ingress at shop/db: rule 1 of 1 in NetworkPolicy shop/db allows it"
                " > rule 2 of 2 in AdminNetworkPolicy guard denies it"
            ),
        ),
        id="the admin tier comes before",
    ),
    pytest.param(
        (),
        putting(BROKEN),
        "5432/tcp",
        (
            "allowed > denied",
            "ingress at shop/db: no policy applies to it > NetworkPolicy shop/broken can't be read: it fails closed",
        ),
        id="an invalid policy is evaluated as it would be enforced",
    ),
]


@pytest.mark.parametrize(("documents", "patch", "port", "expected"), CASES)
def test_a_change_has_the_flipped_ends_and_the_deciding_policies(
    documents: tuple[Document, ...], patch: PolicyPatch, port: str, expected: tuple[str, ...]
) -> None:
    scene = TwoNodeCluster(*PODS, *documents)
    assert told(simulation_of(scene, patch).judge(ObservedFlow(scene.flow("shop/web", "shop/db", port)))) == expected


def test_a_change_says_who_is_at_its_ends_and_how_often_it_was_seen() -> None:
    scene = TwoNodeCluster(*PODS)
    change = simulation_of(scene, putting(WALL)).judge(
        ObservedFlow(scene.flow("outside", "shop/db", "53/udp", 6), count=7)
    )
    assert change is not None
    assert (change.source, change.destination) == ("2606:4700::1", "shop/db (2001:db8:0:b::20)")
    assert (change.traffic, change.count, change.origin) == ("53/udp", 7, "log")


def test_flows_are_counted_by_what_becomes_of_them() -> None:
    scene = TwoNodeCluster(*PODS, FROM_WEB)
    tried = simulation_of(scene, putting(policy("shop/db", labelled(app="db"), ingress=[{"ports": [{"port": 80}]}])))
    for source, destination, port in (
        ("shop/web", "shop/db", "5432/tcp"),
        ("ops/probe", "shop/db", "80/tcp"),
        ("shop/web", "shop/db", "80/tcp"),
        ("ops/probe", "shop/db", "22/tcp"),
        ("shop/db", "ops/probe", "22/tcp"),
    ):
        tried.judge(ObservedFlow(scene.flow(source, destination, port), count=1))
    found = tried.log
    assert (found.judged, found.denied, found.allowed, found.unchanged, found.untouched) == (5, 1, 2, 2, 1)
    assert tried.pods.judged == 0


@pytest.mark.parametrize(
    ("source", "gone"),
    [("shop/web", 0), ("shop/was", 1), ("", 0)],
    ids=["the same Pod", "another Pod has its address now", "no Pod had it"],
)
def test_an_end_that_lost_its_pod_is_counted_and_judged_by_its_address(source: str, gone: int) -> None:
    scene = TwoNodeCluster(*PODS)
    tried = simulation_of(scene, putting(SHUT))
    seen = ObservedFlow(scene.flow("shop/web", "shop/db", "80/tcp"), 1, source, "shop/db")
    assert told(tried.judge(seen))[0] == "allowed > denied"
    assert tried.log.gone == gone


def test_nothing_is_applied() -> None:
    scene = TwoNodeCluster(*PODS, FROM_WEB)
    view = scene.views["a"]
    before, generation = dict(view.index.policies), view.generation
    flow = scene.flow("shop/web", "shop/db", "5432/tcp")
    assert simulation_of(scene, putting(WALL, GUARD)).judge(ObservedFlow(flow)) is not None
    assert (view.index.policies, view.generation, view.dirty) == (before, generation, view.dirty)
    assert scene.passes("shop/web", "shop/db", "5432/tcp")


def test_a_flow_is_judged_by_the_state_of_its_moment() -> None:
    scene = TwoNodeCluster(*PODS)
    tried = simulation_of(scene, putting(WALL))
    seen = ObservedFlow(scene.flow("shop/web", "shop/db", "5432/tcp"))
    assert tried.judge(seen) is not None
    scene.put(FROM_WEB)
    assert tried.judge(seen) is None
    scene.put(pod("shop/web", "a", 10, app="other"))
    assert tried.judge(seen) is None, "denied before and after"


def test_what_no_policy_judges_never_changes() -> None:
    scene = TwoNodeCluster(*PODS)
    tried = simulation_of(scene, putting(WALL, SHUT, policy("shop/out", types=["Egress"])))
    same = scene.address("shop/web")
    for flow in (Flow(same, same, "tcp", 80), scene.flow("b", "shop/db", "80/tcp"), scene.flow("a", "b", "80/tcp")):
        assert tried.judge(ObservedFlow(flow)) is None
    assert tried.judge(ObservedFlow(Flow(same, same, "tcp", 80, translated=True))) is not None


def test_51_the_choice_about_the_own_node_counts() -> None:
    scene = TwoNodeCluster(*PODS)
    flow = scene.flow("shop/web", "a", "80/tcp")
    assert simulation_of(scene, putting(SHUT)).judge(ObservedFlow(flow)) is not None
    assert simulation_of(scene, putting(SHUT), PolicyOptions(own_node="allowed")).judge(ObservedFlow(flow)) is None
    scene.put(SHUT)
    opened = putting(policy("shop/open", labelled(app="web"), egress=[{}]))
    assert simulation_of(scene, opened).judge(ObservedFlow(flow)) is not None
    assert simulation_of(scene, opened, PolicyOptions(own_node="allowed")).judge(ObservedFlow(flow)) is None


def test_policies_that_are_there_already_are_named() -> None:
    scene = TwoNodeCluster(*PODS, FROM_WEB)
    assert simulation_of(scene, putting(FROM_WEB, WALL)).patched.idle == (ObjectRef("NetworkPolicy", "shop", "db"),)
    assert simulation_of(scene, putting(policy("shop/db", labelled(app="db")))).patched.idle == ()


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        (
            ObjectRef("NetworkPolicy", "shop", "dbb"),
            "there is no NetworkPolicy shop/dbb to remove; did you mean shop/db?",
        ),
        (ObjectRef("NetworkPolicy", "ops", "db"), "did you mean shop/db?"),
        (ObjectRef("AdminNetworkPolicy", "", "gard"), "did you mean guard?"),  # codespell:ignore gard
        (ObjectRef("ClusterNetworkPolicy", "", "guard"), "`nfagent dump policies` lists all policies"),
    ],
    ids=["a name misspelt", "another namespace", "a policy of a tier", "another kind"],
)
def test_a_missing_policy_can_not_be_removed(ref: ObjectRef, hint: str) -> None:
    index = TwoNodeCluster(*PODS, FROM_WEB, GUARD).views["a"].index
    with pytest.raises(UsageError) as refused:
        removal_patch(index, [ref])
    assert hint in str(refused.value)
