"""One change of a latency run, from its writing to the first packet with the new verdict.

lab.settle(cycle.standing)                      # the objects of one scenario, and no others
found = lab.try_step(step, quiet=pids)          # one change, to the first packet with its verdict
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import msgspec

from nfagent.controllers.sync_trace import Sync, SyncsReply
from nfagent.errors import HostError, KernelError
from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.latency.change_writers import ChangeWriter, WriteTimes
from nfagent.lab.latency.prober import NoVerdictError, Prober
from nfagent.lab.latency.process_cpu import wait_until_quiet
from nfagent.lab.latency.samples import DataPath, Stage
from nfagent.lab.latency.scenarios import Step, Verdict, Write, deleted
from nfagent.lab.machine.patience import patient

_QUIET_SECONDS, _SETTLED_SECONDS = 0.005, 0.3
_LOOK_SECONDS = 0.001
_TRACE_SECONDS, _LATE_SECONDS = patient(30.0), patient(60.0)
_WATCHES = 5
_LAST_SYNCS = 8
_MICROSECONDS = 1e6


class Outcome(msgspec.Struct, frozen=True):
    """One change that was measured. Times are microseconds.

    latency:   from the change sent to the first packet with the new verdict; None where the deadline passed
    write:     from the change sent to the API server's response; None for a file
    stages:    parts of the latency, by the agent's trace
    disturbed: what was measured isn't the change: the agent was still ending connections of an earlier one, or the
               packet came before the agent had computed what the change does, as where the machine stood still so
               long that packets seemed blocked
    gap:       since the last packet with the previous verdict: the accuracy of the latency
    """

    latency: float | None
    write: float | None
    stages: dict[Stage, float]
    disturbed: bool
    gap: float


class MeasuredLab:
    """One path's lab: its agent, probers and change writer.

    path:   whose verdicts its packets meet
    agent:  the agent that is measured
    """

    def __init__(
        self,
        path: DataPath,
        agent: LabAgent,
        writer: ChangeWriter,
        probers: tuple[Prober, Prober],
        sources: Mapping[Verdict, str],
    ) -> None:
        """Keep the parts.

        probers: from client to server, and from server to the host outside
        sources: the source addresses that verdicts name
        """
        self.path = path
        self.agent = agent
        self._writer = writer
        self._to_server, self._to_outside = probers
        self._sources = sources
        self._there: dict[str, Write] = {}
        self.relapses = 0
        """How often packets met the previous verdict again, after the first with the new one."""

    @property
    def pid(self) -> int:
        """The agent's process id."""
        return self.agent.process.pid

    def settle(self, standing: Iterable[Write]) -> None:
        """Make these the only objects beside the background, and wait until the agent is idle."""
        wanted = {write.name: write for write in standing}
        for name in [name for name in self._there if name not in wanted]:
            self._write(deleted(self._there[name]))
        for name, write in wanted.items():
            if self._there.get(name) != write:
                self._write(write)
        wait_until_quiet([self.pid], _SETTLED_SECONDS)

    def try_step(self, step: Step, quiet: Iterable[int]) -> Outcome:
        """Make a change, and return when the first packet met its verdict.

        quiet: processes that must be idle before it. Raises KernelError where packets meet the verdict already.
        """
        prober = self._watch(step.verdict)
        wait_until_quiet(quiet, _QUIET_SECONDS)
        times = self._write(step.write)
        try:
            first = prober.first()
        except NoVerdictError:
            # It may come yet: the next change must not meet it.
            self._trace(times, _LATE_SECONDS)
            wait_until_quiet([self.pid], _SETTLED_SECONDS)
            return Outcome(None, _write(times), {}, disturbed=False, gap=0.0)
        return outcome(times, first.fresh, first.gap, *self._trace(times))

    def _watch(self, verdict: Verdict) -> Prober:
        """Start to watch for a verdict. Raises KernelError where packets meet it already, also after some tries."""
        for left in reversed(range(_WATCHES)):
            try:
                return self._watch_once(verdict)
            except KernelError:
                if not left:
                    raise
                self.relapses += 1
                wait_until_quiet([self.pid], _SETTLED_SECONDS)
        raise AssertionError("the last watch returns or raises")

    def _watch_once(self, verdict: Verdict) -> Prober:
        source = self._sources.get(verdict)
        if source is None:
            self._to_server.watch(blocked=verdict == "blocked")
            return self._to_server
        self._to_outside.watch_source(source)
        return self._to_outside

    def _write(self, write: Write) -> WriteTimes:
        times = self._writer.write(write)
        if write.deleted:
            del self._there[write.name]
        else:
            self._there[write.name] = write
        return times

    def _trace(self, times: WriteTimes, seconds: float = _TRACE_SECONDS) -> tuple[Sync | None, tuple[float, float]]:
        """Return the sync that covers a change, and begin and end of the agent's last re-check.

        seconds: how long to wait for the sync, and for an answer, which may take its time on a busy machine
        """
        end = time.monotonic() + seconds
        while True:
            reply = self._syncs(end)
            sync = next((sync for sync in reply.syncs if sync.latest >= times.sent), None)
            # A packet may be faster than the agent, which learns of the commit afterwards.
            if sync is not None or time.monotonic() > end:
                return sync, (reply.recheck_began, reply.recheck_ended)
            time.sleep(_LOOK_SECONDS)

    def _syncs(self, end: float) -> SyncsReply:
        while True:
            try:
                return msgspec.convert(self.agent.ask("/v1/syncs", last=str(_LAST_SYNCS)), SyncsReply)
            except HostError:
                if time.monotonic() > end:
                    raise
            time.sleep(_LOOK_SECONDS)


def outcome(times: WriteTimes, fresh: float, gap: float, sync: Sync | None, recheck: tuple[float, float]) -> Outcome:
    """Return the outcome of a change, from times in seconds.

    fresh:   of the first packet with the new verdict; gap: since the one before it
    sync:    the agent's; recheck: begin and end of its last round that ended connections
    """
    began, ended = recheck
    is_own = sync is not None and began >= sync.committed
    overlaps = 0.0 < began < fresh and (ended > times.sent or ended < began)
    return Outcome(
        latency=max(0.0, fresh - times.sent) * _MICROSECONDS,
        write=_write(times),
        stages={} if sync is None else _stages(times.sent, sync, fresh),
        disturbed=(overlaps and not is_own) or (sync is not None and fresh < sync.computed),
        gap=gap * _MICROSECONDS,
    )


def _write(times: WriteTimes) -> float | None:
    return None if times.returned is None else (times.returned - times.sent) * _MICROSECONDS


def _stages(sent: float, sync: Sync, fresh: float) -> dict[Stage, float]:
    # Each stage ends where the next one begins; what is over before the change was sent takes no time.
    ends: list[tuple[Stage, float]] = [
        ("source", sync.received),
        ("decode", sync.decoded),
        ("compile", sync.computed),
        ("commit", min(sync.committed, fresh)),
        ("first_packet", fresh),
    ]
    found: dict[Stage, float] = {}
    reached = sent
    for stage, end in ends:
        found[stage] = max(0.0, end - reached) * _MICROSECONDS
        reached = max(reached, end)
    return found
