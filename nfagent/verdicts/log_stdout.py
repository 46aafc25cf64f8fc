"""The verdict log on standard output, for containers whose runtime ships what they print."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Sequence

from nfagent.verdicts.log_sink import ErrorCounts

_STDOUT = 1


class StdoutSink(ErrorCounts):
    """Writes lines to a descriptor."""

    label = "verdict log on stdout"
    target = "the reader of stdout"

    def __init__(self, descriptor: int = _STDOUT) -> None:
        """Keep the descriptor, which stays open."""
        super().__init__()
        self._descriptor = descriptor
        self._cut_short = False  # the last line has no newline yet

    def write(self, lines: Sequence[bytes]) -> None:
        """Write lines; blocks while nothing reads a full pipe."""
        content = (b"\n" if self._cut_short else b"") + b"".join(lines)
        left = memoryview(content)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another process may have set O_NONBLOCK on the shared descriptor
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.errors += 1
                self._failed(error, bytes(left).count(b"\n") - (self._cut_short and len(left) == len(content)))
                break
        else:
            self._problem = ""
        written = len(content) - len(left)
        if written:
            self._cut_short = content[written - 1 : written] != b"\n"

    def check(self) -> None:
        """Check whether the descriptor is open, and a pipe has a reader; a disk behind it isn't checked."""
        try:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            found = dict(poll.poll(0)).get(self._descriptor, 0)
        except OSError as error:
            self._problem = str(error)
            return
        if found & select.POLLNVAL:
            self._problem = str(OSError(errno.EBADF, os.strerror(errno.EBADF)))
        elif found & (select.POLLERR | select.POLLHUP):
            self._problem = str(OSError(errno.EPIPE, os.strerror(errno.EPIPE)))

    def reopen(self) -> None:
        """Do nothing: the program that started the agent opened the descriptor."""

    def close(self) -> None:
        """Do nothing: other parts of the process may use the descriptor."""
