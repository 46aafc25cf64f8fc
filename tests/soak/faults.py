"""Faults that are injected into a lab. Each ends with the lab as it was: agents run, files are whole."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import TypeAlias

import msgspec

from nfagent.errors import KernelError
from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.machine.patience import patient
from nfagent.manifests.index import digest
from tests.fuzz.folder_objects import FolderObjects
from tests.fuzz.packets import PacketLab
from tests.soak.plan import SPARED
from tests.soak.server_objects import ServerObjects
from tests.support.two_node_cluster import NODES

TABLE = "inet nfagent"
_NOTICED_SECONDS = patient(2.0)
_POLL_SECONDS = 0.02

Injection: TypeAlias = Callable[[PacketLab, LabAgent, Random], AbstractContextManager[None]]


class Fault(msgspec.Struct, frozen=True):
    """A fault.

    inject:   injects it at the beginning of its context, and ends it at the end
    restarts: whether it ends the agent: those of the spared node never do
    whole:    whether the objects must stay as they are meanwhile
    """

    name: str
    inject: Injection
    restarts: bool = False
    whole: bool = False

    def node(self, random: Random) -> str:
        """Choose a node for it."""
        return random.choice([node for node in NODES if node != SPARED or not self.restarts])


@contextlib.contextmanager
def _killed(_lab: PacketLab, agent: LabAgent, _random: Random) -> Iterator[None]:
    agent.stop(kill=True)
    try:
        yield
    finally:
        agent.start()


@contextlib.contextmanager
def _stopped(_lab: PacketLab, agent: LabAgent, _random: Random) -> Iterator[None]:
    agent.stop()
    try:
        yield
    finally:
        agent.start()


@contextlib.contextmanager
def _reloaded(_lab: PacketLab, agent: LabAgent, _random: Random) -> Iterator[None]:
    agent.reload()
    yield


@contextlib.contextmanager
def _table_deleted(_lab: PacketLab, agent: LabAgent, _random: Random) -> Iterator[None]:
    agent.nft(f"delete table {TABLE}")
    yield


@contextlib.contextmanager
def _ruleset_flushed(_lab: PacketLab, agent: LabAgent, _random: Random) -> Iterator[None]:
    agent.nft("flush ruleset")
    yield


@contextlib.contextmanager
def _foreign_rule(_lab: PacketLab, agent: LabAgent, random: Random) -> Iterator[None]:
    chain, verdict = random.choice(["forward-egress", "forward-ingress"]), random.choice(["accept", "drop"])
    agent.nft(f"insert rule {TABLE} {chain} counter {verdict}")
    yield


@contextlib.contextmanager
def _set_emptied(_lab: PacketLab, agent: LabAgent, random: Random) -> Iterator[None]:
    agent.nft(f"flush set {TABLE} {random.choice(['pods4', 'pods6'])}")
    yield


@contextlib.contextmanager
def _half_written(lab: PacketLab, agent: LabAgent, random: Random) -> Iterator[None]:
    """Cut a manifest in two in place, and write it whole again once the agent has read the half."""
    path = random.choice(sorted(path for path in _folder(lab).glob("*.yaml") if not path.name.startswith(".")))
    text = path.read_text("utf-8")
    half = text[: len(text) // 2]
    path.write_text(half, "utf-8")
    end = time.monotonic() + _NOTICED_SECONDS
    while agent.ask("/v1/dump/state")["agent"]["files"].get(path.name) != digest(half) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
    path.write_text(text, "utf-8")
    yield


@contextlib.contextmanager
def _no_manifest(lab: PacketLab, _agent: LabAgent, _random: Random) -> Iterator[None]:
    """Put a file among the manifests that isn't one."""
    path = _folder(lab) / "backup.yaml"
    path.write_text("{:\n\x00", "utf-8")
    try:
        yield
    finally:
        path.unlink()


def _folder(lab: PacketLab) -> Path:
    if not isinstance(lab.objects, FolderObjects):
        raise TypeError("a fault of manifests, in a lab without a folder")
    return lab.objects.manifests


@contextlib.contextmanager
def _server_away(lab: PacketLab, _agent: LabAgent, _random: Random) -> Iterator[None]:
    if not isinstance(lab.objects, ServerObjects):
        raise TypeError("a fault of the API server, in a lab without one")
    with lab.objects.away():
        yield


_OF_EITHER = (
    Fault("agent killed (kill -9), started again", _killed, restarts=True),
    Fault("agent stopped, started again", _stopped, restarts=True),
    Fault("agent reloaded (SIGHUP)", _reloaded),
    Fault("table deleted", _table_deleted),
    Fault("ruleset flushed", _ruleset_flushed),
    Fault("foreign rule inserted", _foreign_rule),
    Fault("elements of a set deleted", _set_emptied),
)
FOLDER_FAULTS = (
    *_OF_EITHER,
    Fault("manifest half-written", _half_written, whole=True),
    Fault("file that is no manifest", _no_manifest, whole=True),
)
SERVER_FAULTS = (*_OF_EITHER, Fault("API server killed, started again", _server_away, whole=True))


def faults_of(lab: PacketLab) -> tuple[Fault, ...]:
    """Return the faults that a lab can have, by where its objects are."""
    return FOLDER_FAULTS if isinstance(lab.objects, FolderObjects) else SERVER_FAULTS


def await_healed(agent: LabAgent, seconds: float) -> float:
    """Wait until an agent's table is the desired one; return the seconds. Raises KernelError after `seconds`."""
    began = time.monotonic()
    while True:
        view = agent.ask("/v1/dump/diff")
        passed = time.monotonic() - began
        if view["equal"]:
            return passed
        if passed > seconds:
            raise KernelError(f"node {agent.node}: not healed after {seconds:.0f} s: {'; '.join(view['differences'])}")
        time.sleep(_POLL_SECONDS)
