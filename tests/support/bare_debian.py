"""A bare Debian without network: a root that debootstrap made, in namespaces of its own, which a test makes and ends.

Processes of it stay between two commands; all of them end with the first one, and the mounts with them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from tests.support.debootstrap import debootstrap

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "build" / "packages"
SECONDS = 600.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The first process: it mounts, changes into the root for good, says so, and waits to be ended.
_FIRST = """
set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t sysfs sysfs "$1/sys"
mount -t tmpfs tmpfs "$1/run"
mkdir "$1/host"
cd "$1"
pivot_root . host
umount --lazy /host
rmdir /host
echo ready
# Not exec: a shell reaps the processes whose parents have ended.
sleep infinity &
wait
"""


def bare_system(release: str) -> Path:
    """Return the tar file of a bare Debian, which debootstrap makes once; skip the test where it can't be had."""
    archive = FOLDER / f"{release}.tar"
    if archive.exists():
        return archive
    making = debootstrap(release, FOLDER / release, SECONDS)
    try:
        # What apt fetched is no part of a bare system.
        for used in (*making.glob("var/cache/apt/archives/*.deb"), *making.glob("var/lib/apt/lists/*_*")):
            used.unlink()
        new = archive.with_suffix(f".{uuid4().hex[:8]}")
        subprocess.run(
            ["tar", f"--directory={making}", "--one-file-system", f"--file={new}", "--create", "."], check=True
        )
        new.rename(archive)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return archive


class BareDebian:
    """A system in namespaces of mounts, processes and network; a context manager that starts and ends it."""

    def __init__(self, release: str, folder: Path) -> None:
        """Set the release of Debian, and the folder that becomes its root."""
        self.release = release
        self.root = folder
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Unpack the system, and start its first process."""
        self.root.mkdir()
        subprocess.run(
            ["tar", f"--directory={self.root}", f"--file={bare_system(self.release)}", "--extract"], check=True
        )
        unshare = ("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child")
        self._process = subprocess.Popen(
            [*unshare, "bash", "-c", _FIRST, "bash", str(self.root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": _PATH},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.run("ip link set lo up 2>/dev/null || true")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all its processes, and remove its files."""
        assert self._process is not None
        # The first process of the namespace: the kernel ends all others before it lets unshare know.
        os.kill(self._first(), 9)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        shutil.rmtree(self.root)

    def run(self, line: str, *, codes: tuple[int, ...] = (0,)) -> str:
        """Run a shell line in it as root; return its stdout and stderr. Fails for another exit code."""
        done = subprocess.run(
            self.command(line),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode in codes, f"{self.release}: {line}: exit code {done.returncode}: {done.stdout[-3000:]}"
        return done.stdout

    def command(self, line: str) -> list[str]:
        """Return the command that runs a shell line in it as root."""
        inside = ["env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8", "sh", "-c", line]
        return ["nsenter", f"--target={self._first()}", "--all", "--root", "--wdns=/", *inside]

    def _first(self) -> int:
        assert self._process is not None
        return int(Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()[0])

    def wait_until(self, line: str, seconds: float = 120) -> None:
        """Wait until a shell line succeeds."""
        end = time.monotonic() + seconds
        while True:
            done = subprocess.run(self.command(line), capture_output=True, text=True, check=False, timeout=seconds)
            if done.returncode == 0:
                return
            assert time.monotonic() < end, f"{self.release}: never: {line}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
            time.sleep(0.1)

    def exists(self, path: str) -> bool:
        """Return whether there is a file, a folder or a link."""
        return os.path.lexists(self.root / path.lstrip("/"))

    def copy(self, source: Path, target: str) -> None:
        """Copy a file or a folder of this machine into it."""
        subprocess.run(["cp", "--recursive", str(source), f"{self.root}{shlex.quote(target)}"], check=True)
