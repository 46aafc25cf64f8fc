"""A Debian that systemd-nspawn boots: a systemd as process 1, in namespaces of its own, which a test makes and ends.

The machine's files are an overlay on `build/nspawn-debian-12`, in memory; this checkout is mounted in it, read-only, at
the path that it has here. `make systemd-test` makes the folder by debootstrap.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import pytest

from tests.support.debootstrap import debootstrap

CHECKOUT = Path(__file__).parents[2]
_FOLDER = CHECKOUT / "build"
_MACHINE_PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-nftables,nftables,iptables,iproute2,kmod"
DEADLINE = 60.0
_BUILD_SECONDS = 3000.0
_POLL_SECONDS = 0.05
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OWN = ("--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wdns=/")


def debian_12() -> Path:
    """Return the folder of the machine's system; skip the test where it can't be had here."""
    if shutil.which("systemd-nspawn") is None:
        pytest.skip("systemd-nspawn is missing; run: apt-get install systemd-container")
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the machine has Debian 12's Python 3.11, which can't run the packages of this one's")
    return _system("nspawn-debian-12", "bookworm", _MACHINE_PACKAGES)


def debian_13() -> Path:
    """Return a folder with Debian 13's systemd-analyze; skip the test where it can't be had here."""
    return _system("nspawn-debian-13", "trixie", "systemd")


def _system(name: str, release: str, packages: str) -> Path:
    """Return a folder of build/, made where NFAGENT_NSPAWN=build says so; skip the test where it isn't there."""
    folder = _FOLDER / name
    if folder.exists():
        return folder
    if os.environ.get("NFAGENT_NSPAWN") != "build":
        pytest.skip(f"there is no build/{name}; make it with: make systemd-test")
    debootstrap(release, folder, _BUILD_SECONDS, packages).rename(folder)
    return folder


class NspawnMachine:
    """A booted machine with no interface but lo; a context manager that boots and ends it.

    leader: the id, outside, of its process 1
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        """Set the folder of its system, and one for the output of its console."""
        self.leader = 0
        self.name = f"nfagent-nspawn-{uuid4().hex[:8]}"
        self._root = root
        self._console = scratch / "console"
        self._groups: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Boot it, and return when it has started its services."""
        command = [
            *("systemd-nspawn", "--quiet", f"--directory={self._root}", "--volatile=overlay", "--boot"),
            *("--register=no", "--private-network", f"--machine={self.name}", "--console=pipe", "--link-journal=no"),
            f"--bind-ro={CHECKOUT}",
        ]
        if not Path("/run/systemd/system").exists():
            # Without a systemd here it has no control group of its own.
            self._groups = [group / self.name for group in _hierarchies()]
            for group in self._groups:
                group.mkdir()
            command.append("--keep-unit")
        joining = "".join(f"echo $$ >{shlex.quote(str(group))}/cgroup.procs; " for group in self._groups)
        try:
            with self._console.open("wb") as console:
                self._process = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", "sh", "-c", f"{joining}exec {shlex.join(command)}"],
                    env={"PATH": _PATH, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"},
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                )
            self._await_leader()
            self.wait_until("systemctl is-system-running --wait | grep -qE 'running|degraded'")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all of its processes at once."""
        self._end()

    def run(self, line: str, *, codes: Sequence[int] = (0,), stdin: str = "") -> str:
        """Run a shell line in it as root; return its output. Fails for an exit code that isn't in `codes`."""
        done = subprocess.run(
            self.command(line), input=stdin, capture_output=True, text=True, check=False, timeout=2 * DEADLINE
        )
        assert done.returncode in codes, f"{line}: exit code {done.returncode}: {done.stdout[-3000:]} {done.stderr}"
        return done.stdout

    def command(self, line: str) -> list[str]:
        """Return the command that runs a shell line in it as root."""
        inside = ["env", "-i", f"PATH={_PATH}", "PYTHONDONTWRITEBYTECODE=1", "bash", "-c", line]
        return ["nsenter", f"--target={self.leader}", *_OWN, *inside]

    def json(self, line: str, *, codes: Sequence[int] = (0,)) -> Any:  # noqa: ANN401 - as json.loads
        """Run a shell line that prints JSON."""
        return json.loads(self.run(line, codes=codes))

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file in it, and the folders above it."""
        self.run(f"install -D -m {mode} /dev/stdin {path}", stdin=text)

    def wait_until(self, line: str, seconds: float = DEADLINE) -> None:
        """Wait until a shell line succeeds."""
        end = time.monotonic() + seconds
        while True:
            done = subprocess.run(self.command(line), capture_output=True, text=True, check=False, timeout=seconds)
            if done.returncode == 0:
                return
            assert time.monotonic() < end, f"never: {line}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
            time.sleep(_POLL_SECONDS)

    def _await_leader(self) -> None:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        end = time.monotonic() + DEADLINE
        while not self.leader:
            assert self._process.poll() is None, self._console.read_text("utf-8", "replace")
            assert time.monotonic() < end, "systemd-nspawn starts no process"
            for child in children.read_text().split():
                with suppress(OSError):
                    # Its first child only sets up the mounts.
                    if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                        self.leader = int(child)
            time.sleep(_POLL_SECONDS)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if self.leader:
                with suppress(ProcessLookupError):
                    os.kill(self.leader, 9)  # the first of its PID namespace: the kernel ends all others with it
            else:
                process.terminate()
            process.wait(DEADLINE)
        for group in self._groups:
            _remove(group)
        self._groups = []


def _hierarchies() -> Iterator[Path]:
    """Yield the mounts of control groups in which systemd-nspawn makes some."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            yield Path(target)


def _remove(group: Path) -> None:
    """Remove a control group and those in it, as soon as the kernel has let go of their last process."""
    end = time.monotonic() + DEADLINE
    while group.exists():
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
        assert time.monotonic() < end, f"processes stay in {group}"
