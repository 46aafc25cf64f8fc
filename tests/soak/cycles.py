"""One cycle: the steps of its history, with faults and new Pod links in between, and questions after each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from random import Random

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.errors import NfagentError
from nfagent.lab.machine.patience import patient
from tests.fuzz.case import Case, Finding, Question, Step
from tests.fuzz.generator import generator
from tests.fuzz.oracle_runner import RandomFlows
from tests.fuzz.oracles import Make, Oracles
from tests.fuzz.packets import PacketLab
from tests.fuzz.stats import Counts
from tests.fuzz.topology import AT, PLACES
from tests.soak.faults import Fault, await_healed, faults_of
from tests.soak.plan import draw_cycle

_FAULT, _REPLACED = 0.5, 0.25
_TRANSLATED = 12
_AFTER_FAULT = 40
_SECONDS, _PATIENCE, _HEALED_SECONDS = 0.25, patient(2.5), patient(30.0)


class Problem(msgspec.Struct, frozen=True):
    """What isn't as it should be.

    kind:  a wrong verdict, a wrong source address, a table that isn't the desired one, an agent that doesn't settle, or
           what has not converged
    step:  of the cycle, from 1; 0 for none
    fault: the fault before it; '' for none
    """

    cycle: int
    step: int
    kind: str
    words: str
    fault: str = ""


class Churn(msgspec.Struct):
    """Counts of what happened.

    cycles, steps, documents: histories, their steps, and documents that were written or deleted
    links:                    Pod links and network namespaces that were made anew
    settled:                  moments at which questions were asked
    translated:               source addresses that were compared
    healed:                   fault -> seconds until the table was the desired one again, each time
    """

    cycles: int = 0
    steps: int = 0
    documents: int = 0
    links: int = 0
    settled: int = 0
    translated: int = 0
    healed: dict[str, list[float]] = {}


class CycleRunner:
    """Runs cycles in one lab, and asks questions at moments when agents have settled."""

    def __init__(self, lab: PacketLab, show: Callable[[str], None], make: Make = DesiredState) -> None:
        """Start without counts.

        show: shows progress
        make: returns a node's state, for the evaluator
        """
        self._make = make
        self.counts = Counts()
        self.churn = Churn()
        self.problems: list[Problem] = []
        self._lab = lab
        self._faults = faults_of(lab)
        self._show = show
        self._at = (0, 0, "")

    def run(self, seed: int, number: int, case: Case | None = None) -> Case:
        """Run a cycle, and return its history. Problems are collected.

        case: the history in place of the drawn one

        After an agent that didn't settle, all agents are restarted, and the cycle ends with its last step.
        """
        random = generator(seed, number)
        case = case or draw_cycle(random)
        oracles, selection = Oracles(make=self._make, counts=self.counts), RandomFlows(random)
        changes = 0
        self.churn.cycles += 1
        try:
            for place, step in enumerate(case.steps, start=1):
                self._at = (number, place, "")
                changes += len(step.changes)
                self._take(oracles, step, random)
                if oracles.committed:
                    self._ask(oracles, selection, lone=changes == 1)
                    changes = 0
                    self._disturb(oracles, selection, random)
        except NfagentError as error:
            self._report("not settled", str(error))
            self._restart_all(case.steps[-1])
        return case

    def _take(self, oracles: Oracles, step: Step, random: Random) -> None:
        """Apply a step; one in some, while a fault lasts."""
        self.churn.steps += 1
        self.churn.documents += len(step.changes)
        fault = self._drawn_fault(random)
        if fault is None or fault.whole or step.then == "wait":
            oracles.take(self._lab.take(step))
            return
        with self._injected(fault, random):
            oracles.take(self._lab.take(step))

    def _disturb(self, oracles: Oracles, selection: RandomFlows, random: Random) -> None:
        """Inject a fault while nothing else changes, and ask again."""
        if random.random() < _REPLACED:
            self._lab.replace(random.choice([place for place in PLACES if place.slot]))
            self.churn.links += 1
        fault = self._drawn_fault(random)
        if fault is None:
            return
        with self._injected(fault, random):
            pass
        self._ask(oracles, selection, lone=True, most=_AFTER_FAULT)

    def _drawn_fault(self, random: Random) -> Fault | None:
        return random.choice(self._faults) if random.random() < _FAULT else None

    @contextlib.contextmanager
    def _injected(self, fault: Fault, random: Random) -> Iterator[None]:
        agent = self._lab.agents[fault.node(random)]
        self._at = (*self._at[:2], f"{fault.name}, node {agent.node}")
        self._say(f"fault: {fault.name}")
        with fault.inject(self._lab, agent, random):
            yield
        seconds = await_healed(agent, _HEALED_SECONDS)
        self.churn.healed.setdefault(fault.name, []).append(round(seconds, 3))
        self._lab.settle()

    def _ask(self, oracles: Oracles, selection: RandomFlows, *, lone: bool, most: int | None = None) -> None:
        """Compare tables, packets and source addresses with the evaluator's answers."""
        self._say("asking")
        self.churn.settled += 1
        lab = self._lab
        if list(lab.compared(oracles)):
            # A listing that began before a deferred deletion, and was compared after it, shows what is gone.
            lab.settle()
            for finding in lab.compared(oracles):
                self._report("table", str(finding))
        found: list[Finding] = [*lab.established(oracles, _PATIENCE, lone=lone)]
        found += lab.link_scope(oracles, selection.link_scope())
        sent = selection.probes(oracles)[:most]
        found += lab.first(oracles, sent, _PATIENCE)
        for finding in found:
            self._report("verdict", str(finding))
        self._ask_sources(oracles, selection)
        lab.make([flow for flow in selection.to_keep(sent) if oracles.allowed(flow)])

    def _ask_sources(self, oracles: Oracles, selection: RandomFlows) -> None:
        """Compare the source addresses that the host outside sees of allowed flows of Pods."""
        outside = [
            flow
            for flow in selection.sendable()
            if AT[flow.source].slot and not AT[flow.destination].node and flow.protocol in {"udp", "tcp"}
        ]
        chosen = [flow for flow in outside if oracles.source_seen(flow) is not None][:_TRANSLATED]
        expected = {flow: oracles.source_seen(flow) for flow in chosen if oracles.allowed(flow)}
        self.churn.translated += len(expected)
        seen = self._lab.seen_from(expected, _SECONDS)
        again = [flow for flow, source in expected.items() if seen[flow] != source]
        if again:
            self._lab.settle()
            seen = self._lab.seen_from(again, _PATIENCE)
        for flow in again:
            if seen[flow] != expected[flow]:
                words = f"{Question(flow)}: seen from {seen[flow] or 'nowhere'}, not {expected[flow]}"
                self._report("source address", words)

    def _restart_all(self, last: Step) -> None:
        for agent in self._lab.agents.values():
            agent.stop()
        self._lab.objects.discard({change.file for change in last.changes if change.document is not None})
        for agent in self._lab.agents.values():
            agent.start()
        self._lab.take(last)

    def _report(self, kind: str, words: str) -> None:
        cycle, step, fault = self._at
        self.problems.append(Problem(cycle, step, kind, words, fault))

    def _say(self, words: str) -> None:
        wrong = len(self.problems)
        checked = self.counts.probes + self.counts.long_lived + self.counts.link_scope
        self._show(
            f"cycle {self._at[0]}, step {self._at[1]}: {words}; {checked:,} answers, "
            f"{sum(map(len, self.churn.healed.values()))} faults, {wrong} problems"
        )
