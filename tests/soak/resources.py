"""What an agent and its node use, sampled in a thread: memory, descriptors, threads, connections, files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from nfagent.errors import NfagentError
from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.topology import netns

_CONNECTIONS = Path("/proc/sys/net/netfilter/nf_conntrack_count")


class Sample(msgspec.Struct, frozen=True):
    """What one agent and its node use at a moment.

    seconds:     since the begin of the run
    pid:         of the agent: another one after a restart
    rss:         resident memory, KiB; anonymous: of it, what holds no content of files, such as libraries
    blocks:      blocks of memory that Python's objects use; 0 where the agent wasn't asked
    descriptors: without TCP connections
    connections: entries of the node's conntrack table
    log, state:  bytes in the agent's folders; files: their number in both
    at_rest:     whether the lab was at rest with the small cluster
    server:      the agent's TCP connections, to its API server
    """

    seconds: float
    node: str
    pid: int
    rss: int
    blocks: int
    descriptors: int
    threads: int
    connections: int
    log: int
    state: int
    files: int
    at_rest: bool
    server: int = 0
    anonymous: int = 0


def sample(agent: LabAgent, netns_name: str, seconds: float, *, at_rest: bool, ask: bool) -> Sample:
    """Sample an agent; ask: for its metrics too. Raises UsageError, HostError, OSError where it isn't running."""
    pid = agent.process.pid
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines())
    connections = int(netns.inside(netns_name, lambda: _CONNECTIONS.read_text("ascii")))
    opened, server = _descriptors(pid)
    log, state = list(_sizes(agent.verdict_log.parent)), list(_sizes(agent.state_dir))
    return Sample(
        round(seconds, 1),
        agent.node,
        pid,
        int(status["VmRSS"].split()[0]),
        int(agent.metric("nfagent_python_blocks")) if ask else 0,
        opened,
        int(status["Threads"]),
        connections,
        sum(log),
        sum(state),
        len(log) + len(state),
        at_rest,
        server,
        int(status["RssAnon"].split()[0]),
    )


def _descriptors(pid: int) -> tuple[int, int]:
    """Return the number of a process's descriptors that are no TCP connections, and of those that are."""
    found = list(_targets(Path(f"/proc/{pid}/fd")))
    lines = (Path(f"/proc/{pid}/net/{name}").read_text("ascii").splitlines()[1:] for name in ("tcp", "tcp6"))
    connections = {f"socket:[{line.split()[9]}]" for each in lines for line in each}
    server = sum(target in connections for target in found)
    return len(found) - server, server


def _targets(folder: Path) -> Iterator[str]:
    for path in folder.iterdir():
        try:
            yield str(path.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                yield path.stat().st_size
        except FileNotFoundError:  # rotated, or replaced, meanwhile
            continue


class Sampler:
    """Samples all agents every few seconds into a file of JSON lines; a context manager that ends it."""

    def __init__(
        self, agents: Mapping[str, LabAgent], namespaces: Mapping[str, str], path: Path, seconds: float
    ) -> None:
        """Plan the samples.

        namespaces: network namespace of each node
        seconds:    between two samples
        """
        self._agents = agents
        self._namespaces = namespaces
        self._seconds = seconds
        self._file = path.open("ab")
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()
        self._file.close()

    @property
    def elapsed(self) -> float:
        """Seconds since the begin."""
        return time.monotonic() - self._began

    def take(self, *, at_rest: bool, ask: bool = True) -> list[Sample]:
        """Sample all agents that are running now; ask: for their metrics too."""
        found = []
        for node, agent in self._agents.items():
            try:
                found.append(sample(agent, self._namespaces[node], self.elapsed, at_rest=at_rest, ask=ask))
            except (OSError, KeyError, NfagentError):  # it is being restarted
                continue
        with self._lock:
            self._file.writelines(msgspec.json.encode(each) + b"\n" for each in found)
            self._file.flush()
        return found

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.take(at_rest=False, ask=False)
