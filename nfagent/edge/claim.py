"""One agent a table: the claim is a name that the kernel gives to one process of a network namespace.

An abstract unix address belongs to a network namespace, as the table does, and is gone with the process
that holds it, however that ends: no file to clean up, none to go stale.
"""

from __future__ import annotations

import errno
import socket
import struct

from nfagent.errors import EnvironmentError_
from nfagent.ruleset.objects import TABLE, TABLE_FAMILY

_ADDRESS = f"\0nfagent/{TABLE_FAMILY}/{TABLE}"
_CREDENTIALS = struct.Struct("3i")


def claim_table() -> socket.socket:
    """Claim the table until the socket is closed. Raises EnvironmentError_ where another agent has it."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        opened.bind(_ADDRESS)
    except OSError as error:
        opened.close()
        if error.errno != errno.EADDRINUSE:
            raise EnvironmentError_(f"table {TABLE_FAMILY} {TABLE} can't be claimed: {error}") from None
        process = holder()
        who = f"process {process}" if process else "another process"
        raise EnvironmentError_(
            f"another agent keeps table {TABLE_FAMILY} {TABLE} in this network namespace: {who}; "
            f"stop it (systemctl stop nfagent{f', or kill {process}' if process else ''}), then start again"
        ) from None
    opened.listen(8)
    return opened


def holder() -> int | None:
    """Give the process that keeps the table of this network namespace; None where nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as opened:
        opened.settimeout(1)
        try:
            opened.connect(_ADDRESS)
            credentials = opened.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return None
    process, _, _ = _CREDENTIALS.unpack(credentials)
    return process or None
