"""The verdict log in the systemd journal: an entry with fields for each record, by its native protocol."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from nfagent.errors import DecodeError
from nfagent.verdicts.journal_entry import encode_entry, record_fields
from nfagent.verdicts.log_sink import ErrorCounts
from nfagent.verdicts.records import decode

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_TOO_LARGE = frozenset({errno.EMSGSIZE, errno.ENOBUFS})


class JournalSink(ErrorCounts):
    """Sends records to journald's socket; each datagram is one entry, so none is cut short."""

    label = "verdict log in journald"
    target = "systemd-journald"

    def __init__(self, address: Path = JOURNAL_SOCKET) -> None:
        """Keep the address; the socket is opened by the first `write`."""
        super().__init__()
        self._address = str(address)
        self._socket: socket.socket | None = None

    def write(self, lines: Sequence[bytes]) -> None:
        """Send lines of records; blocks while journald's queue is full."""
        failed: OSError | None = None
        for line in lines:
            try:
                self._send(_entry(line))
            except OSError as error:
                self._failed(error, 1)
                failed = error
        if failed is None:
            self._problem = ""
        else:
            self.errors += 1

    def check(self) -> None:
        """Check whether journald listens: connecting sends nothing."""
        try:
            with _unix_socket() as opened:
                opened.connect(self._address)
        except OSError as error:
            self._problem = f"{error}: {self._address}"
        else:
            self._problem = ""

    def reopen(self) -> None:
        """Open another socket with the next entry."""
        self.close()

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, entry: bytes) -> None:
        if self._socket is None:
            self._socket = _unix_socket()
        try:
            # By its path each time: a journald that was started anew may have another socket.
            self._socket.sendto(entry, self._address)
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
            _send_sealed(self._socket, entry, self._address)


def _unix_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _send_sealed(opened: socket.socket, entry: bytes, address: str) -> None:
    """Send an entry that no datagram holds: journald reads it from a sealed memory file."""
    descriptor = os.memfd_create("nfagent-record", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        left = memoryview(entry)
        while left:
            left = left[os.write(descriptor, left) :]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
        opened.sendmsg([b""], [rights], 0, address)
    finally:
        os.close(descriptor)


def _entry(line: bytes) -> bytes:
    try:
        return encode_entry(record_fields(decode(line), line))
    except DecodeError:
        # Every line is a record's; one that can't be read is sent rather than lost.
        return encode_entry([("MESSAGE", line.decode(errors="backslashreplace").rstrip("\n"))])
