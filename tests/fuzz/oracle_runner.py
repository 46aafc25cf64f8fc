"""Runs a case through the oracles, step by step: the first finding, and whether it is repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Protocol

from nfagent.desired.state import DesiredState
from nfagent.errors import KernelError, UsageError
from nfagent.model.netaddr import family_of
from nfagent.policy.evaluator import Flow
from tests.fuzz.case import Case, Finding, LinkDestination
from tests.fuzz.link_scope import LINK_DESTINATIONS, link_flows
from tests.fuzz.oracles import Make, Oracles
from tests.fuzz.packets import PacketLab
from tests.fuzz.stats import Counts
from tests.fuzz.tables import KernelTables
from tests.fuzz.topology import FORMS, SENDABLE, flows, pod_flows

_WATCHED = 150
_FORMS_A_STEP = 4
_CHANGED, _MIXED, _ANY = 50, 50, 20
_LINK_SCOPE = 200


class _FlowSelection(Protocol):
    """Selects the flows to check after a step.

    patience: seconds that an answer may take which didn't come at first
    """

    patience: float

    def grid(self, *, last: bool) -> Sequence[Flow]:
        """Return the flows for the evaluator and the rules."""
        ...

    def probes(self, oracles: Oracles) -> Sequence[Flow]:
        """Return the flows whose first packets are sent."""
        ...

    def link_scope(self) -> Sequence[tuple[Flow, LinkDestination]]:
        """Return the flows on one link that are sent to other addresses, with these."""
        ...

    def to_keep(self, sent: Sequence[Flow]) -> Sequence[Flow]:
        """Return the flows, of those sent or others, whose connections stay open where they are allowed."""
        ...


class OracleRunner:
    """Runs cases through the oracles; without a lab, through those without packets."""

    def __init__(
        self,
        counts: Counts,
        lab: PacketLab | None = None,
        make: Make = DesiredState,
        tables: KernelTables | None = None,
    ) -> None:
        """Keep the oracles' parameters; `make` returns a node's state; `tables`: for the oracle of text and bytes."""
        self.lab = lab
        self._tables = tables
        self._counts = counts
        self._make = make

    def search(self, case: Case, random: Random, *, packets: bool = False, tables: bool = False) -> Finding | None:
        """Check random flows after every step, all flows after the last; return the first finding.

        random:  selects the flows in between, the connections to open, and the packets to send
        packets: use the lab too
        tables:  compare the real tables too
        """
        selection = RandomFlows(random)
        real = self._tables if tables else None
        oracles = Oracles(random.sample(pod_flows(), _WATCHED), self._make, self._counts, real)
        self._counts.cases += 1
        self._counts.table_cases += real is not None
        return _first(self._run(case, oracles, selection, self.lab if packets else None), oracles)

    def repeat(self, case: Case, finding: Finding, *, alike: bool = True) -> Finding | None:
        """Check the question of a finding only; return the finding: the same one, or, unless `alike`, any.

        Packets are sent where the finding has a verdict of packets.
        """
        question = finding.question
        watched = (question.flow,) if question is not None and question.kind == "established" else ()
        oracles = Oracles(watched, self._make, tables=self._tables if "bytes" in finding.verdicts else None)
        lab = self.lab if "packets" in finding.verdicts else None
        return _first(self._run(case, oracles, _FlowsOfFinding(finding), lab), oracles, finding if alike else None)

    def _run(self, case: Case, oracles: Oracles, selection: _FlowSelection, lab: PacketLab | None) -> Iterator[Finding]:
        if lab is not None:
            lab.clear()
            oracles.counts.packet_cases += 1
        changes = 0
        for number, step in enumerate(case.steps):
            oracles.counts.steps += 1
            changes += len(step.changes)
            oracles.take(step)
            if oracles.committed:
                yield from oracles.first(selection.grid(last=number == len(case.steps) - 1))
                yield from oracles.established()
                yield from oracles.tables()
            if lab is not None:
                lab.take(step)
            if lab is not None and oracles.committed:
                yield from lab.compared(oracles)
                yield from lab.established(oracles, selection.patience, lone=changes == 1)
                yield from lab.link_scope(oracles, selection.link_scope())
                sent = selection.probes(oracles)
                yield from lab.first(oracles, sent, selection.patience)
                lab.make([flow for flow in selection.to_keep(sent) if oracles.allowed(flow)])
                changes = 0
        yield from oracles.restarted()


def _first(findings: Iterator[Finding], oracles: Oracles, like: Finding | None = None) -> Finding | None:
    """Return the first finding, or the first that is like another. An oracle's exception is a finding too."""
    try:
        return next((finding for finding in findings if like is None or finding.like(like)), None)
    except Exception as error:  # noqa: BLE001 - any exception of an oracle is a finding
        # The lab's own errors: an agent has ended, or doesn't sync.
        oracle = "packets" if isinstance(error, KernelError | UsageError) else "rules"
        failed = Finding(oracles.step, None, {oracle: type(error).__name__}, str(error))
        return failed if like is None or failed.like(like) else None


class RandomFlows:
    """Selects random flows.

    Sent are some flows that the last step changed, some that depend on protocol and port, and some of all.
    """

    patience = 2.5

    def __init__(self, random: Random) -> None:
        self._random = random
        self._before: dict[Flow, bool] = {}

    def grid(self, *, last: bool) -> Sequence[Flow]:
        forms = FORMS if last else self._random.sample(FORMS, _FORMS_A_STEP)
        return [flow for form in forms for flow in flows(form)]

    def probes(self, oracles: Oracles) -> Sequence[Flow]:
        now = {flow: oracles.allowed(flow) for form in SENDABLE for flow in flows(form)}
        changed = [flow for flow, allowed in now.items() if self._before.get(flow, True) != allowed]
        self._before = now
        verdicts: dict[tuple[str, str], set[bool]] = {}
        for flow, allowed in now.items():
            verdicts.setdefault((flow.source, flow.destination), set()).add(allowed)
        mixed = [flow for flow in now if len(verdicts[flow.source, flow.destination]) > 1]
        chosen = [*self._some(changed, _CHANGED), *self._some(mixed, _MIXED), *self._some(list(now), _ANY)]
        return list(dict.fromkeys(chosen))

    def sendable(self) -> Sequence[Flow]:
        """Return every flow for which the lab has servers, in random order."""
        everything = [flow for form in SENDABLE for flow in flows(form)]
        return self._some(everything, len(everything))

    def link_scope(self) -> Sequence[tuple[Flow, LinkDestination]]:
        flows = self._some(link_flows(), _LINK_SCOPE)
        return [(flow, self._random.choice(LINK_DESTINATIONS[family_of(flow.source)])) for flow in flows]

    def to_keep(self, sent: Sequence[Flow]) -> Sequence[Flow]:
        return self._some(sent, len(sent))

    def _some(self, of: Sequence[Flow], most: int) -> Sequence[Flow]:
        return self._random.sample(of, min(most, len(of)))


class _FlowsOfFinding:
    """Selects the flow of a finding; none where an oracle failed without a question."""

    patience = 1.0  # a failing case is checked hundreds of times while it is shrunk

    def __init__(self, finding: Finding) -> None:
        question = finding.question
        self._first: list[Flow] = []
        self._kept: list[Flow] = []
        self._link_scope: list[tuple[Flow, LinkDestination]] = []
        if question is None:
            return
        if question.kind == "first":
            self._first = self._kept = [question.flow]
        elif question.kind == "established":
            self._kept = [question.flow]
        else:
            self._link_scope = [(question.flow, question.kind)]

    def grid(self, *, last: bool) -> Sequence[Flow]:  # noqa: ARG002 - the same after every step
        return self._first

    def probes(self, oracles: Oracles) -> Sequence[Flow]:  # noqa: ARG002 - the same for any verdicts
        return self._first

    def link_scope(self) -> Sequence[tuple[Flow, LinkDestination]]:
        return self._link_scope

    def to_keep(self, sent: Sequence[Flow]) -> Sequence[Flow]:  # noqa: ARG002 - always this flow
        return self._kept
