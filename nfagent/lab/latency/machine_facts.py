"""What a measurement ran on: the machine, and the versions of what took part."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from nfagent import __version__
from nfagent.lab.latency.samples import Machine

_SECONDS = 10
_VERSION = re.compile(r"\d+(?:\.\d+)+")
_COMMANDS = {
    "nft": ["nft", "--version"],
    "clang": ["clang", "--version"],
    "libbpf": ["bpftool", "version"],
}


def machine() -> Machine:
    """Return this machine's facts; what isn't known is ''."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", _text("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    system = re.search(r'^PRETTY_NAME="?([^"\n]*)', _text("/etc/os-release"), re.MULTILINE)
    return Machine(
        cpu=cpu[1] if cpu else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=int(memory[1]) * 1024 if memory else 0,
        kernel=f"{platform.release()} {platform.version()}",
        os=system[1] if system else "",
        virtualization=_output(["systemd-detect-virt"]).strip(),
    )


def versions() -> dict[str, str]:
    """Return the versions of nfagent, Python, nft, clang and libbpf; what isn't installed is left out."""
    found = {"nfagent": __version__, "python": platform.python_version()}
    for name, command in _COMMANDS.items():
        said = _output(command)
        # bpftool names its own version first, and libbpf's after it.
        numbers = _VERSION.findall(said.partition("libbpf")[2] if name == "libbpf" else said)
        if numbers:
            found[name] = numbers[0]
    return found


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def _output(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS).stdout
    return ""
