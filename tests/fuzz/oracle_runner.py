"""A case put to its judges, step by step: what they find first, and whether they find it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Protocol

from nfagent.desired.state import DesiredState
from nfagent.errors import KernelError, UsageError
from nfagent.model.netaddr import family_of
from nfagent.policy.evaluator import Flow
from tests.fuzz.case import Case, Finding, Way
from tests.fuzz.link_scope import WAYS, neighbours
from tests.fuzz.oracles import Make, Readings
from tests.fuzz.packets import PacketLab
from tests.fuzz.stats import Tally
from tests.fuzz.topology import FORMS, SENDABLE, flows, judged_flows

_WATCHED = 150
_FORMS_A_STEP = 4
_CHANGED, _MIXED, _ANY = 50, 50, 20
_LINK_SCOPE = 200


class _Choice(Protocol):
    """Chooses what is asked after a step.

    patience: how many seconds an answer may take that didn't come at first
    """

    patience: float

    def grid(self, *, last: bool) -> Sequence[Flow]:
        """Give the flows that evaluate and the rules are asked about."""
        ...

    def probes(self, readings: Readings) -> Sequence[Flow]:
        """Give the flows whose first packets are sent."""
        ...

    def link_scope(self) -> Sequence[tuple[Flow, Way]]:
        """Give the flows on one link that are tried by other addresses, and by which."""
        ...

    def kept(self, sent: Sequence[Flow]) -> Sequence[Flow]:
        """Give the flows that shall live on, where they are allowed, of those sent or of others."""
        ...


class Judges:
    """Those whom cases are put to; without a lab, the two that need no packets."""

    def __init__(self, tally: Tally, lab: PacketLab | None = None, make: Make = DesiredState) -> None:
        """Join them; `make` makes a node's state."""
        self.lab = lab
        self._tally = tally
        self._make = make

    def search(self, case: Case, random: Random, *, packets: bool = False) -> Finding | None:
        """Ask about grids of flows after every step, about all of them after the last; give what differs first.

        random:  chooses what is asked in between, which connections are made to live, and what is sent
        packets: have the lab judge too
        """
        choice = _AnyFlow(random)
        readings = Readings(random.sample(judged_flows(), _WATCHED), self._make, self._tally)
        self._tally.cases += 1
        return _first(self._hear(case, readings, choice, self.lab if packets else None), readings)

    def repeat(self, case: Case, finding: Finding, *, alike: bool = True) -> Finding | None:
        """Ask what was asked for a finding, and nothing else; give what differs: just as then, or `alike` or not.

        Packets are sent if they were.
        """
        question = finding.question
        watched = (question.flow,) if question is not None and question.kind == "established" else ()
        readings = Readings(watched, self._make)
        lab = self.lab if "packets" in finding.verdicts else None
        return _first(self._hear(case, readings, _OneQuestion(finding), lab), readings, finding if alike else None)

    def _hear(self, case: Case, readings: Readings, choice: _Choice, lab: PacketLab | None) -> Iterator[Finding]:
        if lab is not None:
            lab.clear()
            readings.tally.packet_cases += 1
        changes = 0
        for number, step in enumerate(case.steps):
            readings.tally.steps += 1
            changes += len(step.changes)
            readings.take(step)
            if readings.told:
                yield from readings.first(choice.grid(last=number == len(case.steps) - 1))
                yield from readings.established()
            if lab is not None:
                lab.take(step)
            if lab is not None and readings.told:
                yield from lab.compared(readings)
                yield from lab.established(readings, choice.patience, lone=changes == 1)
                yield from lab.link_scope(readings, choice.link_scope())
                sent = choice.probes(readings)
                yield from lab.first(readings, sent, choice.patience)
                lab.make([flow for flow in choice.kept(sent) if readings.allowed(flow)])
                changes = 0
        yield from readings.restarted()


def _first(findings: Iterator[Finding], readings: Readings, like: Finding | None = None) -> Finding | None:
    """Give the first finding, or the first that is like another. A judge that fails is one too."""
    try:
        return next((finding for finding in findings if like is None or finding.like(like)), None)
    except Exception as error:  # noqa: BLE001 - whatever a judge ends with is what the fuzzer looks for
        # The lab's own errors: an agent that has ended, or doesn't follow.
        judge = "packets" if isinstance(error, KernelError | UsageError) else "rules"
        failed = Finding(readings.step, None, {judge: type(error).__name__}, str(error))
        return failed if like is None or failed.like(like) else None


class _AnyFlow:
    """Chooses as a generator says.

    Sent is some of what the last step has changed, of what depends on protocol and port, and of everything.
    """

    patience = 2.5

    def __init__(self, random: Random) -> None:
        self._random = random
        self._before: dict[Flow, bool] = {}

    def grid(self, *, last: bool) -> Sequence[Flow]:
        forms = FORMS if last else self._random.sample(FORMS, _FORMS_A_STEP)
        return [flow for form in forms for flow in flows(form)]

    def probes(self, readings: Readings) -> Sequence[Flow]:
        now = {flow: readings.allowed(flow) for form in SENDABLE for flow in flows(form)}
        changed = [flow for flow, allowed in now.items() if self._before.get(flow, True) != allowed]
        self._before = now
        verdicts: dict[tuple[str, str], set[bool]] = {}
        for flow, allowed in now.items():
            verdicts.setdefault((flow.source, flow.destination), set()).add(allowed)
        mixed = [flow for flow in now if len(verdicts[flow.source, flow.destination]) > 1]
        chosen = [*self._some(changed, _CHANGED), *self._some(mixed, _MIXED), *self._some(list(now), _ANY)]
        return list(dict.fromkeys(chosen))

    def link_scope(self) -> Sequence[tuple[Flow, Way]]:
        flows = self._some(neighbours(), _LINK_SCOPE)
        return [(flow, self._random.choice(WAYS[family_of(flow.source)])) for flow in flows]

    def kept(self, sent: Sequence[Flow]) -> Sequence[Flow]:
        return self._some(sent, len(sent))

    def _some(self, of: Sequence[Flow], most: int) -> Sequence[Flow]:
        return self._random.sample(of, min(most, len(of)))


class _OneQuestion:
    """Chooses the question of a finding; nothing where a judge failed before it was asked anything."""

    patience = 1.0  # whoever fails is asked hundreds of times, for a smaller case each time

    def __init__(self, finding: Finding) -> None:
        question = finding.question
        self._first: list[Flow] = []
        self._kept: list[Flow] = []
        self._link_scope: list[tuple[Flow, Way]] = []
        if question is None:
            return
        if question.kind == "first":
            self._first = self._kept = [question.flow]
        elif question.kind == "established":
            self._kept = [question.flow]
        else:
            self._link_scope = [(question.flow, question.kind)]

    def grid(self, *, last: bool) -> Sequence[Flow]:  # noqa: ARG002 - after every step alike
        return self._first

    def probes(self, readings: Readings) -> Sequence[Flow]:  # noqa: ARG002 - whatever they say
        return self._first

    def link_scope(self) -> Sequence[tuple[Flow, Way]]:
        return self._link_scope

    def kept(self, sent: Sequence[Flow]) -> Sequence[Flow]:  # noqa: ARG002 - this one alone
        return self._kept
