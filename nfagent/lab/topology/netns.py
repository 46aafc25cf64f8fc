"""Network namespaces of this machine: their names, entering one, their sysctls, and removing them.

A lab's namespaces are named `nfa-TAG-PID-...`, with the id of the process that made them, so that `sweep` removes
those of dead processes only.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from nfagent.errors import HostError, KernelError, UsageError
from nfagent.lab.machine.patience import patient

RUN = Path("/run/netns")
"""The folder of iproute2's named network namespaces."""

_TAG = re.compile(r"[a-z0-9]{1,20}")
_IFREQ = struct.Struct("=16sH22x")  # struct ifreq with ifr_flags
_SIOCGIFFLAGS, _IFF_RUNNING = 0x8913, 0x40  # linux/sockios.h, linux/if.h
_LINK_SECONDS, _POLL_SECONDS = patient(10.0), 0.002

Made = TypeVar("Made")


def prefix(tag: str, pid: int) -> str:
    """Return the prefix of the names of all namespaces that a process makes with a tag.

    Raises UsageError for a tag that isn't lower-case letters and digits.
    """
    if not _TAG.fullmatch(tag):
        raise UsageError(f"{tag!r} is no tag for a lab: write up to 20 lower-case letters and digits, like 'demo'")
    return f"nfa-{tag}-{pid}-"


def named(beginning: str) -> list[str]:
    """Return the names of the network namespaces with a prefix, sorted."""
    try:
        return sorted(path.name for path in RUN.iterdir() if path.name.startswith(beginning))
    except FileNotFoundError:
        return []


def inside(netns: str, function: Callable[[], Made]) -> Made:
    """Call a function in a network namespace, in a new thread that enters it; return its result.

    Sockets that the function opens stay in that namespace; /proc/sys/net is the namespace's.
    Raises KernelError where the namespace can't be entered, and the function's own exceptions.
    """
    made: list[Made] = []
    failed: list[BaseException] = []

    def enter_and_call() -> None:
        try:
            _enter(netns)
            made.append(function())
        except BaseException as error:  # noqa: BLE001 - it is raised again, in the calling thread
            failed.append(error)

    thread = threading.Thread(target=enter_and_call, name=f"in {netns}")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def _enter(netns: str) -> None:
    from pyroute2.netns import setns  # noqa: PLC0415 - 70 ms and 8 MiB, for those only that enter a namespace

    try:
        setns(netns, flags=0)
    except FileNotFoundError:
        raise KernelError(f"network namespace {netns}: no such namespace; is the lab still up?") from None
    except OSError as error:
        raise KernelError(f"network namespace {netns}: {os.strerror(error.errno or 0)}; run it as root") from error


def write_sysctls(netns: str, values: Mapping[str, str]) -> None:
    """Write sysctls below net/ of a namespace, such as {'ipv4/ip_forward': '1'}, in the mapping's order.

    Raises HostError for one that doesn't exist in this kernel.
    """

    def write() -> None:
        for name, value in values.items():
            path = Path("/proc/sys/net", name)
            try:
                path.write_text(value, encoding="ascii")
            except FileNotFoundError:
                module = "br_netfilter" if name.startswith("bridge/") else "ipv6"
                raise HostError(f"{path} is missing: run `modprobe {module}`") from None

    inside(netns, write)


def await_links(netns: str, links: Iterable[str]) -> None:
    """Wait until links that were set up are running: before that the kernel drops packets to them.

    The kernel detects a carrier in a worker thread, later on a busy machine. Raises KernelError for a link that isn't
    running within ten seconds.
    """

    def wait() -> None:
        end = time.monotonic() + _LINK_SECONDS
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            for link in links:
                while not _runs(asked, link):
                    if time.monotonic() > end:
                        raise KernelError(f"{link} in {netns} isn't running {_LINK_SECONDS:.0f} s after it was set up")
                    time.sleep(_POLL_SECONDS)

    inside(netns, wait)


def _runs(asked: socket.socket, link: str) -> bool:
    request = _IFREQ.pack(link.encode("ascii"), 0)
    _, flags = _IFREQ.unpack(fcntl.ioctl(asked, _SIOCGIFFLAGS, request))
    return bool(flags & _IFF_RUNNING)


def ip_batch(lines: Iterable[str], netns: str = "") -> None:
    """Run many `ip` commands in one process, in a network namespace or, where `netns` is empty, in this process's own.

    Raises KernelError with the first command that failed.
    """
    wanted = list(lines)
    where = ["-n", netns] if netns else []
    done = subprocess.run(
        ["ip", *where, "-batch", "-"],
        input="\n".join(wanted) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise KernelError(_first_failure(wanted, done.stderr, netns))


def _first_failure(lines: list[str], complaint: str, netns: str) -> str:
    # iproute2's error output ends with "Command failed -:LINE".
    found = re.search(r"Command failed -:(\d+)", complaint)
    line = lines[int(found[1]) - 1] if found and int(found[1]) <= len(lines) else lines[0]
    return f"ip {'-n ' + netns + ' ' if netns else ''}{line}: {complaint.splitlines()[0] if complaint else 'failed'}"


def make(names: Iterable[str]) -> None:
    """Create network namespaces. Raises KernelError."""
    ip_batch(f"netns add {name}" for name in names)


def remove(names: Iterable[str]) -> None:
    """Remove network namespaces; one that no longer exists is no error.

    The kernel keeps a namespace, without a name, until its last process and socket are gone.
    """
    lines = "".join(f"netns del {name}\n" for name in names)
    if lines:
        # In a process group of its own, so that Ctrl-C in the terminal doesn't interrupt it.
        subprocess.run(
            ["ip", "-force", "-batch", "-"], input=lines, capture_output=True, text=True, check=False, process_group=0
        )


def sweep(tag: str) -> list[str]:
    """Remove the namespaces of a tag whose processes have ended; return their names."""
    beginning = prefix(tag, 0).removesuffix("0-")
    pattern = re.compile(re.escape(beginning) + r"(\d+)-")
    dead = [name for name in named(beginning) if (found := pattern.match(name)) and not _lives(int(found[1]))]
    remove(dead)
    return dead


def _lives(pid: int) -> bool:
    return Path("/proc", str(pid)).exists()
