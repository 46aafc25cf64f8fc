"""Policies that disagree about a destination: found for the Pods of the whole cluster, as these change."""

from __future__ import annotations

from itertools import islice

import pytest

from nfagent.desired.egress_nat_ties import Tie
from nfagent.desired.state import DesiredState
from nfagent.model.egress_nat import EgressAction, EgressNATPolicy, EgressSource
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import Namespace, ObjectRef, Pod
from nfagent.model.selectors import Requirement, Selector

TEN = parse_cidr("10.0.0.0/8")


def labelled(key: str, value: str) -> Selector:
    return Selector((Requirement(key, "In", (value,)),))


WEB, BLUE = EgressSource(labelled("app", "web")), EgressSource(labelled("tier", "blue"))
OPS = EgressSource(namespaces=labelled("team", "ops"))


def policy(
    name: str, action: EgressAction, *sources: EgressSource, cidrs: tuple[str, ...] = ("10.0.0.0/8",), gateway: str = ""
) -> EgressNATPolicy:
    return EgressNATPolicy(
        name=name,
        action=action,
        destinations=tuple(map(parse_cidr, cidrs)),
        sources=sources,
        gateway=ObjectRef("NetworkGatewayGroup", "kube-system", gateway) if gateway else None,
    )


def pod(name: str, **labels: str) -> Pod:
    return Pod(namespace="shop", name=name, labels=tuple(sorted(labels.items())), node="elsewhere")


BOTH = pod("both", app="web", tier="blue")
KEEP, HIDE = policy("keep", "NoSNAT", WEB), policy("hide", "SNAT", BLUE)
GATEWAY_TWO = "action SNAT and gatewayRef kube-system/two"
TIE = Tie(("hide", "keep"), ("action SNAT", "action NoSNAT"), (TEN,))


def ties(view: DesiredState) -> tuple[Tie, ...]:
    view.drain_changes()
    return view.egress_ties


def state(*items: EgressNATPolicy | Pod | Namespace) -> DesiredState:
    view = DesiredState("n1")
    for item in items:
        view.put(item)
    return view


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        pytest.param((KEEP, HIDE, BOTH), (TIE,), id="a Pod of another node that both select"),
        pytest.param((KEEP, HIDE, pod("a", app="web"), pod("b", tier="blue")), (), id="no Pod that both select"),
        pytest.param((policy("keep", "NoSNAT"), policy("hide", "SNAT")), (TIE,), id="every Pod, even without any"),
        pytest.param((KEEP, policy("hide", "SNAT"), BOTH), (TIE,), id="one for every Pod"),
        pytest.param(
            (policy("keep", "NoSNAT", cidrs=("10.0.0.0/9",)), policy("hide", "SNAT")), (), id="prefixes that differ"
        ),
        pytest.param((policy("keep", "NoSNAT"), policy("also", "NoSNAT")), (), id="one action"),
        pytest.param((policy("default", "NoSNAT"), policy("hide", "SNAT")), (), id="the base list, which comes after"),
        pytest.param(
            (policy("a", "SNAT", WEB, gateway="one"), policy("b", "SNAT", BLUE, gateway="two"), BOTH),
            (Tie(("a", "b"), ("action SNAT and gatewayRef kube-system/one", GATEWAY_TWO), (TEN,)),),
            id="two gateways",
        ),
        pytest.param(
            (policy("a", "SNAT", WEB), policy("b", "SNAT", BLUE, gateway="two"), BOTH),
            (Tie(("a", "b"), ("action SNAT", GATEWAY_TWO), (TEN,)),),
            id="a gateway and the node's address",
        ),
        pytest.param(
            (policy("a", "SNAT", WEB, gateway="two"), policy("b", "SNAT", BLUE, gateway="two"), BOTH),
            (),
            id="one gateway",
        ),
    ],
)
def test_a_tie(items: tuple[EgressNATPolicy | Pod, ...], expected: tuple[Tie, ...]) -> None:
    assert ties(state(*items)) == expected


def test_a_gateway_that_changes_makes_a_tie_and_ends_it() -> None:
    view = state(policy("a", "SNAT", WEB, gateway="one"), policy("b", "SNAT", BLUE, gateway="two"), BOTH)
    found = [[one.outcomes[0] for one in ties(view)]]
    for gateway in ("two", "three", ""):
        view.put(policy("a", "SNAT", WEB, gateway=gateway))
        found.append([one.outcomes[0] for one in ties(view)])
    assert found == [
        ["action SNAT and gatewayRef kube-system/one"],
        [],
        ["action SNAT and gatewayRef kube-system/three"],
        ["action SNAT"],
    ]


@pytest.mark.parametrize("steps", range(8))
def test_a_caller_that_stops_before_the_last_step_leaves_the_ties_to_the_next(steps: int) -> None:
    view = state(KEEP, HIDE, BOTH)
    list(islice(view.prepare(), steps))
    assert ties(view) == (TIE,)


@pytest.mark.parametrize("steps", range(8))
def test_a_caller_that_another_overtakes_does_not_bring_older_ties_back(steps: int) -> None:
    view = state(KEEP, HIDE, BOTH)
    overtaken = view.prepare()
    list(islice(overtaken, steps))
    view.put(policy("hide", "SNAT", BLUE, cidrs=("10.1.0.0/16",)))
    assert ties(view) == ()
    list(overtaken)
    assert ties(view) == ()


def test_many_policies_of_one_prefix_are_compared_in_many_steps() -> None:
    view = state(*(policy(f"p{at}", "SNAT", gateway="one" if at % 2 else "two") for at in range(200)))
    assert sum(1 for _ in view.prepare()) > 200 + 10
    assert len(ties(view)) == 1_000


def test_ties_come_and_go_with_pods_labels_and_policies() -> None:
    view = state(KEEP, HIDE)
    found = [ties(view)]
    for item in (BOTH, pod("both", app="web"), BOTH, pod("more", app="web", tier="blue", x="y")):
        view.put(item)
        found.append(ties(view))
    view.remove(ObjectRef("Pod", "shop", "both"))
    found.append(ties(view))
    view.put(policy("hide", "SNAT", BLUE, cidrs=("10.1.0.0/16",)))
    found.append(ties(view))
    assert found == [(), (TIE,), (), (TIE,), (TIE,), (TIE,), ()]


def test_ties_follow_the_labels_of_namespaces() -> None:
    view = state(KEEP, policy("hide", "SNAT", OPS), BOTH)
    found = [ties(view)]
    for team in ("ops", "sales", "ops"):
        view.put(Namespace("shop", (("team", team),)))
        found.append(ties(view))
    assert found == [(), (TIE,), (), (TIE,)]


def test_a_tie_is_found_also_by_a_caller_that_leaves_steps_to_the_next_one() -> None:
    for stop in range(1, sum(1 for _ in state(KEEP, HIDE, BOTH).prepare()) + 1):
        view = state(KEEP, HIDE, BOTH)
        for _ in islice(view.prepare(), stop):
            pass
        assert ties(view) == (TIE,), stop


def test_a_policy_that_changes_between_two_steps_counts() -> None:
    for stop in range(1, sum(1 for _ in state(KEEP, HIDE, BOTH).prepare()) + 1):
        view = state(KEEP, HIDE, BOTH)
        steps = view.prepare()
        for _ in islice(steps, stop):
            pass
        view.put(policy("hide", "NoSNAT", BLUE))
        for _ in steps:
            pass
        assert ties(view) == (), stop
