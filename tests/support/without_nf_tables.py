"""Makes processes see a kernel without nf_tables, by a library that they load first."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")
_NETLINK_NETFILTER = 12
_HEADER = struct.Struct("=IHHII")
_SUBSYSTEMS = (12, 5, 9, 8, 7)
"""Of nfnetlink.h: hooks, osf, cthelper, cttimeout, acct."""


def environment_without_nf_tables(folder: Path) -> dict[str, str]:
    """Compile the library into a folder, and return the environment with it. Raises CalledProcessError, LookupError."""
    library = folder / "without_nf_tables.so"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", str(library), str(_SOURCE), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SUBSYSTEM": str(_lacked())}


def _lacked() -> int:
    """Return a subsystem of nfnetlink that this kernel lacks."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as opened:
        opened.settimeout(10)
        for subsystem in _SUBSYSTEMS:
            # A command that no subsystem has: one that is there refuses it, too, but with another error or none at all.
            opened.send(_HEADER.pack(_HEADER.size + 4, subsystem << 8, 1 | 4, subsystem, 0) + bytes(4))
            number = -struct.unpack_from("=i", opened.recv(4096), _HEADER.size)[0]
            if number == errno.EINVAL:
                return subsystem
    raise LookupError("this kernel has all subsystems of nfnetlink")
