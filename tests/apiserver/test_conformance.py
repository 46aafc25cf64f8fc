"""The recorded suites by way of an API server: what it adds to objects, and how they come, makes no difference.

Set NFAGENT_CONFORMANCE_CASES=all to replay every case; else every tag and support level once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from nfagent.desired.state import DesiredState
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import LabApiClient
from nfagent.policy.evaluator import evaluate
from tests.conformance.cover import cover
from tests.conformance.readings import decode
from tests.conformance.results import ResultBuilder
from tests.conformance.suites import NAMES, Case, State, Suite, flows, places, recorded, states
from tests.support.apiserver_labs import tier_definitions
from tests.support.http_follower import HttpFollower

pytestmark = pytest.mark.apiserver

SUITES = {name: recorded(name) for name in NAMES}
WHOLE = os.environ.get("NFAGENT_CONFORMANCE_CASES") == "all"


class Replay:
    """A suite's objects in an API server, and an agent's view of them."""

    def __init__(self, suite: Suite, client: LabApiClient, follower: HttpFollower) -> None:
        self.suite = suite
        self.client = client
        self.follower = follower
        self._state: State = {}

    def take_up(self, state: State) -> None:
        """Apply a state's objects to the server, and wait until the agent has read them."""
        gone = {ref: document for ref, document in self._state.items() if ref not in state}
        changed = [document for ref, document in state.items() if self._state.get(ref) != document]
        # A Namespace goes with all that is in it, so what is in it goes before.
        for _, document in sorted(gone.items(), key=lambda one: one[0].kind == "Namespace"):
            self.client.delete(document)
        self.client.put_all(changed)
        self._state = state
        assert self.follower.settle(self.client, [*gone.values(), *changed]), self.follower.problems

    def judge(self, case: Case) -> list[str]:
        """Return the probes of a case whose verdict by `evaluate` differs from the suite's."""
        counts = ResultBuilder(case, "evaluate")
        desired = self.follower.desired
        for step, state in states(self.suite, case):
            self.take_up(state)
            for probe, flow in flows(case, step, places(self.suite, state)):
                allowed = evaluate(desired.cluster, desired.index.policies.values(), flow).allowed
                counts.judged(step.number, probe, flow, "allowed" if allowed else "denied")
        return [str(failure) for failure in counts.result().failures]


@pytest.fixture(scope="module", params=NAMES)
def replay(request: pytest.FixtureRequest, control_plane: ControlPlane) -> Iterator[Replay]:
    suite = SUITES[request.param]
    with control_plane.client() as client:
        before = client.inventory()
        client.put_all(tier_definitions())
        with HttpFollower(control_plane, control_plane.token_for("admin"), suite.nodes[0].name) as follower:
            replay = Replay(suite, client, follower)
            replay.take_up(suite.base)
            yield replay
        client.remove(client.inventory() - before)


@pytest.mark.parametrize(
    ("replay", "case"),
    [
        pytest.param(suite.name, case, id=f"{case.id} {', '.join(case.tags)}")
        for suite in SUITES.values()
        for case in (suite.cases if WHOLE else cover(suite.cases))
    ],
    indirect=["replay"],
    scope="module",
)
def test_objects_that_came_by_an_api_server_get_the_verdicts_that_the_suite_expects(replay: Replay, case: Case) -> None:
    assert replay.judge(case)[:5] == []


@pytest.mark.parametrize("replay", NAMES, indirect=True, scope="module")
def test_what_the_server_adds_to_objects_changes_nothing_of_what_is_read(replay: Replay) -> None:
    """It fills in protocols, policyTypes, a Pod's host ports, the label with a Namespace's own name."""
    replay.take_up(replay.suite.base)
    for _, state in states(replay.suite, cover(replay.suite.cases)[-1]):
        replay.take_up(state)
        wanted, found = DesiredState(replay.suite.nodes[0].name), replay.follower.desired
        for document in state.values():
            wanted.put(decode(document))
        assert found.index.policies == wanted.index.policies
        assert {key: found.cluster.pods[key] for key in wanted.cluster.pods} == wanted.cluster.pods
        assert {key: found.cluster.nodes[key] for key in wanted.cluster.nodes} == wanted.cluster.nodes
