"""What a lab needs of the machine, checked before anything is built; each error names the command that fixes it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from nfagent.errors import HostError, KernelError, UsageError
from nfagent.lab.machine.binaries import CHECKOUT, VARIABLE, find

_MEMINFO = Path("/proc/meminfo")
_PACKAGES = {"ip": "iproute2", "nft": "nftables", "setpriv": "util-linux", "bpftool": "bpftool", "clang": "clang"}
_COMPILERS = ("gcc", "clang", "cc")
_COMPILE_SECONDS = 60


def check_root() -> None:
    """Check that the user is root. Raises HostError."""
    if os.geteuid() != 0:
        raise HostError("the lab creates network namespaces: run it as root, with sudo")


def check_programs(names: Iterable[str]) -> None:
    """Check that programs are installed. Raises HostError."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        packages = " ".join(sorted({_PACKAGES.get(name, name) for name in missing}))
        raise HostError(f"{' and '.join(missing)} missing", hint=f"apt-get install {packages}")


def check_memory(mib: int, instead: str) -> None:
    """Check how many MiB of memory are available. Raises HostError; instead: what to write to need less."""
    available = available_mib()
    if available is not None and available < mib:
        raise HostError(f"this needs about {mib:,} MiB of memory, and {available:,} MiB are available", hint=instead)


def available_mib(meminfo: str = "") -> int | None:
    """Return how many MiB of memory are available; None where that isn't known.

    meminfo: the text of /proc/meminfo; '' for this machine's
    """
    found = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo or _MEMINFO.read_text("ascii"), re.MULTILINE)
    return int(found[1]) // 1024 if found else None


def check_writable(path: Path) -> None:
    """Check that a file can be written. Raises UsageError."""
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(f"can't write {path}: write a file in a folder that exists, like -o samples.json")


def compiler() -> str:
    """Return the C compiler. Raises HostError without one."""
    found = next((name for name in _COMPILERS if shutil.which(name)), None)
    if found is None:
        raise HostError("the programs that send packets need a C compiler", hint="apt-get install gcc libc6-dev")
    return found


def compiled(source: Path, folder: Path) -> Path:
    """Compile a C program into a folder; return its path.

    Raises HostError without a compiler, KernelError with the compiler's message.
    """
    program = folder / source.stem
    command = [compiler(), "-O2", "-Wall", "-Werror", "-o", str(program), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_COMPILE_SECONDS)
    if done.returncode:
        raise KernelError(f"{command[0]} can't compile {source}: {done.stderr.strip()[:2000]}")
    return program


def check_module(name: str) -> None:
    """Check that a kernel module is loaded, built in, or can be loaded; it isn't. Raises HostError."""
    if Path("/sys/module", name).exists():
        return
    if shutil.which("modprobe") is not None:
        done = subprocess.run(
            ["modprobe", "--dry-run", name], capture_output=True, check=False, timeout=_COMPILE_SECONDS
        )
        if done.returncode == 0:
            return
    if name == "br_netfilter" and Path("/proc/sys/net/bridge").is_dir():
        return
    raise HostError(f"this kernel has no {name}", hint=f"modprobe {name}")


def check_control_plane() -> None:
    """Check that etcd and kube-apiserver are there, or Go to build them; they aren't built. Raises HostError."""
    if os.environ.get(VARIABLE):
        find()
        return
    built = all(os.access(CHECKOUT / "build" / name, os.X_OK) for name in ("etcd", "kube-apiserver"))
    if not built and shutil.which("go") is None:
        raise HostError("etcd and kube-apiserver aren't built, and Go is missing", hint="apt-get install golang")


def check_plots() -> None:
    """Check that the plotting library is installed. Raises HostError."""
    if find_spec("matplotlib") is None:
        raise HostError("matplotlib isn't installed", hint="pip install 'nfagent[report]'")


def check_compiler() -> None:
    """Check that C programs can be compiled: compiler and libc's headers are there. Raises HostError."""
    with tempfile.TemporaryDirectory(prefix="nfagent-check-") as folder:
        source = Path(folder, "check.c")
        source.write_text("#include <stdio.h>\nint main(void) { return 0; }\n", encoding="ascii")
        try:
            compiled(source, Path(folder))
        except KernelError as error:
            raise HostError(
                error.reason.replace(str(source), "a program"), hint="apt-get install gcc libc6-dev"
            ) from None
