"""One agent a table: the claim is a name that the kernel gives to one process of a network namespace.

An abstract unix address belongs to a network namespace, as the table does, and is gone with the process
that holds it, however that ends: no file to clean up, none to go stale.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from pathlib import Path

from nfagent.errors import MachineError
from nfagent.ruleset.objects import TABLE, TABLE_FAMILY

_NAME = f"nfagent/{TABLE_FAMILY}/{TABLE}"
_PROC = Path("/proc")


def claim_table() -> socket.socket:
    """Claim the table until the socket is closed. Raises MachineError where another agent has it."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        opened.bind(f"\0{_NAME}")
    except OSError as error:
        opened.close()
        if error.errno != errno.EADDRINUSE:
            raise MachineError(f"table {TABLE_FAMILY} {TABLE} can't be claimed: {error}") from None
        process = holder()
        who = f"process {process}" if process else "another process"
        raise MachineError(
            f"another agent keeps table {TABLE_FAMILY} {TABLE} in this network namespace: {who}; "
            f"stop it (systemctl stop nfagent{f', or kill {process}' if process else ''}), then start again"
        ) from None
    return opened


def holder() -> int | None:
    """Give the process that keeps the table of this network namespace; None where nobody is seen to.

    Nothing is asked of the holder itself: a connection that it never takes would stay in its queue, which ends.
    """
    inode = _claimed()
    return None if inode is None else _process_with(Path(f"socket:[{inode}]"))


def _claimed() -> str | None:
    # proc(5): Num RefCount Protocol Flags Type St Inode Path, and '@' for the NUL of an abstract address.
    # Of the thread, not of the process: a thread may be in a network namespace of its own.
    listed = (_PROC / "thread-self" / "net" / "unix").read_text(encoding="utf-8", errors="replace")
    for line in listed.splitlines():
        fields = line.split(maxsplit=7)
        if fields[7:] == [f"@{_NAME}"]:
            return fields[6]
    return None


def _process_with(link: Path) -> int | None:
    for folder in _PROC.glob("[0-9]*/fd"):
        # A process that ended meanwhile, or that isn't ours to look into.
        with suppress(OSError):
            if any(_links_to(entry, link) for entry in folder.iterdir()):
                return int(folder.parent.name)
    return None


def _links_to(entry: Path, link: Path) -> bool:
    with suppress(OSError):
        return entry.readlink() == link
    return False
