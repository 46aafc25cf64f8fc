"""A simulation as a job: the request, and the result in parts, which arrive while a long one still runs.

The running agent works on it in slices of its event loop, so that it doesn't delay enforcement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import monotonic

import msgspec

from nfagent.errors import UsageError, ValidationIssue
from nfagent.model.objects import Pod
from nfagent.policy.options import PolicyOptions
from nfagent.simulate.patch import PolicyPatch, removal_patch
from nfagent.simulate.pod_pairs import PodPairs
from nfagent.simulate.policy_files import PolicyFile, PolicyFiles
from nfagent.simulate.simulation import FlowChange, FlowCounts, ObservedFlow, PolicySimulation
from nfagent.simulate.translations import (
    EgressInputs,
    TranslationChanges,
    TranslationComparison,
    removed_refs,
)
from nfagent.state.cluster import ClusterState
from nfagent.state.pod_lookup import find_pod
from nfagent.state.policy_index import PolicyIndex
from nfagent.time_slices import SLICE_SECONDS

MAX_FLOWS = 200_000
"""Limit of one simulation: flows of the log."""
MAX_POD_FLOWS = 10_000_000
"""Limit of one simulation: flows between Pods, of which those that policies can't tell apart count once."""


class SimulationRequest(msgspec.Struct, frozen=True):
    """The request of `nfagent try`.

    files:     the policies
    delete:    remove the policies that the files name, instead of applying them
    pods:      evaluate all pairs of Pods too, or those with an end in `namespace`, if it isn't ''
    pod:       only flows with this Pod at an end, as NAMESPACE/NAME, if it isn't ''
    """

    files: tuple[PolicyFile, ...]
    delete: bool = False
    pods: bool = False
    namespace: str = ""
    pod: str = ""


class SimulationResult(msgspec.Struct, frozen=True):
    """The result of a simulation.

    policies: the policies that are added, changed or removed
    idle:     those of them that exist already, unchanged
    judged:   number of Pods that these policies select, before or after the change
    unlogged: number of these Pods of which this node's verdict log lacks connections
    log:      counts of the flows of the log
    pods:     counts of the flows between Pods; None where they weren't requested
    notes:    what may be stale in the state that was used
    egress:   what hosts outside would see otherwise; None where no egress object changes
    pod:      the Pod that was asked for
    unlisted: flows between Pods that change, beyond those that are listed
    """

    policies: tuple[str, ...]
    idle: tuple[str, ...]
    judged: int
    unlogged: int
    log: FlowCounts
    pods: FlowCounts | None
    notes: tuple[str, ...] = ()
    egress: TranslationChanges | None = None
    pod: str = ""
    unlisted: int = 0


class SimulationPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of the answer.

    total, done: flows to evaluate, and those evaluated so far
    problems:    what is wrong with the policies
    changes:     flows found to change since the last part
    outcome:     the result; only in the last part
    """

    total: int
    done: int = 0
    problems: tuple[ValidationIssue, ...] = ()
    changes: tuple[FlowChange, ...] = ()
    outcome: SimulationResult | None = None


def start_simulation(
    cluster: ClusterState,
    index: PolicyIndex,
    policy_options: PolicyOptions,
    given: PolicyFiles,
    *,
    delete: bool,
    egress: EgressInputs | None = None,
) -> PolicySimulation:
    """Return the simulation of policies, or of their deletion. Raises UsageError where one to delete is missing.

    egress: what decides translations; without it, egress objects in the files are not compared
    """
    patch = PolicyPatch(put=given.policies)
    if delete:
        patch = removal_patch(index, (policy.ref for policy in given.policies))
    translations = None
    if egress is not None and given.egress:
        removed = removed_refs(egress.state, given.egress) if delete else ()
        translations = TranslationComparison(cluster, egress, () if delete else given.egress, removed)
    return PolicySimulation(cluster, index, patch, policy_options, translations)


class SimulationJob:
    """A simulation of the whole request, step by step."""

    def __init__(
        self, simulation: PolicySimulation, given: PolicyFiles, asked: SimulationRequest, logged: Iterable[ObservedFlow]
    ) -> None:
        """Create the job; `plan` comes first, then `judge`. Raises UsageError for an unknown Pod.

        logged: the flows of the log; they are iterated twice
        """
        if asked.pods and asked.pod:
            _check_pod(find_pod(simulation.cluster, asked.pod))
        self._simulation = simulation
        self._problems = () if asked.delete else given.problems
        self._asked = asked
        self._logged = logged
        self._pairs = PodPairs(simulation, asked.namespace, asked.pod)
        self._flows = 0
        self._found: list[FlowChange] = []

    def plan(self) -> Iterator[None]:
        """Enumerate the Pods and count the flows. Raises UsageError for more than MAX_FLOWS, or unreadable ones."""
        yield from self._pairs.steps()
        if self._simulation.translations is not None:
            yield from self._simulation.translations.plan(self._asked.namespace)
        for _ in self._logged:
            self._flows += 1
            if self._flows > MAX_FLOWS:
                raise UsageError(
                    f"the log has more than {MAX_FLOWS:,} connections to evaluate",
                    hint="narrow them with -n NS to those with an end in that namespace, with --pod, or with --since",
                )
            yield
        if self._asked.pods:
            yield from self._plan_pairs()
        self._check_namespace()

    def judge(self) -> Iterator[None]:
        """Evaluate one flow in each step."""
        for flow in self._logged:
            self._keep(self._simulation.judge(flow))
            yield
        for change in self._pairs.compare() if self._asked.pods else ():
            self._keep(change)
            yield
        if self._simulation.translations is not None:
            yield from self._simulation.translations.compare()

    def first_part(self) -> SimulationPart:
        """Return the first part: the number of flows, and the problems."""
        return SimulationPart(self._total, problems=self._problems)

    def next_part(self) -> SimulationPart:
        """Return the changes found since the last part."""
        found, self._found = tuple(self._found), []
        return SimulationPart(self._total, self._simulation.log.judged + self._pairs.done, changes=found)

    def last_part(self) -> SimulationPart:
        """Return the last part, with the result."""
        simulation, pairs, translations = self._simulation, self._pairs, self._simulation.translations
        refs, idle = simulation.patched.patch.refs, simulation.patched.idle
        if translations is not None:
            refs, idle = (*refs, *translations.refs), (*idle, *translations.idle)
        outcome = SimulationResult(
            policies=tuple(map(str, refs)),
            idle=tuple(map(str, idle)),
            judged=pairs.judged,
            unlogged=pairs.unlogged,
            log=simulation.log,
            pods=simulation.pods if self._asked.pods else None,
            notes=simulation.notes,
            egress=None if translations is None else translations.result,
            pod=self._asked.pod,
            unlisted=pairs.unlisted,
        )
        return msgspec.structs.replace(self.next_part(), outcome=outcome)

    def _check_namespace(self) -> None:
        """Raise UsageError for an unknown namespace: "no flow would change" would be misleading."""
        cluster, namespace = self._simulation.cluster, self._asked.namespace
        if namespace and not self._total and namespace not in {*cluster.namespaces, *cluster.by_namespace}:
            raise UsageError(
                f"there is no namespace {namespace}, and no flow with an end in it",
                hint="`nfagent dump state` lists all Pods",
            )

    @property
    def _total(self) -> int:
        return self._flows + self._pairs.total

    def _plan_pairs(self) -> Iterator[None]:
        for _ in self._pairs.plan():
            if self._pairs.total > MAX_POD_FLOWS:
                raise UsageError(
                    f"there are more than {MAX_POD_FLOWS:,} connections between Pods that policies tell apart",
                    hint="narrow them with -n NS to those with an end in that namespace, with --pod NS/POD, or try "
                    "fewer policies at once",
                )
            yield

    def _keep(self, change: FlowChange | None) -> None:
        if change is not None:
            self._found.append(change)


def _check_pod(pod: Pod) -> None:
    """Check that policies apply to a Pod. Raises UsageError."""
    if not pod.holds_addresses:
        raise UsageError(
            f"Pod {pod.ref.path} has no address of its own: no policy applies to its connections",
            hint="it uses its node's network, has ended, or has no address yet: see `nfagent dump state --pod`",
        )


def run_in_slices(work: SimulationJob, seconds: float = SLICE_SECONDS) -> Iterator[SimulationPart | None]:
    """Run the job in slices of so many seconds; yield a part after each slice, None while planning.

    Raises UsageError before the first part only.
    """
    start = monotonic()
    for _ in work.plan():
        if monotonic() - start > seconds:
            yield None
            start = monotonic()
    yield work.first_part()
    start = monotonic()
    for _ in work.judge():
        if monotonic() - start > seconds:
            yield work.next_part()
            start = monotonic()
    yield work.last_part()
