"""What the eBPF path needs of the machine before anything is loaded, need by need, with the command that fixes it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from nfagent.cli.check_result import Check
from nfagent.errors import HostError
from nfagent.lab.ebpf.libbpf import INSTALL_LIBBPF, libbpf

COMPILED = "NFAGENT_EBPF_OBJECT"
"""The environment variable with the path of the compiled program; without it clang compiles one at each start."""

INCLUDE = Path("/usr/include")
NEWER_KERNEL = "run a kernel of 5.11 or newer, with CONFIG_BPF_SYSCALL"

_HEADERS = INCLUDE / "bpf" / "bpf_helpers.h"
_INSTALL = "apt-get install clang libbpf-dev"
_AS_ROOT = "run it as root, with sudo"
_SCHED_CLS = 3  # linux/bpf.h, enum bpf_prog_type
_MAP_TYPES = {"hash": 1, "array": 2, "LRU hash": 9, "trie of longest prefixes": 11, "ring buffer": 27}


def tools() -> Iterator[Check]:
    """Yield the results for what compiles and loads the program; one that is compiled already needs no compiler."""
    if not os.environ.get(COMPILED):
        yield _clang()
        yield _result("libbpf's headers", str(_HEADERS) if _HEADERS.exists() else "", _INSTALL)
    try:
        libbpf()
    except HostError:
        yield Check("libbpf 1.x", "FAIL", "not found", INSTALL_LIBBPF)
    else:
        yield Check("libbpf 1.x", "ok", "found")


def requirements() -> Iterator[Check]:
    """Yield the results for all needs, in order; the kernel is asked only where the needs before it are met."""
    found = list(tools())
    yield from found
    root = os.geteuid() == 0
    yield _result("root", "root" if root else "", _AS_ROOT)
    if root and all(check.result == "ok" for check in found):
        yield from _kernel()


def lack_of(check: Check) -> str:
    """Return a failed check as a sentence."""
    return f"the eBPF path needs {check.name}: {check.fix}"


def _clang() -> Check:
    path = shutil.which("clang")
    if path is None:
        return Check("clang", "FAIL", "not found", _INSTALL)
    return Check("clang", "ok", _version(path))


@functools.lru_cache(maxsize=1)
def _version(clang: str) -> str:
    done = subprocess.run([clang, "--version"], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.partition("\n")[0] or clang


@functools.lru_cache(maxsize=1)
def _kernel() -> tuple[Check, ...]:
    """Ask the kernel for the program type and the types of maps."""
    library = libbpf()
    allowed = library.libbpf_probe_bpf_prog_type(_SCHED_CLS, None) == 1
    lacking = [name for name, number in _MAP_TYPES.items() if library.libbpf_probe_bpf_map_type(number, None) != 1]
    return (
        _result("BPF programs at tc", "supported" if allowed else "", NEWER_KERNEL),
        _result("BPF maps", "" if lacking else ", ".join(_MAP_TYPES), f"{NEWER_KERNEL}: no {', '.join(lacking)}"),
    )


def _result(name: str, found: str, fix: str) -> Check:
    return Check(name, "ok", found) if found else Check(name, "FAIL", "not found", fix)
