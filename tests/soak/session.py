"""One run: cycles until the time is up, what uses resources meanwhile, and what must have converged at the end."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from nfagent.errors import NfagentError
from nfagent.lab.machine.patience import patient
from nfagent.lab.topology import netns
from tests.fuzz.case import Case, Finding
from tests.fuzz.folder import LabForm, write_case
from tests.fuzz.folder_objects import FolderObjects
from tests.fuzz.packets import PacketLab
from tests.soak.cycles import CycleRunner, Problem
from tests.soak.plan import SPARED, SoakPlan, history_of, rest_step
from tests.soak.report import NodeAtRest, SoakReport, slope_at_rest
from tests.soak.resources import Sample, Sampler
from tests.soak.server_objects import ServerObjects
from tests.soak.tables import contents

_SAMPLE_SECONDS = 5.0
_REST_SECONDS = patient(60.0)
_CYCLE_SECONDS = 20.0
"""From the begin of a cycle to that of the next one, at least: agents keep some things for minutes, and hold as many of
them as there are changes in that time, which doesn't depend on what else the machine does."""

_END_SECONDS = 360.0
"""Reply tuples of revoked connections stay for five minutes."""

_POLL_SECONDS = 0.5
_MOST_FOLDERS = 20

_SETTINGS = {
    # Logs reach their bound within minutes.
    "NFAGENT_LOGGING_FILE_MAX_BYTES": "1000000",
    "NFAGENT_LOGGING_FILE_BACKUPS": "2",
}
_TIMEOUTS = {
    # A denied connection stays in the sender's node, whose rules let it out.
    "netfilter/nf_conntrack_tcp_timeout_syn_sent": "10",
    "netfilter/nf_conntrack_tcp_timeout_syn_recv": "10",
    "netfilter/nf_conntrack_sctp_timeout_cookie_wait": "5",
}


def soak(plan: SoakPlan, show: Callable[[str], None]) -> SoakReport:
    """Run, and return the report. Raises HostError, KernelError where the lab can't be built; show: shows progress."""
    plan.build.mkdir(parents=True, exist_ok=True)
    samples = plan.build / "samples.jsonl"
    samples.unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-soak-"))
        objects = ServerObjects() if plan.source == "apiserver" else FolderObjects()
        lab = stack.enter_context(PacketLab(Path(scratch), plan.attachment, objects, _SETTINGS))
        namespaces = {node: lab.node_namespace(node) for node in lab.agents}
        for name in namespaces.values():
            netns.write_sysctls(name, _TIMEOUTS)
        sampler = stack.enter_context(Sampler(lab.agents, namespaces, samples, _SAMPLE_SECONDS))
        return _Session(plan, lab, sampler, show).run()


class _Session:
    """A run in a lab."""

    def __init__(self, plan: SoakPlan, lab: PacketLab, sampler: Sampler, show: Callable[[str], None]) -> None:
        self._plan = plan
        self._lab = lab
        self._sampler = sampler
        self._show = show
        self._runner = CycleRunner(lab, show)
        self._at_rest: list[Sample] = []
        self._folders = 0

    def run(self) -> SoakReport:
        fresh = self._begin()
        # The first cycle makes what an agent makes once: threads, caches.
        warm = self._cycle(self._plan.cycle or 0, fresh)
        first = {node: fresh[node].warmed(reading) for node, reading in warm.items()}
        last, cycles, drawn = warm, 1, 0
        while self._plan.cycle is None and self._sampler.elapsed < self._plan.minutes * 60:
            begun = self._sampler.elapsed
            if not drawn and begun > self._plan.minutes * 30:
                drawn = cycles
            last = self._cycle(history_of(cycles, drawn), first)
            cycles += 1
            time.sleep(max(0.0, begun + _CYCLE_SECONDS - self._sampler.elapsed))
        if self._plan.cycle is None:
            last = self._await(first, _END_SECONDS, whole=True)
            self._compare(first, last, cycles, whole=True)
        spared = [each for each in self._at_rest if each.node == SPARED]
        return SoakReport(
            seed=self._plan.seed,
            minutes=round(self._sampler.elapsed / 60, 1),
            attachment=self._plan.attachment,
            source=self._plan.source,
            histories=drawn or cycles,
            churn=self._runner.churn,
            counts=self._runner.counts,
            problems=self._runner.problems,
            first=first,
            last=last,
            slope=slope_at_rest(spared, "rss"),
            blocks=slope_at_rest(spared, "blocks"),
            anonymous=slope_at_rest(spared, "anonymous"),
        )

    def _begin(self) -> dict[str, NodeAtRest]:
        """Make the small cluster for the first time, and return what there is then."""
        self._lab.take(rest_step())
        return self._read()

    def _cycle(self, number: int, first: Mapping[str, NodeAtRest]) -> dict[str, NodeAtRest]:
        """Run a cycle, and return what there is at rest; compared with the first cycle's, if there was one."""
        before = len(self._runner.problems)
        case = self._runner.run(self._plan.seed, number)
        found = self._await(first, _REST_SECONDS, whole=False)
        self._compare(first, found, number, whole=False)
        self._at_rest += self._sampler.take(at_rest=True)
        if self._runner.problems[before:]:
            self._keep(case, number, self._runner.problems[before:])
        return found

    def _compare(
        self, first: Mapping[str, NodeAtRest], now: Mapping[str, NodeAtRest], number: int, *, whole: bool
    ) -> None:
        """Report what is different from what there was at first."""
        for node, before in first.items():
            words = before.differences(now[node], whole=whole) if node in now else ("the agent isn't running",)
            self._runner.problems += [Problem(number, 0, "not converged", f"node {node}: {each}") for each in words]

    def _read(self) -> dict[str, NodeAtRest]:
        samples = {each.node: each for each in self._sampler.take(at_rest=False)}
        return {
            node: NodeAtRest(contents(agent), samples[node])
            for node, agent in self._lab.agents.items()
            if node in samples
        }

    def _await(self, first: Mapping[str, NodeAtRest], seconds: float, *, whole: bool) -> dict[str, NodeAtRest]:
        """Wait until everything is as at first, for so many seconds at most; return what there is then."""
        end = time.monotonic() + seconds
        while True:
            found = self._read()
            different = [
                f"node {node}: {words}"
                for node in first
                for words in (first[node].differences(found[node], whole=whole) if node in found else ["no agent"])
            ]
            self._show(f"waiting until everything is as at first; {len(different)} differences: {different[:1]}")
            if not different or time.monotonic() > end:
                return found
            time.sleep(_POLL_SECONDS)

    def _keep(self, case: Case, number: int, problems: list[Problem]) -> None:
        """Write the history and the problems of a failing cycle."""
        self._folders += 1
        if self._folders > _MOST_FOLDERS:
            return
        folder = self._plan.build / f"cycle-{number}"
        one = problems[0]
        finding = Finding(max(0, one.step - 1), None, {"soak": one.kind}, one.words)
        write_case(folder, case, finding, seed=self._plan.seed, number=number, lab=LabForm(self._plan.attachment))
        (folder / "problems.json").write_bytes(msgspec.json.format(msgspec.json.encode(problems), indent=2) + b"\n")
        with contextlib.suppress(NfagentError):
            for agent in self._lab.agents.values():
                (folder / f"stderr-{agent.node}").write_text(agent.stderr_text, "utf-8")
