"""kill -9 after each step of a sync: the agent ends right after one of its calls, and is started again.

A sync is traced once: its netlink calls, and its calls on manifests and on the last good objects, are counted. Then it
is made again for each of them, and the agent kills itself when that call has returned.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator

import msgspec

from nfagent.errors import KernelError
from tests.fault_injection.fault_table import Action, Call, Kind, Rule
from tests.fault_injection.lab import (
    CLIENT,
    LATE,
    OPEN_PORT,
    STRANGER,
    FaultLab,
    Scene,
    cluster_files,
    policy_file,
)
from tests.fault_injection.streams import Streams
from tests.fault_injection.trial import Try

_NETLINK = Kind.NFT_COMMIT | Kind.NFT_LIST | Kind.NFT_COUNTERS | Kind.CONNTRACK | Kind.ROUTE | Kind.IPSET
_WRITING = Call.OPEN | Call.WRITE | Call.FSYNC | Call.RENAME | Call.UNLINK | Call.MKDIR
_KEPT_SECONDS = 1.5
"""Seconds after which what a change has to write to the disk is written, too."""
_BEFORE_SECONDS = _AFTER_SECONDS = 0.2
_HEAL_SECONDS = 60.0
_POLL_SECONDS = 0.02


class Sync(msgspec.Struct, frozen=True, kw_only=True):
    """A sync of the agent: what changes, or its first start without a table and without what was kept."""

    name: str
    scene: Scene
    first_start: bool = False


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a sync, by its number among the calls that a rule counts."""

    sync: Sync
    counted: Rule
    what: str
    number: int

    @property
    def name(self) -> str:
        """Return its name for a report of one try."""
        return f"kill -9, {self.sync.name}: after {self.what} call {self.number + 1}"

    @property
    def rule(self) -> Rule:
        """Return the rule that kills the agent after this call."""
        return msgspec.structs.replace(self.counted, action=Action.KILL, skipped=self.number, most=1)


def syncs(lab: FaultLab) -> tuple[Sync, ...]:
    """Return the syncs that are interrupted."""
    allowed = lab.flow(CLIENT, OPEN_PORT, "allowed"), lab.flow(CLIENT, OPEN_PORT, "allowed", live=True)
    closing = lab.flow(STRANGER, OPEN_PORT, "closing"), lab.flow(STRANGER, OPEN_PORT, "closing", live=True)
    forbidden = lab.flow(STRANGER, OPEN_PORT, "forbidden")
    opening = lab.flow(STRANGER, OPEN_PORT, "opening")
    late = lab.flow(LATE, OPEN_PORT, "opening")
    without, policy = cluster_files(), policy_file(OPEN_PORT)
    for_late = policy_file(OPEN_PORT, clients=(CLIENT, LATE))
    return (
        Sync(name="policy created", scene=Scene(before=without, after=without | policy, flows=(*allowed, *closing))),
        Sync(name="policy changed", scene=lab.scene),
        Sync(name="policy deleted", scene=Scene(before=without | policy, after=without, flows=(*allowed, opening))),
        Sync(
            name="Pod added",
            scene=Scene(
                before=without | for_late, after=cluster_files(LATE) | for_late, flows=(*allowed, forbidden, late)
            ),
        ),
        Sync(
            name="first start",
            scene=Scene(before=without | policy, after=without | policy, flows=(*allowed, *closing)),
            first_start=True,
        ),
    )


def steps_of(lab: FaultLab, sync: Sync) -> list[Step]:
    """Make a sync, count its calls, and return them; the lab is as before the sync afterwards. Raises KernelError."""
    counted = {
        "netlink": Rule(calls=Call.SEND | Call.RECV, kinds=_NETLINK, action=Action.COUNT),
        "state": Rule(calls=_WRITING, kinds=Kind.FILES, action=Action.COUNT, path=str(lab.agent.state_dir)),
        "manifest": Rule(calls=Call.OPEN | Call.READ, kinds=Kind.FILES, action=Action.COUNT, path=str(lab.manifests)),
    }
    with _before(lab, sync), lab.table.armed(*counted.values()):
        _begin(lab, sync)
        lab.settle(_HEAL_SECONDS)
        time.sleep(_KEPT_SECONDS)
        numbers = lab.table.hits_of(len(counted))
    return [
        Step(sync=sync, counted=rule, what=what, number=number)
        for (what, rule), made in zip(counted.items(), numbers, strict=True)
        for number in range(made)
    ]


def crash(lab: FaultLab, step: Step) -> Try | None:
    """Make the sync, which ends after the step by SIGKILL, and the one of the agent that is started then.

    Returns None where this sync took fewer calls than the one that was counted.
    """
    agent, sync = lab.agent, step.sync
    result = Try(fault=step.name)
    with _before(lab, sync), Streams(sync.scene.flows) as streams:
        time.sleep(_BEFORE_SECONDS)
        kills = agent.kills
        with lab.table.armed(step.rule):
            streams.change_begins()
            began = time.monotonic()
            _begin(lab, sync)
            try:
                _wait(lambda: agent.kills > kills or lab.table.hits(1) > 0, began + _KEPT_SECONDS * 2)
                killed = time.monotonic()
                lab.settle(_HEAL_SECONDS)
                streams.change_ends()
                result.cleared = streams.ended_at - killed
            except KernelError as error:
                killed = time.monotonic()
                result.failed.append(str(error))
            result.hits = agent.kills - kills
        time.sleep(_AFTER_SECONDS)
        streams.stop()
        result.note_packets(streams, killed)
        if result.hits > 1:
            result.failed.append(f"the agent ended {result.hits - 1} times more, and was started again")
        lab.settle(_HEAL_SECONDS)  # a busy machine makes the call so late that the agent is only being started again
        if not result.failed and not agent.ask("/v1/dump/diff")["equal"]:
            result.failed.append("`dump diff` isn't empty")
    return result if result.hits or not result.right else None


@contextlib.contextmanager
def _before(lab: FaultLab, sync: Sync) -> Iterator[None]:
    """Make the lab as it is before a sync, and at the end as it was."""
    lab.place(sync.scene.before)
    lab.settle(_HEAL_SECONDS)
    if sync.first_start:
        lab.agent.stop()
        lab.remove_rules()
        shutil.rmtree(lab.agent.state_dir, ignore_errors=True)
    try:
        yield
    finally:
        lab.table.disarm()
        if not lab.agent.is_running:
            lab.agent.start()
        lab.settle(_HEAL_SECONDS)


def _begin(lab: FaultLab, sync: Sync) -> None:
    lab.place(sync.scene.after)
    if sync.first_start:
        lab.agent.start(wait=False)


def _wait(condition: Callable[[], bool], until: float) -> None:
    while not condition() and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
