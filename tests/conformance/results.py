"""The result of a case by one implementation."""

from __future__ import annotations

from collections import Counter
from typing import Literal, NamedTuple, TypeAlias

from nfagent.lab.topology.plan import Attachment
from nfagent.policy.evaluator import Flow
from tests.conformance.suites import Case, Probe

Reading: TypeAlias = (
    Literal["evaluate", "rules", "iptables-routed", "iptables-bridge", "ebpf-routed", "ebpf-bridge"] | Attachment
)
"""evaluate: what `nfagent explain` says; rules: both nodes' rulesets, interpreted; else packets, in such a lab: by
nfagent's rules in nftables, or in iptables, or by the eBPF path's maps."""
Outcome: TypeAlias = Literal["passed", "failed", "not applicable"]

NO_PACKET = "a Pod's packets to its own address never leave it, so no ruleset sees them"
NOT_COVERED = "the eBPF path doesn't cover the policies of the tiers"
NO_VERDICT = "the suite gives no IPv6 verdict for the case: it blocks an IPv4 address"


class Failure(NamedTuple):
    """A probe that ended otherwise than it must, or a step that couldn't be made (then without probe and flow)."""

    step: int
    found: str
    probe: Probe | None = None
    flow: Flow | None = None

    def __str__(self) -> str:
        if self.probe is None or self.flow is None:
            return f"step {self.step}: {self.found}"
        ends = f"{self.probe.source} -> {self.probe.destination}"
        addresses = f"({self.flow.source} -> {self.flow.destination})"
        port = f"{self.probe.port}/{self.probe.protocol}"
        return f"step {self.step}: {ends} {port} {addresses}: expected {self.probe.expected}, found {self.found}"


class Result(NamedTuple):
    """One case, one reading. asked: probes judged; aside: those that weren't, by the reason."""

    case: Case
    reading: Reading
    asked: int
    failures: tuple[Failure, ...]
    aside: Counter[str]

    @property
    def outcome(self) -> Outcome:
        if self.failures:
            return "failed"
        return "passed" if self.asked else "not applicable"

    @property
    def broken(self) -> bool:
        """Return whether a step couldn't be made, so that what it ran in is good for nothing more."""
        return any(failure.probe is None for failure in self.failures)


class ResultBuilder:
    """Collects one case's result."""

    def __init__(self, case: Case, reading: Reading) -> None:
        self._case = case
        self._reading: Reading = reading
        self._asked = 0
        self._failures: list[Failure] = []
        self._aside: Counter[str] = Counter()
        if 6 not in case.families:
            self._aside[NO_VERDICT] = sum(len(step.probes) for step in case.steps)

    def judged(self, step: int, probe: Probe, flow: Flow, found: str) -> None:
        """Count a probe. found: `allowed` or `denied`, or in words how it was neither."""
        self._asked += 1
        if found != probe.expected:
            self._failures.append(Failure(step, found, probe, flow))

    def put_aside(self, reason: str, probes: int = 1) -> None:
        self._aside[reason] += probes

    def broke(self, step: int, words: str) -> None:
        """Note that a step couldn't be made."""
        self._failures.append(Failure(step, " ".join(words.split())))

    def result(self) -> Result:
        return Result(self._case, self._reading, self._asked, tuple(self._failures), self._aside)
