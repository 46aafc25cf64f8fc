"""One try of a fault: traffic, the fault, a change of the policy during it, its end, and what was observed."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec

from nfagent.errors import HostError, KernelError, UsageError
from tests.fault_injection.fault import Fault
from tests.fault_injection.lab import FaultLab, Scene
from tests.fault_injection.streams import Streams

FAULT_SECONDS = 1.5
_REPORT_SECONDS = 60.0
_HEAL_SECONDS = 150.0
"""A connection to an API server that has vanished is given up after a minute of TCP keepalives."""
_BEFORE_SECONDS = _AFTER_SECONDS = 0.2
_POLL_SECONDS = 0.05
_LOG_CHARACTERS = 3000
MOST_CPU = 0.5
"""CPU seconds of the agent per second of a fault: far above any retry, half of a busy loop."""


class Try(msgspec.Struct, kw_only=True):
    """What one try has shown.

    wrong:       a line for each flow with wrongly dropped or passed packets; wrong_packets: their number
    during:      whether the change was in force while the fault lasted
    healed:      seconds from the end of the fault until packets met the new policy, 0 where they did meanwhile
    cleared:     seconds from the end of the fault until the agent reports no problem, and the kernel in sync
    hits:        calls that met the fault        cpu: CPU seconds of the agent per second of the fault
    failed:      what else was not as it must be
    spacing:     the median of the seconds between packets of a flow; longest_gap: the most seconds without one
    """

    fault: str
    packets: int = 0
    spacing: float = 0.0
    longest_gap: float = 0.0
    wrong: list[str] = []
    wrong_packets: int = 0
    during: bool = False
    healed: float = 0.0
    cleared: float = 0.0
    hits: int = 0
    cpu: float = 0.0
    failed: list[str] = []

    @property
    def right(self) -> bool:
        """Whether everything was as it must be."""
        return not (self.wrong or self.failed)

    def note_packets(self, streams: Streams, ended_at: float) -> None:
        """Note what became of the packets, after they were stopped; a failure where that isn't known of all.

        ended_at: when the fault ended, by time.monotonic()
        """
        self.packets, self.spacing, self.longest_gap = streams.packets, streams.spacing, streams.longest_gap()
        try:
            self.wrong, self.wrong_packets = streams.wrong(), streams.wrong_packets
            self.healed = max(0.0, streams.in_force_at() - ended_at)
            self.during = not self.healed
        except KernelError as error:
            self.failed.append(str(error))


def reported_problem(state: dict[str, Any], part: str) -> str:
    """Return the problem of one part of `dump state`, '' for none."""
    found: object = None
    agent = state["agent"]
    match part:
        case "ruleset":
            found = agent["reconcile"]["last_error"]
        case "conntrack":
            found = agent["revoke"]["last_error"]
        case "input":
            found = "; ".join(map(str, state["problems"]))
        case "API server":
            kinds = agent["apiserver"]["resources"].values()
            found = "; ".join(str(kind["trouble"]) for kind in kinds if kind["trouble"])
        case "notifications" | "verdict log" | "last good objects" | "links":
            names = {"notifications": "drift", "last good objects": "last_good", "verdict log": "verdict_log"}
            found = agent[names.get(part, part)]["problem"]
        case "packet counters":
            found = agent["problems"].get("packet_counters")
    return str(found or "")


_SAID = {
    "ruleset": ("ruleset", "changes are not in force"),
    "notifications": ("notifications", "notifications"),
    "conntrack": ("connections", "live connections are not ended"),
    "links": ("interfaces", "interfaces"),
    "last good objects": ("last_good_objects", "last good objects"),
    "packet counters": ("packet_counters", "packet counters"),
}
"""The label of `nfagent_problem` in metrics, and how systemd's STATUS begins, by the part that has a problem."""


def counted_problems(state: dict[str, Any]) -> int:
    """Return how many problems `dump state` has counted that may be over before anyone looks."""
    log = state["agent"]["verdict_log"]
    return sum(int(log[name]) for name in ("errors", "overruns", "undecodable", "lost_lines"))


class Trial:
    """One try in a lab."""

    def __init__(self, lab: FaultLab, fault: Fault) -> None:
        """Plan it."""
        self._lab, self._fault = lab, fault
        self._scene: Scene = lab.late_scene if fault.pods else lab.scene
        self._result = Try(fault=fault.name)
        self._enforced = False
        self._open = contextlib.ExitStack()
        self._ended_at = time.monotonic()

    def run(self) -> Try:
        """Make the try; what goes wrong is in its result. The lab is as it was afterwards."""
        lab, result = self._lab, self._result
        kills = lab.agent.kills
        with self._open, Streams(self._scene.flows) as streams:
            time.sleep(_BEFORE_SECONDS)
            try:
                self._during(streams)
                self._ended_at = time.monotonic()
                self._afterwards(streams)
            except KernelError as error:
                result.failed.append(str(error))
            finally:
                lab.disarm()
                lab.set_proxy("")
            streams.stop()
            result.note_packets(streams, self._ended_at)
        if lab.agent.kills > kills:
            result.failed.append(f"the agent ended {lab.agent.kills - kills} times, and was started again")
        if result.wrong or lab.agent.kills > kills:
            result.failed.append(f"the agent's log:\n{lab.agent.stderr_text[-_LOG_CHARACTERS:]}")
        self._restore()
        return result

    def _during(self, streams: Streams) -> None:
        """Put the fault in force for a while."""
        lab, fault, result = self._lab, self._fault, self._result
        counted = counted_problems(lab.agent.state())
        cpu, began = lab.agent.cpu_seconds(), time.monotonic()
        lab.arm(fault)
        if fault.wall_offset:
            lab.table.set_wall_offset(fault.wall_offset)
        lab.set_proxy(fault.proxy)
        self._pull_trigger()
        if fault.trigger and fault.is_met:
            # Without this the change could be in force before the agent meets the fault.
            self._await(lambda: lab.hits(fault) > 0, "a call of the agent meets the fault")
        streams.change_begins()
        lab.place(self._scene.after)
        seen, said = not fault.reported, fault.reported not in _SAID
        end = began + FAULT_SECONDS
        while (now := time.monotonic()) < end or (
            not self._was_met(seen=seen and said) and now < began + _REPORT_SECONDS
        ):
            if not fault.unanswered:
                state = self._state()
                seen = seen or (state is not None and self._is_reported(state, counted))
                said = said or self._is_said(wanted=True)
                self._note_enforced(streams)
            time.sleep(_POLL_SECONDS)
        result.hits = lab.hits(fault)
        wall = time.monotonic() - began
        with contextlib.suppress(OSError):
            result.cpu = (lab.agent.cpu_seconds() - cpu) / wall
        lab.disarm()
        lab.set_proxy("")
        self._judge(wall, seen=seen)
        if not said:
            result.failed.append(f"metrics or STATUS never had a problem of {fault.reported}: {lab.agent.status}")

    def _is_reported(self, state: dict[str, Any], counted: int) -> bool:
        part = self._fault.reported
        return bool(reported_problem(state, part)) or (part == "verdict log" and counted_problems(state) > counted)

    def _is_said(self, *, wanted: bool) -> bool:
        """Return whether both metrics and STATUS have a problem of the part, or both have none."""
        label, words = _SAID[self._fault.reported]
        if (words in self._lab.agent.status) != wanted:
            return False
        with contextlib.suppress(OSError):
            return f'nfagent_problem{{part="{label}"}} {int(wanted)}' in self._lab.agent.metrics()
        return False

    def _was_met(self, *, seen: bool) -> bool:
        return seen and (not self._fault.is_met or self._lab.hits(self._fault) > 0)

    def _judge(self, wall: float, *, seen: bool) -> None:
        fault, result = self._fault, self._result
        if fault.is_met and not result.hits:
            result.failed.append("no call of the agent met the fault")
        if not seen:
            result.failed.append(f"`dump state` never had a problem of {fault.reported}")
        if result.hits / wall > fault.most_calls:
            result.failed.append(f"busy loop: {result.hits / wall:.0f} calls a second met the fault")
        if result.cpu > MOST_CPU:
            result.failed.append(f"busy loop: {result.cpu:.2f} CPU seconds a second")

    def _afterwards(self, streams: Streams) -> None:
        lab, result = self._lab, self._result
        if not self._enforced:
            lab.settle(_HEAL_SECONDS)
            streams.change_ends()
        if self._fault.trigger == "status":
            self._open.enter_context(lab.agent.begun_request("/v1/status"))  # else it looks after half a minute
        self._await(lambda: not self._problem() and self._is_equal(), "the report of the problem ends")
        result.cleared = time.monotonic() - self._ended_at
        if self._fault.reported in _SAID:
            self._await(lambda: self._is_said(wanted=False), "metrics and STATUS have no problem")
        time.sleep(_AFTER_SECONDS)

    def _pull_trigger(self) -> None:
        if self._fault.unanswered:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
                asked.connect(str(self._lab.agent.socket))
        if self._fault.trigger == "reload":
            self._lab.agent.reload()
        elif self._fault.trigger == "drift":
            self._lab.drift()
        elif self._fault.trigger == "unlistable rule":
            self._lab.add_unlistable_rule()
        elif self._fault.trigger == "status":
            self._open.enter_context(self._lab.agent.begun_request("/v1/status"))

    def _note_enforced(self, streams: Streams) -> None:
        if not self._enforced and self._lab.enforces():
            self._enforced = True
            streams.change_ends()

    def _problem(self) -> str:
        state = self._state()
        if state is None:
            return "no answer"
        return reported_problem(state, self._fault.reported) if self._fault.reported else ""

    def _is_equal(self) -> bool:
        with contextlib.suppress(UsageError, HostError, OSError):
            return bool(self._lab.agent.ask("/v1/dump/diff")["equal"])
        return False

    def _state(self) -> dict[str, Any] | None:
        with contextlib.suppress(UsageError, HostError, OSError):
            return self._lab.agent.state()
        return None

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        self._lab.agent.wait_until(condition, what, _HEAL_SECONDS)

    def _restore(self) -> None:
        """Bring back the manifests of before; an agent that doesn't enforce them is started again."""
        lab = self._lab
        lab.place(self._scene.before)
        try:
            lab.settle()
        except KernelError as error:
            self._result.failed.append(f"never in sync again: {error}")
            lab.agent.stop()
            lab.agent.start()
            lab.settle()
