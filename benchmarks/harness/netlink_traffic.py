"""Counts what a process sends to the kernel and reads back by netlink, with strace attached: not while timing."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from nfagent.errors import HostError

_SENDING, _READING = ("sendmsg", "sendto"), ("recvmsg", "recvfrom")
_CALL = re.compile(r"^(?:\d+ +)?(?P<call>\w+)\(\d+<NETLINK:.*\) = (?P<bytes>\d+)$")
_RESUMED = re.compile(r"^(?P<pid>\d+) +<\.\.\. (?P<call>\w+) resumed>.*\) = (?P<bytes>\d+)$")
_UNFINISHED = re.compile(r"^(?P<pid>\d+) +(?P<call>\w+)\(\d+<NETLINK:.*<unfinished \.\.\.>$")


class NetlinkTraffic(msgspec.Struct):
    """System calls and bytes; bytes that were read with MSG_PEEK count too."""

    sent_calls: int = 0
    sent_bytes: int = 0
    read_calls: int = 0
    read_bytes: int = 0

    def add(self, call: str, size: int) -> None:
        """Count one system call."""
        if call in _SENDING:
            self.sent_calls, self.sent_bytes = self.sent_calls + 1, self.sent_bytes + size
        elif call in _READING:
            self.read_calls, self.read_bytes = self.read_calls + 1, self.read_bytes + size


def can_trace() -> bool:
    """Return whether strace is installed."""
    return shutil.which("strace") is not None


@contextmanager
def netlink_traffic(pid: int) -> Iterator[NetlinkTraffic]:
    """Attach strace to a process and its children; yield the counts, which are filled when the block ends.

    Raises HostError where strace can't attach.
    """
    found = NetlinkTraffic()
    with tempfile.TemporaryDirectory(prefix="nfagent-strace-") as folder:
        written = Path(folder, "calls")
        calls = ",".join((*_SENDING, *_READING))
        command = ["strace", "-f", "-yy", "-s", "0", "-e", f"trace={calls}", "-o", str(written), "-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:  # noqa: S603 - a tool on PATH
            try:
                # Its first line says that it is attached.
                if tracer.stderr is None or "attached" not in tracer.stderr.readline():
                    raise HostError(f"strace can't attach to process {pid}")
                yield found
            finally:
                tracer.send_signal(signal.SIGINT)
                tracer.communicate()
        for call, size in netlink_calls(written.read_text("utf-8", "replace").splitlines()):
            found.add(call, size)


def netlink_calls(lines: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield the system calls on netlink sockets that succeeded, and their bytes, from strace's output with -f -yy."""
    waiting: set[tuple[str, str]] = set()
    for line in lines:
        if (found := _CALL.match(line)) is not None:
            yield found["call"], int(found["bytes"])
        elif (found := _UNFINISHED.match(line)) is not None:
            waiting.add((found["pid"], found["call"]))
        elif (found := _RESUMED.match(line)) is not None and (found["pid"], found["call"]) in waiting:
            waiting.discard((found["pid"], found["call"]))
            yield found["call"], int(found["bytes"])
