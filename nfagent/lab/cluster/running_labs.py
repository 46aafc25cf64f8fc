"""Labs that stay up: their names, state files and processes, and removing all of one.

A lab leaves four kinds of things, each of which has its name: network namespaces (`nfalab-NAME-...`), processes (with
NETNS_LAB=NAME in their environment), its folder /run/nfagent-lab/NAME, and the state file /run/nfagent-lab/NAME.json,
which is written last. So a lab is found and removed whole also where it is half built, or its processes were killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from nfagent.errors import HostError, UsageError
from nfagent.lab.topology import netns
from nfagent.system.interrupts import deferred_interrupts

ROOT = Path("/run/nfagent-lab")
"""The folder of all labs of this machine."""

RUNS = ("demo", "latency")
"""Tags of the commands that remove their labs themselves, unless they are killed."""

VARIABLE = "NETNS_LAB"
"""The environment variable that names the lab of a process."""

_NAME = re.compile(r"[a-z0-9]{1,20}")
_NETNS = re.compile(r"nfalab-([a-z0-9]{1,20})-")
_END_SECONDS = 10.0
_POLL_SECONDS = 0.02


class LabNode(msgspec.Struct, frozen=True):
    """A node: its network namespace, addresses, and its agent.

    folder:  below it are the agent's runtime, log and state folders
    backend: where the agent writes rules
    """

    name: str
    netns: str
    addresses: tuple[str, ...]
    folder: str
    backend: str = "nftables"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which `nfagent` commands ask this node's agent."""
        return {
            "NFAGENT_RUNTIME_DIR": f"{self.folder}/run",
            "NFAGENT_LOG_DIR": f"{self.folder}/log",
            "NFAGENT_STATE_DIR": f"{self.folder}/state",
            "NFAGENT_BACKEND": self.backend,
            "XTABLES_LOCKFILE": f"{self.folder}/xtables.lock",
        }


class LabMember(msgspec.Struct, frozen=True):
    """A Pod, as NAMESPACE/NAME, or a host outside: its network namespace, addresses, and node ('' outside)."""

    name: str
    netns: str
    addresses: tuple[str, ...]
    node: str = ""


class LabState(msgspec.Struct, frozen=True):
    """The state file of a lab. manifests: the folder that agents follow; kubeconfig: of the API server; one is ''."""

    name: str
    attachment: str
    underlay: str
    source: str
    manifests: str
    kubeconfig: str
    nodes: tuple[LabNode, ...]
    members: tuple[LabMember, ...]


class Removed(msgspec.Struct, frozen=True):
    """What `remove` has removed: numbers of processes and namespaces, and whether there were files."""

    processes: int
    namespaces: int
    files: bool

    def __bool__(self) -> bool:
        """Return whether there was anything."""
        return bool(self.processes or self.namespaces or self.files)


def check_name(name: str) -> None:
    """Check a lab's name. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a lab: write up to 20 lower-case letters and digits, like 'lab'")


def prefix(name: str) -> str:
    """Return the prefix of the names of a lab's network namespaces. Raises UsageError."""
    check_name(name)
    return f"nfalab-{name}-"


def folder_of(name: str) -> Path:
    """Return the folder of a lab's files."""
    return ROOT / name


def state_file(name: str) -> Path:
    """Return the path of a lab's state file."""
    return ROOT / f"{name}.json"


def names() -> list[str]:
    """Return the names of all labs of which anything exists, also half built ones."""
    found = {match[1] for name in netns.named("nfalab-") if (match := _NETNS.match(name))}
    with contextlib.suppress(FileNotFoundError):
        found |= {path.stem for path in ROOT.iterdir() if _NAME.fullmatch(path.stem)}
    return sorted(found | set(_processes().values()))


def read_state(name: str) -> LabState | None:
    """Return a lab's state; None where it isn't up, or half built. Raises HostError for a file that can't be read."""
    path = state_file(name)
    try:
        return msgspec.json.decode(path.read_bytes(), type=LabState)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise HostError(f"{path}: {error}", hint=f"nfagent lab down {name}") from None


def write_state(state: LabState) -> None:
    """Write a lab's state file: the lab is up."""
    path = state_file(state.name)
    beside = path.with_suffix(".new")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")
    beside.rename(path)


def claim(name: str) -> Path:
    """Make and return the folder of a new lab. Raises UsageError for one of which anything exists, HostError."""
    check_name(name)
    try:
        ROOT.mkdir(mode=0o755, exist_ok=True)
        is_new = name not in names()
        if is_new:
            folder_of(name).mkdir(mode=0o700)
    except FileExistsError:
        is_new = False  # another process was faster
    except OSError as error:
        raise HostError(f"can't make {folder_of(name)}: {error.strerror}; run it as root, with sudo") from None
    if not is_new:
        up = "is up" if state_file(name).exists() else "is half built, or being built"
        raise UsageError(f"lab {name!r} {up}: remove it by `nfagent lab down {name}`, or write another --name")
    return folder_of(name)


def processes_of(name: str) -> list[int]:
    """Return the ids of a lab's processes."""
    return [pid for pid, lab in _processes().items() if lab == name]


def ended_agents(state: LabState) -> tuple[str, ...]:
    """Return the nodes of a lab whose agent doesn't run."""
    environments = [environment for _, environment in _environments()]
    return tuple(
        node.name
        for node in state.nodes
        if not any(f"{node.folder}/".encode() in environment for environment in environments)
    )


def remove(name: str) -> Removed:
    """End a lab's processes, and remove its namespaces and files; what is gone already is no error."""
    with deferred_interrupts():
        ended = _end(name)
        spaces = netns.named(prefix(name))
        netns.remove(spaces)
        files = state_file(name).exists() or folder_of(name).exists()
        # Last: until then the lab is found by its name.
        shutil.rmtree(folder_of(name), ignore_errors=True)
        state_file(name).with_suffix(".new").unlink(missing_ok=True)
        state_file(name).unlink(missing_ok=True)
    return Removed(ended, len(spaces), files)


def sweep_killed() -> None:
    """Remove what killed runs of `demo` and `latency` have left: namespaces and folders of processes that are gone."""
    for tag in RUNS:
        netns.sweep(tag)
        for path in Path(tempfile.gettempdir()).glob(f"nfagent-{tag}-*"):
            found = re.match(rf"nfagent-{tag}-(\d+)-", path.name)
            if found and not Path("/proc", found[1]).exists():
                _remove_folder(path)


def _remove_folder(path: Path) -> None:
    # Agents end with the process that started them, and write their last files then.
    end = time.monotonic() + _END_SECONDS
    while (left := _processes_with(path)) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
    _signal(left, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)


def _processes_with(path: Path) -> list[int]:
    """Return the processes whose environment names a folder, by process id."""
    wanted = f"{path}/".encode()
    return [process for process, environment in _environments() if wanted in environment]


def scratch_prefix(tag: str) -> str:
    """Return the beginning of the name of a folder for temporary files of a run of this process."""
    return f"nfagent-{tag}-{os.getpid()}-"


def _end(name: str) -> int:
    """End a lab's processes: by SIGTERM, and those that stay by SIGKILL; return how many there were."""
    found = processes_of(name)
    _signal(found, signal.SIGTERM)
    end = time.monotonic() + _END_SECONDS
    while processes_of(name) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
    # A process may have started another one meanwhile.
    while left := processes_of(name):
        _signal(left, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    return len(found)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _processes() -> dict[int, str]:
    """Return the labs of all processes that have one, by process id."""
    wanted = f"{VARIABLE}=".encode()
    found = {}
    for process, environment in _environments():
        name = next((word for word in environment.split(b"\0") if word.startswith(wanted)), b"")
        lab = name.removeprefix(wanted).decode("ascii", "replace")
        if _NAME.fullmatch(lab):
            found[process] = lab
    return found


def _environments() -> Iterator[tuple[int, bytes]]:
    """Yield the id and environment of each process."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        # A process may end meanwhile, and another user's can't be read.
        with contextlib.suppress(OSError):
            yield int(path.parent.name), path.read_bytes()
