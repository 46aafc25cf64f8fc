"""Lists other programs' tables in a process of its own, which is what a rule ends that libnftables can't list.

See `nft_program.py` for such rules. Of others' tables single chains are listed, hundreds of them: one process for all
of them costs 40 ms of CPU, and 0.4 ms for each chain; a run of `nft` for each, 2.6 ms. Blocking. The network namespace
is that of the calling thread.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path

from nfagent.errors import HostError, KernelError
from nfagent.kernel.nft_child import REPLY
from nfagent.kernel.nft_listing import INSTALL_HINT
from nfagent.kernel.nft_program import SECONDS
from nfagent.kernel.nft_reply import ended, listed

_CHILD = Path(__file__).with_name("nft_child.py")
_CHUNK = 1 << 16
_MOST_SAID = 4096


class _Child:
    """A running process, with the socket that is its stdin and stdout, and the file that is its stderr."""

    def __init__(self) -> None:
        """Start it. Raises KernelError."""
        command = [sys.executable, "-I", str(_CHILD)]
        with ExitStack() as opened:
            try:
                ours, theirs = map(opened.enter_context, socket.socketpair())
                said = opened.enter_context(os.fdopen(os.memfd_create("nft"), "rb"))
                end = theirs.fileno()
                self.process = subprocess.Popen(  # noqa: S603 - our own program
                    command, stdin=end, stdout=end, stderr=said.fileno(), process_group=0
                )
            except OSError as error:
                raise KernelError(f"no process can be started to list tables: {error.strerror}") from None
            theirs.close()
            self._opened = opened.pop_all()
        self.socket, self._stderr = ours, said.fileno()

    def ended(self, command: str) -> KernelError:
        """Wait for its end, and return the error of the command that it didn't reply to."""
        return ended(command, self.process.wait(), os.pread(self._stderr, _MOST_SAID, 0))

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._opened.close()


class ListingProcess:
    """A process that lists; started by the first command, and by the first one after a crash.

    It is ended by `close`.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        """Start nothing yet. Raises HostError without libnftables.

        seconds: for each command
        """
        if find_spec("nftables") is None:
            raise HostError("python3-nftables is missing", hint=INSTALL_HINT)
        self._seconds = seconds
        self._child: _Child | None = None

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def listed(self, command: str, *, as_text: bool = False) -> str | None:
        """Return the reply to a list command, None where its object doesn't exist.

        as_text: as text with handles, not as JSON
        Raises UnlistableError, KernelError, HostError.
        """
        shown = f"nft {'--handle' if as_text else '--json'} {command}"
        deadline = time.monotonic() + self._seconds
        child = self._child = self._child or _Child()
        try:
            with suppress(ConnectionError):  # it has ended: reading says how
                child.socket.sendall(f"{'t' if as_text else 'j'}{command}\n".encode())
            status, output, refusal = REPLY.unpack(_read(child, REPLY.size, shown, deadline))
            parts = _read(child, output, shown, deadline), _read(child, refusal, shown, deadline)
        except TimeoutError:
            self.close()
            raise KernelError(f"`{shown}` has not ended after {self._seconds:g} s") from None
        except OSError as error:
            self.close()
            raise KernelError(f"`{shown}` can't be asked for: {error.strerror}") from None
        except KernelError:
            self.close()
            raise
        return listed(status, *parts)


def _read(child: _Child, size: int, command: str, deadline: float) -> bytes:
    """Return so many bytes. Raises TimeoutError; KernelError where the process has ended."""
    found = bytearray()
    while len(found) < size:
        child.socket.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            part = child.socket.recv(min(size - len(found), _CHUNK))
        except ConnectionResetError:
            part = b""
        if not part:
            raise child.ended(command)
        found += part
    return bytes(found)
