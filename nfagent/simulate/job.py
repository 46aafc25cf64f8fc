"""Trials of policies: what is asked, and what is answered bit by bit, so that nobody waits for the end of a long one.

The running agent judges on its event loop, in turns: it has other things to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import monotonic

import msgspec

from nfagent.errors import UsageError, ValidationIssue
from nfagent.policy.options import PolicyOptions
from nfagent.simulate.patch import PolicyPatch, taking_away
from nfagent.simulate.pod_pairs import PodPairEnumerator
from nfagent.simulate.policy_files import PolicyFile, PolicyFiles
from nfagent.simulate.simulation import FlowChange, FlowCounts, ObservedFlow, PolicySimulation
from nfagent.state.cluster import ClusterState
from nfagent.state.policy_index import PolicyIndex
from nfagent.time_slices import TURN_SECONDS

MOST_FLOWS = 200_000
"""Flows of the log, and flows between Pods, that one trial judges."""


class SimulationRequest(msgspec.Struct, frozen=True):
    """The question.

    files:     the policies
    delete:    take away the policies that the files name, instead of putting them in
    pods:      judge all pairs of Pods too, those with an end in `namespace`, where there is one
    """

    files: tuple[PolicyFile, ...]
    delete: bool = False
    pods: bool = False
    namespace: str = ""


class SimulationResult(msgspec.Struct, frozen=True):
    """What is known at the end, or before it of what was asked.

    policies: the policies that come, change or go
    idle:     of these, those that are there already, just so
    judged:   Pods that these policies judge, before or after
    unlogged: of these, those of whose connections the verdict log of this node lacks some
    log:      what became of the flows of the log
    pods:     what became of the flows between Pods; None where they weren't asked for
    notes:    what may be older, or other, than what was judged by
    """

    policies: tuple[str, ...]
    idle: tuple[str, ...]
    judged: int
    unlogged: int
    log: FlowCounts
    pods: FlowCounts | None
    notes: tuple[str, ...] = ()


class SimulationPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A bit of the answer.

    total, done: flows that are to be judged, and those that were
    problems:    what is wrong with the policies
    changes:     found since the last part
    outcome:     the last part has it
    """

    total: int
    done: int = 0
    problems: tuple[ValidationIssue, ...] = ()
    changes: tuple[FlowChange, ...] = ()
    outcome: SimulationResult | None = None


def begin_trial(
    cluster: ClusterState, index: PolicyIndex, choices: PolicyOptions, given: PolicyFiles, *, delete: bool
) -> PolicySimulation:
    """Make ready what is to be tried. Raises UsageError for a policy to be deleted that isn't there."""
    if delete:
        return PolicySimulation(cluster, index, taking_away(index, (policy.ref for policy in given.policies)), choices)
    return PolicySimulation(cluster, index, PolicyPatch(put=given.policies), choices)


class SimulationJob:
    """A trial of everything that was asked, step by step."""

    def __init__(
        self, trial: PolicySimulation, given: PolicyFiles, asked: SimulationRequest, seen: Iterable[ObservedFlow]
    ) -> None:
        """Plan it.

        seen: the flows of the log; they are gone through twice
        """
        self._trial = trial
        self._problems = () if asked.delete else given.problems
        self._asked = asked
        self._seen = seen
        self._survey = PodPairEnumerator(trial.cluster, trial.amended, asked.namespace)
        self._total = 0
        self._found: list[FlowChange] = []

    def plan(self) -> Iterator[None]:
        """Look at the Pods, and count what is to be judged. Raises UsageError where that is too much, or unreadable."""
        yield from self._survey.steps()
        for seen in self._all():
            self._total += seen is not None
            if self._total > MOST_FLOWS:
                raise UsageError(
                    f"there are more than {MOST_FLOWS:,} connections to judge; narrow them with -n NS to those with an "
                    "end in that namespace, with --since, or try fewer policies at once"
                )
            yield
        self._check_namespace()

    def judge(self) -> Iterator[None]:
        """Judge, one flow at each step."""
        for seen in self._all():
            change = self._trial.judge(seen) if seen is not None else None
            if change is not None:
                self._found.append(change)
            yield

    def begun(self) -> SimulationPart:
        """Say what there is to do."""
        return SimulationPart(self._total, problems=self._problems)

    def news(self) -> SimulationPart:
        """Say what was found since this was asked last."""
        found, self._found = tuple(self._found), []
        return SimulationPart(self._total, self._trial.log.judged + self._trial.pods.judged, changes=found)

    def ended(self) -> SimulationPart:
        """Say the rest."""
        trial, survey = self._trial, self._survey
        outcome = SimulationResult(
            policies=tuple(map(str, trial.amended.amendment.refs)),
            idle=tuple(map(str, trial.amended.idle)),
            judged=survey.judged,
            unlogged=survey.unlogged,
            log=trial.log,
            pods=trial.pods if self._asked.pods else None,
            notes=trial.notes,
        )
        return msgspec.structs.replace(self.news(), outcome=outcome)

    def _check_namespace(self) -> None:
        """Refuse a namespace that matches nothing: that none of its flows would change would be no news of it."""
        cluster, namespace = self._trial.cluster, self._asked.namespace
        if namespace and not self._total and namespace not in {*cluster.namespaces, *cluster.by_namespace}:
            raise UsageError(
                f"there is no namespace {namespace} here, and no flow with an end in it; "
                "`nfagent dump state` lists all Pods"
            )

    def _all(self) -> Iterator[ObservedFlow | None]:
        yield from self._seen
        if self._asked.pods:
            yield from self._survey.flows()


def in_turns(work: SimulationJob, seconds: float = TURN_SECONDS) -> Iterator[SimulationPart | None]:
    """Do the work in turns of so many seconds; at the end of each give what is new, None while it is being planned.

    Raises UsageError before it gives a part, or never.
    """
    start = monotonic()
    for _ in work.plan():
        if monotonic() - start > seconds:
            yield None
            start = monotonic()
    yield work.begun()
    start = monotonic()
    for _ in work.judge():
        if monotonic() - start > seconds:
            yield work.news()
            start = monotonic()
    yield work.ended()
